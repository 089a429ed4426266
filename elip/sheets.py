"""Sheets for people: which patches of an image are left, and the best and the worst that a model does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional as F

MAX_STAGES = 4
GREY, FADE = 0.75, 0.12
"""What covers a dropped patch, and how much of it still shines through."""
TILE_INCHES = 1.9
TEXT_TILES, TEXT_CHARS = 1.4, 26
"""Width of the column of texts, in tiles and in characters."""
FONT_SIZE = 9.0
"""Of texts, in points; smaller where a text would be longer than its row is high."""
LINE = 1.4
"""Height of a line, in sizes of its font."""


class Box(NamedTuple):
    """A rectangle on a picture, its edges as shares of the picture's width and height, from the left and the top."""

    left: float
    top: float
    right: float
    bottom: float
    colour: str = "lime"
    label: str = ""


@dataclass(frozen=True)
class Example:
    """One row of an `examples_sheet`: K pictures that belong together, and what is said of them.

    All examples of a sheet have the same K, and all or none of them have `kept`, and `heat`.

    Args:
        image: [K, 3, H, W] uint8.
        title: in bold above the text.
        lines: text beside the pictures, each one wrapped.
        kept: [K, rows, columns] bool, patches that still have a token to themselves; None to show none.
        heat: [K, rows, columns] of any grid, >= 0, the largest value the hottest; None to show none.
        boxes: to draw on the first picture.
    """

    image: Tensor
    title: str
    lines: Sequence[str]
    kept: Tensor | None = None
    heat: Tensor | None = None
    boxes: Sequence[Box] = ()


@dataclass(frozen=True)
class _Tile:
    """One picture [3, H, W] in [0, 1] with what stands above, below and on it."""

    picture: Tensor
    above: str = ""
    below: str = ""
    heat: Tensor | None = None
    boxes: Sequence[Box] = ()


class _Row(NamedTuple):
    tiles: list[_Tile]
    title: str
    lines: Sequence[str]


def cover_dropped(image: Tensor, kept: Tensor) -> Tensor:
    """Return images whose dropped patches are covered in grey.

    Shape:
        image: [B, 3, H, W] in [0, 1];  kept: [B, rows, columns] bool;  returns [B, 3, H, W]
    """
    shown = F.interpolate(kept[:, None].to(image.dtype), size=image.shape[-2:], mode="nearest")
    return image * shown + (1 - shown) * (FADE * image + (1 - FADE) * GREY)


def kept_patches_sheet(image: Tensor, captions: Sequence[str], kept: Mapping[int, Tensor]) -> np.ndarray:
    """Return a sheet with one row an example: the image, the patches kept after each reduction, its caption.

    Args:
        image: [B, 3, H, W] uint8.
        captions: B texts.
        kept: block index to [B, rows, columns] bool, as in `VisionOutput.kept`; of many, four are shown.

    Returns:
        [height, width, 3] uint8
    """
    image = _shown(image)
    blocks = sorted(kept)
    if len(blocks) > MAX_STAGES:
        blocks = [blocks[i] for i in np.linspace(0, len(blocks) - 1, MAX_STAGES).round().astype(int)]
    columns = [[_Tile(picture, "image") for picture in image]]
    for block in blocks:
        covered, above = cover_dropped(image, kept[block].cpu()), f"after reduction at block {block}"
        columns.append([_Tile(c, above, _share(k)) for c, k in zip(covered, kept[block], strict=True)])
    return _sheet([_Row(list(tiles), "", [text]) for *tiles, text in zip(*columns, captions, strict=True)])


def examples_sheet(examples: Sequence[Example], names: Sequence[str] = ("image",)) -> np.ndarray:
    """Return a sheet with one row an example: its pictures as they are, kept patches, heat maps, title and lines.

    Args:
        examples: at least one.
        names: of the K pictures of an example.

    Returns:
        [height, width, 3] uint8
    """
    return _sheet([_Row(_example_tiles(one, names), one.title, one.lines) for one in examples])


