"""The picture of how bytes and multiply-adds of a training step grow: a panel a size."""

from collections.abc import Sequence
from typing import Any

from elip.lab.drawing import GREY, mark, rendered
from elip.lab.scaling.axes import Growth
from elip.lab.scaling.page import fitted, laws

_COLUMNS = 3
_PANEL = (3.4, 2.6)  # inches: width and height


def draw(growths: Sequence[Growth], kind: str) -> bytes:
    """Return a picture: along each axis, MB saved and GMACs of a step as marks, and the lines of their laws.

    Args:
        growths: to draw; those of less than two points are left out.
        kind: one of `elip.lab.drawing.FORMATS`.
    """
    # only who draws pays for the import; without pyplot, no display is looked for
    from matplotlib.figure import Figure

    shown = [growth for growth in growths if laws(growth)]
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for growth, panel in zip(shown, panels, strict=False):
        _fill(panel, growth)
    handles, labels = panels[0].get_legend_handles_labels()
    if len(panels) > len(shown):
        panels[-1].legend(handles, labels, loc="center left", frameon=False)
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return rendered(figure, kind)


def _fill(panel: Any, growth: Growth) -> None:
    x = [point.x for point in growth.points]
    figures = {
        "saved MB": [point.saved_bytes / 1e6 for point in growth.points],
        "GMACs": [point.macs / 1e9 for point in growth.points],
    }
    panel.set_title(growth.axis.name, loc="left", fontsize="medium")
    panel.set(xlabel=growth.axis.plural)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    of_law = [point.x for point in fitted(growth)]
    ends = [min(of_law), max(of_law)]
    for index, (name, law) in enumerate(laws(growth).items()):
        panel.plot(ends, [law.at(end) for end in ends], color=GREY, linestyle="--", linewidth=1, zorder=2)
        panel.plot(x, figures[name], linestyle="none", markersize=5, label=name, zorder=3, **mark(index))
    panel.set_ylim(bottom=0)
    panel.locator_params(axis="x", nbins=5)
