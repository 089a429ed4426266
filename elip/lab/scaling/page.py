"""The page on what a training step costs and how that grows, in markdown."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from elip.config.schema import RunConfig
from elip.efficiency.report import Table, as_markdown, label
from elip.lab.scaling.axes import Growth, Point
from elip.lab.scaling.fits import Training
from elip.lab.scaling.law import Law, fit
from elip.lab.scaling.memory import GIB, RESERVE, Held
from elip.lab.scaling.times import Timed

CARDS = (24, 80)
"""Memory of cards, in units of 2^30 bytes, as their vendors count."""
_HELD = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "AdamW's two moments",
    "momentum": "momentum copies",
    "queues": "queues and other buffers",
}


@dataclass(frozen=True)
class Found:
    """All that was found of a config.

    Args:
        config: that was varied.
        growths: along its axes.
        held: by its training, whatever the batch.
        trainings: and the memory they take.
        times: of steps; empty where none were taken.
        rounds: that they are medians of.
    """

    config: RunConfig
    growths: Sequence[Growth]
    held: Held
    trainings: Sequence[Training]
    times: Sequence[Timed]
    rounds: int


def fitted(growth: Growth) -> list[Point]:
    """Return the points that laws are of: not that of a reducer of strength 0, whose own work is not in it."""
    return [point for point in growth.points if point.value > 0]


def laws(growth: Growth) -> dict[str, Law]:
    """Return how MB saved and GMACs of a step grow along an axis; nothing where there are less than two points."""
    points = fitted(growth)
    x = [point.x for point in points]
    if len(set(x)) < 2:
        return {}
    return {
        "saved MB": fit(x, [point.saved_bytes / 1e6 for point in points]),
        "GMACs": fit(x, [point.macs / 1e9 for point in points]),
    }


def page(found: Found, command: str, picture: str | None = None) -> str:
    """Return the page.

    Args:
        found: what to tell.
        command: that makes the page.
        picture: file of the picture, as seen from the page.
    """
    config = found.config
    shown = [] if picture is None else [f"![Bytes and multiply-adds of a step along each size]({picture})"]
    sections = [
        "# What a training step costs, and how that grows",
        f"Made by `{command}`: run it again after a change, on a quiet machine, because times are in it. Bytes and "
        "multiply-adds are computed from shapes, and are the same everywhere.",
        f"The config: images of {config.model.vision.image_size} px, batches of {config.train.batch_size} in each "
        f"forward pass, reducer `{label(config.reducer)}` in full force, random weights, made-up items of full size. "
        "Along each size below all others stay like this.",
        _growth(found.growths),
        *shown,
        *(as_markdown(_points(growth)).rstrip() for growth in found.growths if growth.points),
        *(["Not taken by this config: " + "; ".join(refused) + "."] if (refused := _refused(found)) else []),
        *([_time(found)] if found.times else []),
        _memory(found),
    ]
    return "\n\n".join(sections) + "\n"


def _growth(growths: Sequence[Growth]) -> str:
    rows = []
    for growth in growths:
        for figure, law in laws(growth).items():
            ends = [point.x for point in fitted(growth)]
            name = f"{growth.axis.name}, {_short(min(ends))} to {_short(max(ends))} {growth.axis.plural}: {figure}"
            exponent = "-" if law.exponent is None else f"{law.exponent:.2f}"
            # what is left of rounding is nothing
            fixed = 0.0 if abs(law.fixed) < 1e-4 * abs(law.at(max(ends))) else law.fixed
            line = f"{_short(fixed)} + {_short(law.per_unit)} x"
            rows.append([name, line, f"{100 * law.deviation:.1f}%", exponent])
    table = as_markdown(Table("Laws", ["size, and what grows with it", "line", "off by at most", "exponent"], rows))
    return (
        "## How each grows\n\n"
        "Saved: kept by a forward pass for its backward pass, in single precision, 1 MB = 10^6 bytes; GMACs: forward "
        "and backward pass, 1 multiply-add = 1 MAC. A line of least squares through the points below, with x the "
        "number that the row names; the exponent is the slope of that through the logarithms: 1 for what is "
        "proportional, 0 for what does not grow. Strength 0, without the reducer and what it costs itself, is not in "
        "the laws.\n\n" + table.rstrip()
    )


def _points(growth: Growth) -> Table:
    """Return the table of an axis; what is the same in all of it is left out."""
    axis, points = growth.axis, growth.points
    columns: list[tuple[str, Callable[[Point], str]]] = [(axis.plural, lambda p: _short(p.x))]
    if axis.set_as is not None:
        columns.insert(0, (axis.set_as, lambda p: f"{p.value:g}"))
    if len({p.tokens for p in points}) > 1 and any(p.tokens != p.x for p in points):
        columns.append(("tokens in a block, mean", lambda p: f"{p.tokens:.1f}"))
    columns.append(("GMACs", lambda p: f"{p.macs / 1e9:.1f}"))
    columns.append(("saved, MB", lambda p: f"{p.saved_bytes / 1e6:.1f}"))
    if len({round(p.held_bytes / 1e7) for p in points}) > 1:
        columns.append(("held whatever the batch, MB", lambda p: f"{p.held_bytes / 1e6:.0f}"))
    rows = [[cell(point) for _, cell in columns] for point in points]
    return Table(axis.name.capitalize(), [name for name, _ in columns], rows)


def _refused(found: Found) -> list[str]:
    return [one.rstrip(".") for growth in found.growths for one in growth.refused]


def _time(found: Found) -> str:
    rows = [
        [
            f"{one.axis} {one.value:g}",
            str(one.items),
            f"{one.seconds:.2f}",
            f"{one.ratio:.2f}",
            "{:.2f} to {:.2f}".format(*one.range),
            f"{one.macs_ratio:.2f}",
        ]
        for one in found.times
    ]
    batch = [one for one in found.times if one.axis == found.times[0].axis]
    header = ["size", "items", "s a step", "ratio", "of all rounds", "GMACs ratio"]
    title = f"Time of a whole step, median of {found.rounds} rounds; {batch[0].machine}"
    text = (
        "## Time\n\n"
        "A whole step as the engine takes it: forward and backward pass, clipping, optimiser, momentum update, in the "
        "config's precision. Batches are timed in turn with the first of them; other sizes in turn with the first "
        "batch of the config as it is. Multiply-adds leave out what does not grow with the batch, such as the "
        "optimiser.\n\n" + as_markdown(Table(title, header, rows)).rstrip()
    )
    if len(batch) < 2:
        return text
    law = fit([one.items for one in batch], [one.seconds for one in batch])
    return (
        f"{text}\n\nSeconds of a step on this machine: {law.fixed:.2f} + {law.per_unit:.2f} x items, off by at most "
        f"{100 * law.deviation:.0f}%."
    )


def _memory(found: Found) -> str:
    held = asdict(found.held)
    rows = [[_HELD[name], f"{size / 1e6:.0f}"] for name, size in held.items()]
    rows.append(["all", f"{found.held.total / 1e6:.0f}"])
    kinds = list(found.trainings[0].fits)
    header = ["training", *(f"{kind}, {card} GB" for kind in kinds for card in CARDS), *(f"MB, {k}" for k in kinds)]
    batches = [
        [
            f"{one.image_size} px, {one.reducer}, {one.precision}",
            *(str(fits.largest_batch(card * GIB)) for fits in one.fits.values() for card in CARDS),
            *(f"{fits.per_item / 1e6:.1f}" for fits in one.fits.values()),
        ]
        for one in found.trainings
    ]
    return (
        "## What fits on a card\n\n"
        "Computed, not measured on a card: weights + gradients + AdamW's moments + momentum copies + queues + bytes "
        "saved whatever the batch (under autocast, weights in half precision) + bytes saved for an item x batch, at "
        f"most {1 - RESERVE:.0%} of the card, whose GB are 2^30 bytes. The rest is for what this does not count: the "
        "context of CUDA, workspaces of kernels, gradients of activations, passes without gradient, gaps between "
        "allocated blocks. Saved bytes are those of the CPU's kernels; those of a GPU may keep a little more or less. "
        "`tools/benchmark.py --config FILE --memory` tells the peak of a step on a card that is there.\n\n"
        + as_markdown(Table("Held whatever the batch", ["what", "MB"], rows))
        + "\n"
        + as_markdown(
            Table("Largest batch of a process by train.recompute, and MB saved for each item", header, batches)
        ).rstrip()
    )


def _short(value: float) -> str:
    """Return a number in four digits, without a power of ten where people would write none."""
    if value and abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
