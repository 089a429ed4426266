"""Scenes as pixels: digits in coloured ink on textured and printed paper, and the boxes around them.

Only exact operations are used (sums, products and Pillow's fixed-point resizing), so the same scene gives the same
pixels on every machine.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elip.data.digitscenes.clutter import RGB
from elip.data.digitscenes.handwriting import Handwriting
from elip.data.digitscenes.scene import NOISE_SIDE, Background, Digit, Scene, sample_scenes

INKS: dict[str, RGB] = {
    "red": (245, 50, 45),
    "green": (50, 205, 75),
    "blue": (60, 140, 255),
    "yellow": (255, 220, 40),
    "purple": (205, 85, 240),
    "white": (250, 250, 250),
}
_FINER = 4  # edges are found on a grid so many times finer than the pixels
_GRAIN = 10  # grey levels between the darkest and the lightest grain of the paper
_INK_FROM, _INK_FULL = 0.30, 0.58  # darkness of the sample where ink begins, and where it covers the paper


class Picture(NamedTuple):
    """A scene that has been drawn."""

    scene: Scene
    boxes: list[list[int]]
    """x, y, width and height in pixels, one for each of `scene.digits`."""


def write_pictures(
    root: Path, split: str, num: int, size: int, seed: int, handwriting: Handwriting, clutter: int = 0
) -> list[Picture]:
    """Return the pictures of a split after writing them below `root` as JPEG files without chroma subsampling."""
    (root / split).mkdir(parents=True, exist_ok=True)
    pictures = []
    for scene in sample_scenes(split, num, seed, handwriting, clutter):
        image, boxes = draw(scene, size, handwriting)
        image.save(root / scene.file, quality=95, subsampling=0)
        pictures.append(Picture(scene, boxes))
    return pictures


def draw(scene: Scene, size: int, handwriting: Handwriting) -> tuple[Image.Image, list[list[int]]]:
    """Return the picture of a scene, and the box around each digit's ink in the order of `scene.digits`.

    Args:
        size: side of the square picture, pixels, >= 32.
    """
    pixels = _paper(scene, size)
    for shape in scene.shapes:
        rows, columns, cover = shape.cover(size, _FINER)
        pixels[rows, columns] += cover[..., None] * (np.array(shape.tone) - pixels[rows, columns])
    boxes = []
    for digit in scene.digits:
        ink = _ink(handwriting.images[digit.handwriting], round(digit.size * size / 3))
        x, y = _corner(digit, size, ink)
        height, width = ink.shape
        spot = pixels[y : y + height, x : x + width]
        spot += ink[..., None] * (np.array(INKS[digit.colour]) - spot)
        boxes.append([x, y, width, height])
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8)), boxes


def _paper(scene: Scene, size: int) -> NDArray[np.float64]:
    """Return the background (H, W, 3)."""
    dark, light = np.array(scene.background.dark), np.array(scene.background.light)
    grain = np.frombuffer(scene.rng("grain").randbytes(size * size), np.uint8).reshape(size, size, 1) / 255 - 0.5
    return dark + _texture(scene.background, size)[..., None] * (light - dark) + _GRAIN * grain


def _texture(background: Background, size: int) -> NDArray[np.float64]:
    """Return how light each pixel is (H, W), from 0 to 1."""
    if background.texture == "noise":
        coarse = Image.frombytes("L", (NOISE_SIDE, NOISE_SIDE), background.noise)
        return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) / 255
    x_step, y_step = background.direction
    at = (np.arange(size) + 0.5) / size
    along = x_step * at[None, :] + y_step * at[:, None]
    if background.texture == "gradient":
        return (along - along.min()) / (along.max() - along.min())
    wave = np.abs(2 * (along * background.num_stripes % 1) - 1)
    return (2 * wave - 0.5).clip(0, 1)


def _ink(sample: NDArray[np.uint8], height: int) -> NDArray[np.float64]:
    """Return how much ink covers each pixel, from 0 to 1, cut to the digit: (h, w).

    Args:
        sample: (8, 8).
        height: pixels that the 8 rows of the sample are enlarged to.
    """
    framed = Image.fromarray(np.pad(sample, 1))
    side = round(height * 10 / 8)
    smooth = np.asarray(framed.resize((_FINER * side, _FINER * side), Image.Resampling.BICUBIC)) / 255
    fine = ((smooth - _INK_FROM) / (_INK_FULL - _INK_FROM)).clip(0, 1)
    ink = fine.reshape(side, _FINER, side, _FINER).mean(axis=(1, 3))
    rows, columns = np.flatnonzero(ink.max(axis=1) > 0.2), np.flatnonzero(ink.max(axis=0) > 0.2)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _corner(digit: Digit, size: int, ink: NDArray[np.float64]) -> tuple[int, int]:
    """Return x and y of the ink's upper left corner, so that all of it lies in the digit's cell."""

    def start(cell: int, length: int, shift: float) -> int:
        low, high = cell * size // 3, (cell + 1) * size // 3
        return low + round(shift * max(high - low - length, 0))

    height, width = ink.shape
    return start(digit.column, width, digit.shift[0]), start(digit.row, height, digit.shift[1])
