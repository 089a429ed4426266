"""The picture of `compare.py`: metrics against what an image costs."""

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from elip.errors import ConfigError
from elip.lab.drawing import format_of, mark, plain, rendered
from elip.lab.report.outcomes import Outcome
from tools.cli import write

Cost = Callable[[Outcome], float | None]
COSTS: dict[str, Cost] = {
    "image encoder in evaluation,\nGMACs an image": lambda one: one.eval_gmacs,
    "training step, forward and backward,\nGMACs an image": lambda one: one.train_step_gmacs,
}
"""What a point's place may mean, by the label of the axis."""

_LABEL_WIDTH = 46  # characters of a line in the legend
_PANEL, _LEGEND = (4.0, 3.4), 3.6  # inches: width and height; width


def draw(outcomes: Mapping[str, Outcome], path: Path) -> list[str]:
    """Write a picture: a row for each task with its metric and split, a column for each kind of cost that is known.

    Every run has a mark of its own, named in a legend beside the panels, so that no label covers another.

    Args:
        outcomes: by the name to show.
        path: the ending says the format.

    Returns:
        Which runs could not be placed, and why.

    Raises:
        ConfigError: the ending is not known, or no cost is.
        ElipError: the file cannot be written.
    """
    kind = format_of(path)
    costs = {name: cost for name, cost in COSTS.items() if any(cost(one) is not None for one in outcomes.values())}
    if not costs:
        raise ConfigError("--plot: no run has recorded what an image costs; evaluate again with tools/evaluate.py RUN.")
    # only who draws pays for the import; without pyplot, no display is looked for
    from matplotlib.figure import Figure

    rows: dict[tuple[str, str, str], dict[str, Outcome]] = {}
    for name, one in outcomes.items():
        rows.setdefault((one.task, one.metric, one.split), {})[name] = one
    labels = {name: _label(name, one) for name, one in outcomes.items()}
    height = 0.19 * sum(text.count("\n") + 1.3 for text in labels.values())  # of the legend, inches
    size = _PANEL[0] * len(costs) + _LEGEND, max(_PANEL[1] * len(rows), height)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(costs), squeeze=False)
    styles = {name: _style(index) for index, name in enumerate(outcomes)}
    for found, panels_of_row in zip(rows.values(), panels, strict=True):
        for (axis, cost), panel in zip(costs.items(), panels_of_row, strict=True):
            _fill(panel, axis, cost, found, styles)
    marks = [panels[0][0].plot([], [], linestyle="none", label=labels[name], **styles[name])[0] for name in outcomes]
    figure.legend(handles=marks, loc="outside right upper", fontsize="small", frameon=False)
    write(str(path), rendered(figure, kind), "--plot")
    return [
        f"{name} has no mark over `{' '.join(axis.split())}`: that cost is not recorded"
        for axis, cost in costs.items()
        for name, one in outcomes.items()
        if cost(one) is None
    ]


def _fill(
    panel: Any, axis: str, cost: Cost, found: Mapping[str, Outcome], styles: Mapping[str, dict[str, Any]]
) -> None:
    """Draw the runs of one task, metric and split."""
    first, *_ = found.values()
    chances = {one.chance for one in found.values()}
    by_chance = f" (by chance {first.chance:.3g})" if len(chances) == 1 and first.chance is not None else ""
    panel.set(title=plain(first.task), xlabel=axis, ylabel=plain(f"{first.metric}, {first.split}{by_chance}"))
    panel.grid(alpha=0.3)
    panel.margins(0.15)
    panel.locator_params(axis="x", nbins=5)
    for name, one in found.items():
        if cost(one) is not None:
            panel.plot([cost(one)], [one.value], **styles[name])
    if not panel.lines:
        panel.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=panel.transAxes)
        panel.set(xticks=[], yticks=[])


def _label(name: str, one: Outcome) -> str:
    reducer = one.eval_reducer if one.eval_reducer == one.train_reducer else f"trained with {one.train_reducer}"
    if one.eval_reducer not in (None, one.train_reducer):
        reducer = f"{reducer}, evaluated with {one.eval_reducer}"
    return plain(textwrap.fill(f"{name}: {reducer}; {one.weights}", _LABEL_WIDTH))


def _style(index: int) -> dict[str, Any]:
    """Return the mark of a run; smaller ones lie on larger ones and hide none."""
    return {**mark(index), "markersize": max(4.0, 10 - index / 2), "zorder": 3 + index}
