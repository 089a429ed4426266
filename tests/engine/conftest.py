"""Runs of the stub task, and what they leave behind."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elip.config.schema import RunConfig
from elip.engine.runtime import start_run
from elip.engine.trainer import Trainer
from tests.engine.stub import StubTask

TIMES = ("images_per_second", "seconds", "memory_process_peak_mib")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(
    config: RunConfig,
    resume: bool | Path = False,
    before_step: Callable[[int], None] | None = None,
    prepare: Callable[[StubTask], object] = lambda task: None,
    weights: Mapping[str, Tensor] | None = None,
    kind: type[StubTask] = StubTask,
    **task: Any,
) -> tuple[StubTask, dict[str, Any]]:
    """Return the stub task and what `fit` said, after a run of its own.

    Args:
        before_step: called before each step with the number of steps done.
        prepare: called with the task once it is built.
        weights: to start from.
        task: arguments of the stub.
    """
    with start_run(config, exclusive=True) as run:
        stub = kind(config, **task)
        if weights is not None:
            stub.load_state_dict(weights)
        if before_step is not None:
            stub.before_step = before_step
        prepare(stub)
        return stub, Trainer(stub, config, run).fit(resume)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a run's log without those that tell time or memory."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in entries]


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """Parameters and buffers agree bit for bit."""
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def assert_close(module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Parameters and buffers agree but for the order of summation."""
    for key, value in module.state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-6, msg=key)
