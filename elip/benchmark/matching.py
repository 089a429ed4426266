"""Re-ranking of retrieval, as an evaluation does it, to be timed: pairs of made-up images and texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from elip.benchmark.step import allocated_bytes, peak_bytes
from elip.config.schema import RunConfig
from elip.engine.evaluator import RankEvaluator
from elip.engine.runtime import Run
from elip.errors import ConfigError
from elip.execution import PRECISIONS
from elip.registry import TASKS
from elip.rng import seed_everything
from elip.task import Batch
from elip.task.alignment import AlignmentTask
from elip.task.preflight import without_weights
from elip.task.recall import score_retrieval

IMAGES = 2
"""Images that are matched with texts; more would take longer, and no more a pair."""


class Reranking:
    """The matching of images, each with so many texts of full length: a call takes them all.

    It is the last pass of an evaluation of retrieval, with encoded images and texts at hand: the engine's own, in the
    run's precision, images encoded without a text. Weights are random.

    Args:
        config: of a run whose task is checked by retrieval.
        texts: that an image meets.
        device: to run on.

    Raises:
        ConfigError: the task has no re-ranking.

    Attributes:
        pairs: that are matched.
    """

    def __init__(self, config: RunConfig, texts: int, device: torch.device) -> None:
        length = getattr(config.task, "eval_text_length", None)
        if length is None or not issubclass(TASKS.get(config.task.name), AlignmentTask):
            raise ConfigError(
                f"task.name: {config.task.name} has no re-ranking to time, as pretrain and retrieval have."
            )
        self._allocated, self._device = allocated_bytes(device), device
        seed_everything(config.train.seed)
        task = cast(AlignmentTask[Any], TASKS.build(config.task.name, without_weights(config)))
        task = task.to(device).eval()
        made_up = task.example_texts(texts, task.fitting(length))
        evaluator = _Remembering(Run(device, Path(), PRECISIONS[config.train.precision]), IMAGES, num_workers=0)
        score_retrieval(
            task.model.albef,
            task.model.matching_logits,
            list(task.example_images(IMAGES)),  # type: ignore[arg-type]  # a list is all that a data set has to be
            _collate,
            made_up["ids"],
            made_up["mask"],
            min(IMAGES, texts),  # all images for each text, or the one text for all: so all pairs are matched
            evaluator,
        )
        self._rerank = evaluator.last
        self.pairs = IMAGES * texts

    def __call__(self) -> dict[str, Any]:
        return self._rerank()

    def peak_bytes(self) -> int | None:
        """Return the most memory that it takes on a CUDA device, the model's included; None elsewhere."""
        return peak_bytes(self, self._device, self._allocated)


def _collate(images: list[Tensor]) -> Batch:
    return {"image": torch.stack(images)}


class _Remembering(RankEvaluator):
    """Keeps the last pass, for it to be run again."""

    last: Callable[[], dict[str, Any]]

    def map(self, *args: Any, **options: Any) -> dict[str, Any]:
        run = super().map
        self.last = lambda: run(*args, **options)
        return self.last()
