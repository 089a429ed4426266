"""A plain ViT under token reducers, timed in turn with the same ViT without one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from elip.efficiency.costed import BASELINE, PlainVit
from elip.efficiency.report import Table, label
from elip.efficiency.resources import Timing, machine, time_in_turn
from elip.efficiency.vision_cost import Classifier
from elip.execution import PRECISIONS


@dataclass(frozen=True)
class Pass:
    """What is timed of a ViT.

    Args:
        train: forward and backward pass, not the forward pass alone.
        batch: images in a batch.
        precision: as in `train.precision`.
        device: to run on.
    """

    train: bool
    batch: int
    precision: str
    device: torch.device

    def __str__(self) -> str:
        return "forward and backward" if self.train else "forward"


def compare_reducers(vit: PlainVit, reducers: Sequence[str], what: Pass, rounds: int) -> list[dict[str, Any]]:
    """Return name, time and cost of the baseline and of each reducer asked for."""
    configs = [vit.parse(reducer) for reducer in (BASELINE, *reducers)]
    costs = [vit.cost(reducer, images=None) for reducer in configs]
    macs = [cost.forward_backward if what.train else cost.total for cost in costs]
    models = [Classifier(*vit.encoder_with(reducer)).to(what.device) for reducer in configs]
    steps = [_step(model.train(what.train), what) for model in models]
    timings: list[Timing] = time_in_turn(steps, what.device, rounds)
    return [
        {
            "reducer": label(reducer),
            "milliseconds_per_image": 1e3 * timing.median_seconds / what.batch,
            "time_ratio": timing.ratio,
            "time_ratio_range": [min(timing.ratios), max(timing.ratios)],
            "macs_ratio": mine / macs[0],
            "machine": machine(what.device),
        }
        for reducer, timing, mine in zip(configs, timings, macs, strict=True)
    ]


def _step(model: Classifier, what: Pass) -> Callable[[], None]:
    """Return a function that runs the model once, on the same made-up images each time."""
    inputs = tuple(torch.cat([tensor] * what.batch).to(what.device) for tensor in model.example())
    dtype = PRECISIONS[what.precision]

    def step() -> None:
        model.zero_grad(set_to_none=True)
        autocast = torch.autocast(what.device.type, dtype, enabled=dtype is not torch.float32)
        with torch.set_grad_enabled(what.train), autocast:
            if what.train:
                model.loss(*inputs).backward()
            else:
                model(*inputs)

    return step


def reducer_table(records: Sequence[dict[str, Any]], what: Pass, rounds: int) -> Table:
    """Return the table of `compare_reducers`."""
    title = f"Time of {what}, batch {what.batch}, median of {rounds} rounds; {records[0]['machine']}"
    rows = [
        [
            record["reducer"],
            f"{record['milliseconds_per_image']:.2f}",
            f"{record['time_ratio']:.2f}",
            "{:.2f} to {:.2f}".format(*record["time_ratio_range"]),
            f"{record['macs_ratio']:.2f}",
        ]
        for record in records
    ]
    return Table(title, ["reducer", "ms an image", "time ratio", "of all rounds", f"MACs ratio of {what}"], rows)
