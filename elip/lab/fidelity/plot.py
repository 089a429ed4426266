"""The picture of what was measured without training: each metric against the cost of an image, a line a reducer."""

from collections.abc import Mapping, Sequence
from typing import Any

from elip.lab.drawing import GREY, mark, plain, rendered
from elip.lab.fidelity.measure import YARDSTICK
from elip.lab.fidelity.table import METRICS, Record

_COLUMNS = 3
_PANEL, _LEGEND = (4.0, 3.6), 1.7  # inches: width and height; width


def draw(records: Sequence[Record], title: str, kind: str) -> bytes:
    """Return a picture: a panel a metric, in it a line a reducer with intervals, the yardstick in grey dashes.

    Reducers that cannot be ranked are not in it.

    Args:
        records: the dense encoder's first.
        title: above the panels.
        kind: one of `elip.lab.drawing.FORMATS`.
    """
    # only who draws pays for the import; without pyplot, no display is looked for
    from matplotlib.figure import Figure

    dense, *others = records
    names = [name for name in METRICS if name in dense["metrics"]]
    lines: dict[str, list[Record]] = {}
    for record in sorted(others, key=lambda one: one["gmacs"]):
        if not record["unranked"]:
            lines.setdefault(_line(record), []).append(record)
    lines = dict(sorted(lines.items(), key=lambda line: (line[0] == YARDSTICK, -_level(line[1]))))
    styles = _styles(list(lines))
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    spare = rows * columns - len(names)
    width = _PANEL[0] * columns + (0 if spare else _LEGEND)
    figure = Figure(figsize=(width, _PANEL[1] * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for name, panel in zip(names, panels, strict=False):
        _fill(panel, name, dense, lines, styles)
    handles, labels = panels[0].get_legend_handles_labels()
    if spare:  # the legend takes the place of a panel
        panels[-1].legend(handles, labels, loc="center left", frameon=False)
    else:
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle(plain(title), fontsize="medium", x=0.01, ha="left")
    return rendered(figure, kind)


def _level(records: Sequence[Record]) -> float:
    """Return where a line lies in the first panel, by which the legend is ordered: its best point."""
    return max(record["metrics"]["pooled_cosine"]["mean"] for record in records)


def _line(record: Record) -> str:
    return YARDSTICK if record["reducer"] == YARDSTICK else record["label"]


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how each reducer's line is drawn."""
    styles = {name: {**mark(index), "linewidth": 1.2, "markersize": 5, "zorder": 3} for index, name in enumerate(names)}
    if YARDSTICK in styles:
        styles[YARDSTICK] = {"color": GREY, "linestyle": "--", "marker": "o", "markersize": 3, "zorder": 2}
    return styles


def _fill(
    panel: Any,
    name: str,
    dense: Record,
    lines: Mapping[str, Sequence[Record]],
    styles: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw one metric."""
    panel.set(xlabel="GMACs an image")
    panel.set_title(METRICS[name].heading, loc="left", fontsize="medium")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.axhline(dense["metrics"][name]["mean"], color="black", linestyle=":", linewidth=1, label="dense", zorder=1)
    for line, records in lines.items():
        shown = [record for record in records if name in record["metrics"]]
        if not shown:
            continue
        costs = [record["gmacs"] for record in shown]
        mean, low, high = ([record["metrics"][name][key] for record in shown] for key in ("mean", "low", "high"))
        if line == YARDSTICK:
            panel.fill_between(costs, low, high, color=GREY, alpha=0.18, linewidth=0, zorder=1)
        else:
            below, above = ([abs(m - e) for m, e in zip(mean, ends, strict=True)] for ends in (low, high))
            panel.errorbar(
                costs, mean, yerr=[below, above], fmt="none", ecolor=styles[line]["color"], elinewidth=0.9, alpha=0.6
            )
        panel.plot(costs, mean, label=plain(line), **styles[line])