def best_and_worst(quality: Tensor, count: int) -> tuple[list[int], list[int]]:
    """Return the places of the best items, best first, and of the worst, worst first; none is in both.

    Args:
        quality: [N], the higher the better.
        count: places in both lists together, fewer if there are not as many.
    """
    order = quality.argsort(descending=True, stable=True).tolist()
    count = min(count, len(order))
    num_best = (count + 1) // 2
    return order[:num_best], order[::-1][: count - num_best]


def _example_tiles(example: Example, names: Sequence[str]) -> list[_Tile]:
    image, tiles = _shown(example.image), []
    covered = None if example.kept is None else cover_dropped(image, example.kept.cpu())
    for k, (picture, name) in enumerate(zip(image, names, strict=True)):
        tiles.append(_Tile(picture, name, boxes=example.boxes if k == 0 else ()))
        if covered is not None and example.kept is not None:
            tiles.append(_Tile(covered[k], f"{name}: patches kept", _share(example.kept[k])))
        if example.heat is not None:
            tiles.append(_Tile(picture, f"{name}: heat map", heat=example.heat[k]))
    return tiles


def _shown(image: Tensor) -> Tensor:
    """Return images in [0, 1] on the CPU."""
    return image.cpu() / 255


def _share(kept: Tensor) -> str:
    return f"{kept.float().mean():.0%} of patches"


def _sheet(rows: Sequence[_Row]) -> np.ndarray:
    """Return the rows drawn below each other, each with its text on the right."""
    from matplotlib.figure import Figure  # half a second, which only what draws should wait for

    num_tiles = len(rows[0].tiles)
    size = (TILE_INCHES * (num_tiles + TEXT_TILES), (TILE_INCHES + 0.15) * len(rows) + 0.3)
    figure = Figure(figsize=size, dpi=100)
    widths = [*[1] * num_tiles, TEXT_TILES]
    axes = figure.subplots(len(rows), num_tiles + 1, squeeze=False, gridspec_kw={"width_ratios": widths})
    for number, row in enumerate(rows):
        for axis, tile in zip(axes[number], row.tiles, strict=False):
            _draw(axis, tile, tile.above if number == 0 else "")
        _write(axes[number, -1], row)
    figure.tight_layout(pad=0.4)
    return _pixels(figure)


def _draw(axis: Any, tile: _Tile, above: str) -> None:
    from matplotlib.patches import Rectangle

    height, width = tile.picture.shape[-2:]
    edges = (0, width, height, 0)
    axis.imshow(tile.picture.permute(1, 2, 0).numpy(), interpolation="nearest", extent=edges)
    if tile.heat is not None:
        heat = tile.heat.float().cpu().numpy()
        axis.imshow(heat, cmap="jet", alpha=0.5, interpolation="bilinear", extent=edges, vmin=0)
    for box in tile.boxes:
        corner, size = (box.left * width, box.top * height), (box.right - box.left, box.bottom - box.top)
        axis.add_patch(
            Rectangle(corner, size[0] * width, size[1] * height, fill=False, edgecolor=box.colour, linewidth=1.5)
        )
        axis.text(*corner, box.label, color=box.colour, fontsize=6, va="bottom", parse_math=False)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(above, fontsize=8, parse_math=False)
    axis.set_xlabel(tile.below, fontsize=7, labelpad=1)


def _write(axis: Any, row: _Row) -> None:
    """Write title and lines; as they are, since a user's text may hold what matplotlib takes for a formula."""
    axis.axis("off")
    title, lines = fill(row.title, TEXT_CHARS), "\n".join(fill(line, TEXT_CHARS) for line in row.lines)
    axis.text(0.02, 1.0, title, va="top", fontsize=FONT_SIZE, fontweight="bold", parse_math=False)
    used = (title.count("\n") + 1.5) * FONT_SIZE * LINE / 72 / TILE_INCHES if title else 0.0  # share of the height
    fitting = (1 - used) * TILE_INCHES * 72 / (LINE * (lines.count("\n") + 1))
    axis.text(0.02, 1 - used, lines, va="top", fontsize=min(FONT_SIZE, fitting), parse_math=False)


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
