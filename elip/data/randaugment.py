"""RandAugment as ALBEF used it: two random operations of ten on a picture, at one strength."""

import random
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

Operation = Callable[[Image.Image, random.Random], Image.Image]
"""From a picture to the changed one; what is random about it comes from the generator."""

NUM_OPERATIONS = 2
APPLY_PROBABILITY = 0.5
MAGNITUDE = 0.7
"""7 of 10; the four strengths below are those at full magnitude times it."""
ENHANCE_FACTOR = 0.1 + 1.8 * MAGNITUDE
"""On brightness and sharpness, from 0.1 to 1.9; 1 changes nothing."""
SHEAR = 0.3 * MAGNITUDE
"""Pixels moved per pixel of distance from the middle."""
TRANSLATE_RATIO = 10 / 256 * MAGNITUDE
"""Share of the side moved: 10 pixels of the 256 that pre-training takes."""
ROTATE_DEGREES = 30 * MAGNITUDE
FILL = (128, 128, 128)
"""Colour of what moves in from outside the picture."""


def rand_augment(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture after two random operations, each drawn from `OPERATIONS` and applied with probability 0.5.

    RandAugment (Cubuk et al., arXiv:1909.13719) with ALBEF's ten operations and strengths: brightness and sharpness
    times 1.36, shear by 0.21, translation by 2.7% of the side, rotation by 21 degrees, the last three either way.
    """
    for operation in rng.choices(OPERATIONS, k=NUM_OPERATIONS):
        if rng.random() < APPLY_PROBABILITY:
            image = operation(image, rng)
    return image


def _either_way(amount: float, rng: random.Random) -> float:
    return amount if rng.random() < 0.5 else -amount


def identity(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture as it is."""
    return image


def auto_contrast(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture with each channel stretched to the full range."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture with each channel's histogram made even."""
    return ImageOps.equalize(image)


def brightness(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture brighter."""
    return ImageEnhance.Brightness(image).enhance(ENHANCE_FACTOR)


def sharpness(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture sharper."""
    return ImageEnhance.Sharpness(image).enhance(ENHANCE_FACTOR)


def shear_x(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture with its rows slid sideways, the middle one not."""
    shear = _either_way(SHEAR, rng)
    return _affine(image, (1, shear, -shear * image.height / 2, 0, 1, 0))


def shear_y(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture with its columns slid up or down, the middle one not."""
    shear = _either_way(SHEAR, rng)
    return _affine(image, (1, 0, 0, shear, 1, -shear * image.width / 2))


def translate_x(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture moved sideways by whole pixels."""
    step = round(_either_way(TRANSLATE_RATIO * image.width, rng))
    return _affine(image, (1, 0, step, 0, 1, 0), Image.Resampling.NEAREST)


def translate_y(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture moved up or down by whole pixels."""
    step = round(_either_way(TRANSLATE_RATIO * image.height, rng))
    return _affine(image, (1, 0, 0, 0, 1, step), Image.Resampling.NEAREST)


def rotate(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture turned about its middle."""
    angle = _either_way(ROTATE_DEGREES, rng)
    return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=FILL)


def _affine(
    image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """Return the picture whose pixel (x, y) is that of `image` at (a x + b y + c, d x + e y + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=FILL)


OPERATIONS: tuple[Operation, ...] = (
    identity,
    auto_contrast,
    equalize,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    rotate,
)
