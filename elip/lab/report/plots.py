"""Pictures of a sweep: what arms reach against what they cost, and as they train."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import cos, hypot, isfinite, pi, sin
from typing import Any, NamedTuple

import numpy as np

from elip.lab.drawing import GREY, mark, plain, rendered
from elip.lab.report.results import Arm, RunResult, SweepResults, curve
from elip.lab.statistics import Interval

_PANEL = (5.2, 5.0)  # inches: width and height
_SMALL = (3.0, 2.3)
_COLUMNS = 4
_FRONT, _PALE = "0.6", 0.35
_FONT = 8.0  # points
_LETTERS = 11  # of a title to the inch
_RADII, _ANGLES = (6, 12, 20, 30, 42, 56, 72), 24
"""Points from a mark to its label, and directions, that are tried."""


class Point(NamedTuple):
    """An arm in one panel.

    Args:
        arm: which one.
        cost: where it stands.
        low, high: bounds of the cost, where it was measured.
        value: what it reaches.
    """

    arm: Arm
    cost: float
    low: float
    high: float
    value: Interval


def trade_offs(results: SweepResults, stage: str, split: str, kinds: Sequence[str]) -> dict[str, bytes]:
    """Return a picture, by format, of the headline against each kind of cost that is known; nothing if none is.

    In each panel arms that no other one beats in both are joined to the Pareto front; the others are paler.

    Args:
        results: of the sweep.
        stage, split: what to show.
        kinds: some of `elip.lab.drawing.FORMATS`.
    """
    panels = {axis: points for axis, points in _points(results, stage, split).items() if points}
    if not panels:
        return {}
    # only who draws pays for the import; without pyplot, no display is looked for
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_PANEL[0] * len(panels), _PANEL[1]), layout="constrained")
    styles = {section: mark(index) for index, section in enumerate(_sections(results))}
    drawn = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for panel, (axis, points) in zip(drawn, panels.items(), strict=True):
        _draw_trade_off(panel, points, styles)
        panel.set(xlabel=plain(axis))
    drawn[0].set_ylabel(plain(f"{metric_of(results, stage, split)}, {split}"))
    _entitle(figure, f"{results.name}, {stage}: mean over seeds with 95% intervals; joined: the Pareto front")
    figure.draw_without_rendering()  # so that places are final before labels are put beside them
    for panel, points in zip(drawn, panels.values(), strict=True):
        _put_labels(panel, points, styles)
    return {kind: rendered(figure, kind) for kind in kinds}


def curves(results: SweepResults, stage: str, split: str, kinds: Sequence[str]) -> dict[str, bytes]:
    """Return a picture, by format, with a panel for each arm: what it reached by step, and the baseline in grey.

    Lines are means over seeds, bands go from the lowest seed to the highest one. Nothing where no run was logged.
    """
    bands = {arm.name: _bands(list(results.done(arm, stage, split).values())) for arm in results.arms}
    found = {name: band for name, band in bands.items() if band is not None}
    base, figures = found.get(results.baseline), {band.figure for band in found.values()}
    shown = [arm for arm in results.arms if arm.name in found]
    arms = [arm for arm in shown if arm.name != results.baseline] or shown
    if not arms:
        return {}
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(arms))
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(_SMALL[0] * columns + 0.3, _SMALL[1] * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=len(figures) == 1)
    styles = {section: mark(index) for index, section in enumerate(_sections(results))}
    for panel in list(panels.flat)[len(arms) :]:
        panel.set_axis_off()
    for arm, panel in zip(arms, panels.flat, strict=False):
        if base and base.figure == found[arm.name].figure and arm.name != results.baseline:
            _draw_band(panel, base, GREY, "--")
        _draw_band(panel, found[arm.name], styles[arm.section]["color"], "-")
        panel.set_title(plain(arm.name), loc="left", fontsize="small")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize="small", labelbottom=True)
    figure.supxlabel("training steps", fontsize="small")
    figure.supylabel(plain(" / ".join(sorted(figures))), fontsize="small")
    legend = f"mean of seeds, band from the lowest to the highest; grey: {results.baseline}"
    _entitle(figure, f"{results.name}, {stage}: {legend}")
    return {kind: rendered(figure, kind) for kind in kinds}


def differences(results: SweepResults, stage: str, split: str, kinds: Sequence[str]) -> dict[str, bytes]:
    """Return a picture, by format, of paired differences with their intervals, a line an arm; pale: not told apart.

    One panel is to the baseline, by which arms are ordered, one to the yardstick. Nothing if nothing can be compared.
    """
    columns = {
        f"minus {results.baseline}": lambda _: results.baseline_arm,
        f"minus {results.yardstick}": results.comparable,
    }
    panels = {
        name: {arm.name: one for arm in results.arms if (one := results.difference(arm, to(arm), stage, split))}
        for name, to in columns.items()
    }
    panels = {name: found for name, found in panels.items() if found}
    if not panels:
        return {}
    from matplotlib.figure import Figure

    first = next(iter(panels.values()))
    names = sorted(
        {name for found in panels.values() for name in found}, key=lambda n: first[n].value.mean if n in first else 0
    )
    colours = {arm.name: mark(_sections(results).index(arm.section)) for arm in results.arms}
    figure = Figure(figsize=(3.6 * len(panels) + 1.4, 0.24 * len(names) + 1.2), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for panel, (name, found) in zip(drawn, panels.items(), strict=True):
        panel.axvline(0, color=GREY, linewidth=1, zorder=1)
        for arm, estimate in found.items():
            value = estimate.value
            low, high = _bounds(value)
            reach = [[value.mean - low], [high - value.mean]]
            alpha = 1.0 if estimate.verdict in ("better", "worse") else _PALE
            panel.errorbar([value.mean], [names.index(arm)], xerr=reach, **colours[arm], markersize=5, alpha=alpha)
        panel.set_yticks(range(len(names)), [plain(arm) for arm in names], fontsize="small")
        panel.set(xlabel=plain(f"{name}: {metric_of(results, stage, split)}, {split}"))
        panel.grid(alpha=0.25, axis="x")
        panel.spines[["top", "right"]].set_visible(False)
    _entitle(figure, f"{results.name}, {stage}: paired differences with 95% intervals; pale: not told apart")
    return {kind: rendered(figure, kind) for kind in kinds}


def metric_of(results: SweepResults, stage: str, split: str) -> str:
    """Return the headline of a stage; "" while nothing is done."""
    found = (run for arm in results.arms for run in results.done(arm, stage, split).values() if run.outcome)
    run = next(found, None)
    return run.outcome.metric if run is not None and run.outcome is not None else ""


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which of some (cost, value) no other one beats: at least as cheap and as good, and not the same."""
    return [
        not any(cost <= own and value >= mine and (cost, value) != (own, mine) for cost, value in points)
        for own, mine in points
    ]


