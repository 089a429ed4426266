"""What all pictures of the lab are drawn with: formats, marks, text that is shown as it is."""

import io
from pathlib import Path
from typing import Any

from elip.errors import ConfigError

FORMATS = ("png", "svg", "pdf")
GREY = "0.45"
_MARKERS = "osD^v<>Ph*Xdp"
_COLOURS = [f"C{index}" for index in range(10) if index != 7]  # without the grey one, which is the baseline's


def format_of(path: Path) -> str:
    """Return the format that the ending of a name tells.

    Raises:
        ConfigError: it is not known.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise ConfigError(f"--plot: {path}: the name must end in .{', .'.join(FORMATS)}.")
    return kind


def plain(text: str) -> str:
    """Return a text that matplotlib shows as it is, not as a formula."""
    return text.replace("$", r"\$")


def mark(index: int) -> dict[str, Any]:
    """Return how one of many is drawn: colours go round before shapes."""
    round_, colour = divmod(index, len(_COLOURS))
    return {"color": _COLOURS[colour], "marker": _MARKERS[(colour + round_) % len(_MARKERS)]}


def rendered(figure: Any, kind: str) -> bytes:
    """Return a figure as a file of a format; the same figure gives the same bytes."""
    picture = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    figure.savefig(picture, format=kind, dpi=150, metadata=metadata)
    return picture.getvalue()
