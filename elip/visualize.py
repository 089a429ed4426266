"""Pictures for people: which patches of an image are left after each reduction."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from elip.data.transforms import to_pixels

MAX_STAGES = 4
GREY, FADE = 0.75, 0.12
"""What covers a dropped patch, and how much of it still shines through."""


def cover_dropped(image: Tensor, kept: Tensor) -> Tensor:
    """Return images whose dropped patches are covered in grey.

    Shape:
        image: [B, 3, H, W] in [0, 1];  kept: [B, rows, columns] bool;  returns [B, 3, H, W]
    """
    shown = F.interpolate(kept[:, None].to(image.dtype), size=image.shape[-2:], mode="nearest")
    return image * shown + (1 - shown) * (FADE * image + (1 - FADE) * GREY)


def kept_patches_sheet(image: Tensor, captions: Sequence[str], kept: Mapping[int, Tensor]) -> np.ndarray:
    """Return a sheet with one row an example: the image, its caption, the patches kept after each reduction.

    Args:
        image: normalised, [B, 3, H, W].
        captions: B texts.
        kept: block index to [B, rows, columns] bool, as in `VisionOutput.kept`; of many, four are shown.

    Returns:
        [height, width, 3] uint8
    """
    image = to_pixels(image.cpu()) / 255
    blocks = sorted(kept)
    if len(blocks) > MAX_STAGES:
        blocks = [blocks[i] for i in np.linspace(0, len(blocks) - 1, MAX_STAGES).round().astype(int)]
    columns = [image, *(cover_dropped(image, kept[block].cpu()) for block in blocks)]
    titles = ["image", *(f"after reduction at block {block}" for block in blocks)]
    tile = 1.9
    figure = Figure(figsize=(tile * (len(columns) + 1.4), (tile + 0.15) * len(image) + 0.3), dpi=100)
    axes = figure.subplots(
        len(image), len(columns) + 1, squeeze=False, gridspec_kw={"width_ratios": [*[1] * len(columns), 1.4]}
    )
    for row, caption in enumerate(captions):
        for column, pictures in enumerate(columns):
            share = "" if column == 0 else f"{kept[blocks[column - 1]][row].float().mean():.0%} of patches"
            _tile(axes[row, column], pictures[row], titles[column] if row == 0 else "", share)
        axes[row, -1].axis("off")
        axes[row, -1].text(0.02, 0.5, fill(caption, 26), va="center", fontsize=9)
    figure.tight_layout(pad=0.4)
    return _pixels(figure)


def _tile(axis, picture: Tensor, title: str, below: str) -> None:  # type: ignore[no-untyped-def]
    axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=8)
    axis.set_xlabel(below, fontsize=7, labelpad=1)


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