def _entitle(figure: Any, text: str) -> None:
    """Write a title above all panels, in as many lines as it needs."""
    lines = textwrap.fill(text, int(figure.get_figwidth() * _LETTERS))
    figure.suptitle(plain(lines), fontsize="medium", x=0.01, ha="left")


def _sections(results: SweepResults) -> list[str]:
    return list(dict.fromkeys(arm.section for arm in results.arms))


def _points(results: SweepResults, stage: str, split: str) -> dict[str, list[Point]]:
    """Return by axis the arms that can be placed there."""
    base = results.baseline
    panels: dict[str, list[Point]] = {
        f"all of training, MACs, share of {base}": [],
        f"inference as evaluated, MACs, share of {base}": [],
        f"a training step, time measured, share of {base}": [],
    }
    training, inference, time = panels.values()
    for arm in results.arms:
        estimate = results.mean(arm, stage, split)
        if estimate is None:
            continue
        ranges = arm.costs.get("time_ratio_range") or [arm.cost("time_ratio")] * 2
        for points, cost, (low, high) in (
            (training, results.training_share(arm), (0.0, 0.0)),
            (inference, results.inference_share(arm, stage, split), (0.0, 0.0)),
            (time, arm.cost("time_ratio"), ranges),
        ):
            if cost is not None:
                points.append(Point(arm, cost, low or cost, high or cost, estimate.value))
    return panels


def _draw_trade_off(panel: Any, points: Sequence[Point], styles: Mapping[str, Mapping[str, Any]]) -> None:
    best = pareto([(point.cost, point.value.mean) for point in points])
    panel.plot(*zip(*_front(points), strict=True), color=_FRONT, linewidth=1.2, linestyle="-", zorder=1)
    for point, is_best in zip(points, best, strict=True):
        low, high = _bounds(point.value)
        panel.errorbar(
            [point.cost],
            [point.value.mean],
            xerr=[[max(0.0, point.cost - point.low)], [max(0.0, point.high - point.cost)]],
            yerr=[[point.value.mean - low], [high - point.value.mean]],
            **styles[point.arm.section],
            markersize=7 if is_best else 5.5,
            elinewidth=1.1,
            alpha=1.0 if is_best else _PALE,
            zorder=4 if is_best else 3,
        )
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(0.14)
    panel.locator_params(axis="x", nbins=6)


