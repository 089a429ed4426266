"""What several runs take, timed in turn in one process, and as a ratio to the first: plain values, and tables."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from elip.benchmark.loading import Reader
from elip.benchmark.matching import Reranking
from elip.benchmark.step import TrainingStep
from elip.config.schema import RunConfig
from elip.efficiency.report import Table
from elip.efficiency.resources import Timing, machine, time_in_turn
from elip.efficiency.task_cost import train_step_macs
from elip.engine.runtime import device_of
from elip.errors import ConfigError

Record = dict[str, Any]
"""What is known of one of those compared, in plain values."""
WARMUP = 2
Cell = tuple[str, Callable[[Record], str]]


@dataclass(frozen=True)
class Compared:
    """One of several runs that are compared.

    Args:
        name: in tables.
        config: of the run.
    """

    name: str
    config: RunConfig


def compare_steps(runs: Sequence[Compared], rounds: int, memory: bool = False) -> list[Record]:
    """Return how long a training step of each run takes.

    Args:
        runs: on one device; the first is what the others are compared with.
        rounds: how often each is timed.
        memory: measure what a step keeps and, on CUDA, allocates, too.

    Raises:
        ElipError: of one that cannot be built, or they are on several devices.
    """
    device = one_device(runs)
    steps, records = [], []
    for run in runs:
        step = TrainingStep(run.config, device)
        # before the next one is made: so the device's peak is that of this one
        kept = {"saved_bytes": step.saved_bytes(), "peak_cuda_bytes": step.peak_bytes()} if memory else {}
        steps.append(step)
        records.append(_named(run, device) | {"items": step.items, "macs_per_image": train_step_macs(step.task)} | kept)
    timings = time_in_turn(steps, device, rounds, WARMUP)
    for record, step, run, timing in zip(records, steps, runs, timings, strict=True):
        record |= _per_item(timing, step.items, steps[0].items)
        record["macs_ratio"] = record["macs_per_image"] / records[0]["macs_per_image"]
        if memory:
            per_image = [one["saved_bytes"] / one["batch_size"] for one in (record, records[0])]
            record |= {"saved_bytes_per_image": per_image[0], "saved_bytes_ratio": per_image[0] / per_image[1]}
        if run.config.train.compile:
            record["compile_seconds"] = max(0.0, step.first_seconds - timing.median_seconds)
    return records


def compare_reranking(runs: Sequence[Compared], texts: int | None, rounds: int, memory: bool = False) -> list[Record]:
    """Return how long the re-ranking of retrieval takes, for a pair of image and text.

    Args:
        runs: on one device, of tasks that are checked by retrieval.
        texts: that each image meets; None for the `task.k_test` of each config.
        rounds: how often each is timed.
        memory: measure what is allocated on CUDA, too.

    Raises:
        ElipError: of one that cannot be built or has no re-ranking, or they are on several devices.
    """
    device = one_device(runs)
    passes, records = [], []
    for run in runs:
        met = getattr(run.config.task, "k_test", 1) if texts is None else texts
        passes.append(Reranking(run.config, met, device))
        records.append(_named(run, device) | {"pairs": passes[-1].pairs})
        if memory:
            records[-1]["peak_cuda_bytes"] = passes[-1].peak_bytes()
    timings = time_in_turn(passes, device, rounds, warmup=1)
    for record, timing in zip(records, timings, strict=True):
        record |= _per_item(timing, record["pairs"], records[0]["pairs"], "pair")
    return records


def compare_loading(runs: Sequence[Compared], images: int, rounds: int) -> list[Record]:
    """Return how many images a second one core makes ready for training, from files to tensors.

    Args:
        runs: with training data.
        images: of each, in a round; the same visits to the same items where seed and data are the same.
        rounds: how often each is timed.

    Raises:
        ElipError: data is missing or broken.
    """
    device = torch.device("cpu")
    readers = [Reader(run.config, images) for run in runs]
    timings = time_in_turn(readers, device, rounds, warmup=1, clock=time.process_time)
    return [
        _named(run, device)
        | _per_item(timing, images, images)
        | {"images_per_core_second": images / timing.median_seconds}
        for run, timing in zip(runs, timings, strict=True)
    ]


def one_device(runs: Sequence[Compared]) -> torch.device:
    """Return the device of all runs.

    Raises:
        ConfigError: they are not on the same one.
    """
    device, *others = dict.fromkeys(device_of(run.config) for run in runs)
    if others:
        raise ConfigError(f"train.device: {device} and {others[0]} cannot be compared in turn; give --device.")
    return device


def _named(run: Compared, device: torch.device) -> Record:
    return {"name": run.name, "batch_size": run.config.train.batch_size, "machine": machine(device)}


def _per_item(timing: Timing, items: int, items_of_first: int, item: str = "image") -> Record:
    """Return times of a round, and ratios of the time that an item takes."""
    share = items_of_first / items
    ratios = [ratio * share for ratio in timing.ratios]
    return {
        "milliseconds": 1e3 * timing.median_seconds,
        f"milliseconds_per_{item}": 1e3 * timing.median_seconds / items,
        "time_ratio": timing.ratio * share,
        "time_ratio_range": [min(ratios), max(ratios)],
    }


def step_table(records: Sequence[Record], rounds: int) -> Table:
    """Return the table of `compare_steps`."""
    cells: list[Cell] = [
        ("ms a step", lambda r: f"{r['milliseconds']:.1f}"),
        ("ms an image", lambda r: f"{r['milliseconds_per_image']:.2f}"),
        *_ratios("time ratio"),
        ("MACs ratio", lambda r: f"{r['macs_ratio']:.2f}"),
    ]
    if "saved_bytes" in records[0]:
        cells += [
            ("saved, MB", lambda r: f"{r['saved_bytes'] / 1e6:.1f}"),
            ("MB an image", lambda r: f"{r['saved_bytes_per_image'] / 1e6:.1f}"),
            ("ratio", lambda r: f"{r['saved_bytes_ratio']:.2f}"),
        ]
        if records[0]["peak_cuda_bytes"] is not None:
            cells.append(("CUDA peak, MB", lambda r: f"{r['peak_cuda_bytes'] / 1e6:.1f}"))
    if any("compile_seconds" in record for record in records):
        cells.append(("compiling, s", lambda r: f"{r['compile_seconds']:.1f}" if "compile_seconds" in r else "-"))
    batches = sorted({record["batch_size"] for record in records})
    what = f"Training step, batch {', '.join(map(str, batches))}, ratios an image"
    return _table(what, records, rounds, cells)


def reranking_table(records: Sequence[Record], rounds: int) -> Table:
    """Return the table of `compare_reranking`."""
    cells: list[Cell] = [
        ("pairs", lambda r: str(r["pairs"])),
        ("ms a pair", lambda r: f"{r['milliseconds_per_pair']:.2f}"),
        *_ratios("time ratio"),
    ]
    if "peak_cuda_bytes" in records[0]:
        cells.append(("CUDA peak, MB", lambda r: f"{r['peak_cuda_bytes'] / 1e6:.1f}"))
    return _table("Re-ranking, ratios a pair", records, rounds, cells)


def loading_table(records: Sequence[Record], images: int, rounds: int) -> Table:
    """Return the table of `compare_loading`."""
    cells: list[Cell] = [
        ("images a second and core", lambda r: f"{r['images_per_core_second']:.1f}"),
        ("ms an image", lambda r: f"{r['milliseconds_per_image']:.2f}"),
        *_ratios("time ratio"),
    ]
    return _table(f"Loading of {images} images by one process, in time of its core", records, rounds, cells)


def _ratios(name: str) -> list[Cell]:
    return [
        (name, lambda r: f"{r['time_ratio']:.2f}"),
        ("of all rounds", lambda r: "{:.2f} to {:.2f}".format(*r["time_ratio_range"])),
    ]


def _table(what: str, records: Sequence[Record], rounds: int, cells: Sequence[Cell]) -> Table:
    rows = [[record["name"], *(cell(record) for _, cell in cells)] for record in records]
    title = f"{what}, median of {rounds} rounds; {records[0]['machine']}"
    return Table(title, ["run", *(name for name, _ in cells)], rows)
