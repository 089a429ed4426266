"""From a picture to the encoder's input, with augmentation that depends on nothing but the generator handed in.

Sizes: H and W are the sides of a picture in pixels, S is the side of the encoder's square input.
"""

import math
import random
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from elip.data.images import View
from elip.data.pixels import Crop, levels, resize
from elip.data.randaugment import rand_augment
from elip.errors import ConfigError


@dataclass(frozen=True)
class Normalize:
    """From levels of 8 bits to what an encoder takes, and back.

    Args:
        mean, std: of the channels R, G, B, for values in [0, 1].
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> Tensor:
        """Return a picture [3, H, W] float, normalised."""
        pixels = levels(image)[..., :3].permute(2, 0, 1)  # [3, H, W] uint8
        floats = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        mean, std = self._levels
        return floats.sub_(mean).div_(std)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Return normalised images [..., 3, H, W] as they look, uint8 of the same shape."""
        mean, std = (level.to(images.device) for level in self._levels)
        return (images.float() * std + mean).round().clamp(0, 255).to(torch.uint8)

    @cached_property
    def _levels(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation on the scale of 8 bits, [3, 1, 1] each: pictures need no division by 255 of their own."""
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (self.mean, self.std))
        return mean, std


CLIP = Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""CLIP's, which ALBEF trains with."""


def choose_normalize(setting: str, own: tuple[Any, Any] | None) -> Normalize:
    """Return what `data.normalization` asks for.

    Args:
        setting: `clip`, or `encoder`.
        own: mean and standard deviation by the encoder's own config, if it has them.

    Raises:
        ConfigError: the encoder's are asked for, and it has none.
    """
    if setting == "clip":
        return CLIP
    if own is None:
        raise ConfigError(
            "data.normalization: this image encoder does not say how its images were normalised; set it to clip."
        )
    return Normalize(*own)


@dataclass(frozen=True)
class TrainTransform:
    """Random crop, flip and RandAugment, then the encoder's normalisation.

    Args:
        image_size: side S of the result, pixels.
        crop_scale: least and greatest area of the crop, as a share of the picture.
        flip: mirror half of the pictures. Switch off where texts name left and right.
        randaugment: apply `elip.data.randaugment`.
        normalize: the encoder's normalisation.
        fast_decode: decode JPEG files no finer than the crop needs; see `elip.data.images.View`.
    """

    image_size: int
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: bool = True
    randaugment: bool = True
    normalize: Normalize = CLIP
    fast_decode: bool = False

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """Return [3, S, S] float; the same for the same picture and state of `rng`, which it advances."""
        return self.finish(self.view(rng).of(image), rng)

    def view(self, rng: random.Random) -> View:
        """Return the crop, which is drawn from `rng` when the size of the picture is known."""
        return View(partial(draw_crop, scale=self.crop_scale, rng=rng), self.image_size, self.fast_decode)

    def finish(self, square: Image.Image, rng: random.Random) -> Tensor:
        """Return [3, S, S] float of what `view` shows of a picture."""
        if self.flip and rng.random() < 0.5:
            square = ImageOps.mirror(square)
        if self.randaugment:
            square = rand_augment(square, rng)
        return self.normalize(square)


@dataclass(frozen=True)
class EvalTransform:
    """The whole picture, squeezed into a square, under the encoder's normalisation.

    Args:
        image_size: side S of the result, pixels.
        normalize: the encoder's normalisation.
    """

    image_size: int
    normalize: Normalize = CLIP

    def __call__(self, image: Image.Image) -> Tensor:
        """Return [3, S, S] float."""
        return self.normalize(resize(image, self.image_size))


def draw_crop(width: int, height: int, scale: tuple[float, float], rng: random.Random) -> Crop:
    """Return a random part of a picture, as GoogLeNet's training did (arXiv:1409.4842, section 6).

    Its share of the area is drawn from `scale`, its aspect ratio from 3/4 to 4/3, evenly in the logarithm. If ten draws
    do not fit into the picture, it is the largest centred part with an allowed aspect ratio.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