def _bounds(value: Interval) -> tuple[float, float]:
    """Return the bounds of an interval, or the value twice where it has none."""
    return (value.low, value.high) if isfinite(value.low) else (value.mean, value.mean)


def _front(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Return cost and value of those that no other one beats, the cheapest first."""
    places = [(point.cost, point.value.mean) for point in points]
    return sorted(place for place, is_best in zip(places, pareto(places), strict=True) if is_best)


def _along(corners: Sequence[Any]) -> list[np.ndarray]:
    """Return places on the lines between corners."""
    return [start + (end - start) * part for start, end in pairwise(corners) for part in np.linspace(0, 1, 60)]


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def common(self, other: "_Box") -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)


def _put_labels(panel: Any, points: Sequence[Point], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Write each arm's name beside its mark, where it covers nothing; with a line to it where that is further off."""
    unit = panel.figure.dpi / 72  # pixels of a point
    to_pixels = panel.transData.transform
    edge = _Box(*panel.get_window_extent().extents)
    taken = [_around(to_pixels((one.cost, one.value.mean)), 4 * unit) for one in points]
    for one in points:
        (x, low), (_, high) = (to_pixels((one.cost, bound)) for bound in _bounds(one.value))
        (left, y), (right, _) = (to_pixels((bound, one.value.mean)) for bound in (one.low, one.high))
        taken += [_Box(x - unit, low, x + unit, high), _Box(left, y - unit, right, y + unit)]
    taken += [_around(place, unit) for place in _along([to_pixels(place) for place in _front(points)])]
    labels: list[_Box] = []
    for one in sorted(points, key=lambda point: -point.value.mean):
        x, y = to_pixels((one.cost, one.value.mean))
        width, height = 0.58 * _FONT * len(one.arm.name) * unit, 1.15 * _FONT * unit
        tried = []
        for radius in _RADII:
            for angle in np.arange(_ANGLES) * 2 * pi / _ANGLES:
                dx, dy = radius * unit * cos(angle), radius * unit * sin(angle)
                left = x + dx - width * (1 - cos(angle)) / 2  # the side that faces the mark touches the circle
                bottom = y + dy - height * (1 - sin(angle)) / 2
                box = _Box(left, bottom, left + width, bottom + height)
                covered = sum(box.common(other) for other in taken) + 3 * (box.area - box.common(edge))
                covered += 9 * sum(box.common(other) for other in labels)
                tried.append((covered / box.area + hypot(dx, dy) / unit / 150, radius, box))
        _, radius, box = min(tried)
        labels.append(box)
        offset = ((box.left + box.right) / 2 - x) / unit, ((box.bottom + box.top) / 2 - y) / unit
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        panel.annotate(
            plain(one.arm.name),
            (one.cost, one.value.mean),
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_FONT,
            color=styles[one.arm.section]["color"],
            arrowprops=line if radius > _RADII[0] else None,
            zorder=5,
        )


def _around(place: Any, radius: float) -> _Box:
    return _Box(place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius)


class _Band(NamedTuple):
    """What seeds reached by step: name of the figure, steps, [seeds, steps] values."""

    figure: str
    steps: list[int]
    values: np.ndarray


def _bands(runs: Sequence[RunResult]) -> _Band | None:
    """Return what runs reached at the steps that all of them logged; None if there are none."""
    found = [(name, dict(values)) for name, values in map(curve, runs)]
    if not found or len({name for name, _ in found}) > 1:
        return None
    steps = sorted(set.intersection(*(set(values) for _, values in found)))
    if not steps:
        return None
    return _Band(found[0][0], steps, np.array([[values[step] for step in steps] for _, values in found]))


def _draw_band(panel: Any, band: _Band, colour: str, line: str) -> None:
    panel.fill_between(band.steps, band.values.min(0), band.values.max(0), color=colour, alpha=0.2, linewidth=0)
    panel.plot(band.steps, band.values.mean(0), color=colour, linestyle=line, linewidth=1.4)
