"""An evaluator of one process, for tests that need no engine."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch.utils.data import Dataset


class OneProcess:
    """Maps in batches of two, so that joining them is part of the test."""

    def map(self, dataset: Dataset, step: Callable, collate: Callable, *_: Any, **__: Any) -> dict[str, Any]:
        items = [dataset[i] for i in range(len(dataset))]
        outputs = [step(collate(items[i : i + 2])) for i in range(0, len(items), 2)]
        return {key: _join([output[key] for output in outputs]) for key in outputs[0]}

    def shard(self, length: int) -> range:
        return range(length)


def _join(parts: list[Any]) -> Any:
    return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else list(chain.from_iterable(parts))
