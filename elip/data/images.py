"""Image files as RGB pictures; what is wrong with a broken one is said in words."""

import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from elip.config.schema import DataConfig
from elip.data.opening import open_file, shown
from elip.data.pixels import Background, Crop, load, resize, to_rgb
from elip.errors import DataError, located

# Pillow's decoders of common pictures; the others (some start other programs) stay shut to files of unknown origin.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_TURNS: dict[int | None, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of each EXIF orientation upright; 1 is upright."""
_TURNS_BACK = {**_TURNS, 6: _TURNS[8], 8: _TURNS[6]}
_ACROSS = {_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]}
"""Those that make rows of columns."""
_MIRRORING = {_TURNS[2], _TURNS[3], _TURNS[6], _TURNS[7]}, {_TURNS[3], _TURNS[4], _TURNS[7], _TURNS[8]}
"""Those after which left and right, top and bottom are the other way round."""

_SCALES = (8, 4, 2)
"""By which libjpeg makes a picture smaller while it decodes, at less work."""

_HEADER_PIXELS = 1 << 28  # some decoders allocate while they read the header: Pillow stops them at twice this
_limit_lock = threading.Lock()


@dataclass(frozen=True)
class View:
    """A part of a picture, to be seen as a square; which part, is chosen when the size of the picture is known.

    Args:
        choose: from width and height of the picture, upright, to the part.
        size: side S of the square, pixels.
        fast: decode a JPEG at the smallest of the scales 1/2, 1/4 and 1/8 at which the part is at least S wide and
            high. That leaves out what the resizing would take away, if not quite in the same way: levels differ by 1 to
            2 of 255 in the mean, by tens at sharp edges.
    """

    choose: Callable[[int, int], Crop]
    size: int
    fast: bool = False

    def of(self, image: Image.Image) -> Image.Image:
        """Return what is seen of an RGB picture, S x S."""
        return resize(_cropped(image, self.choose(*image.size)), self.size)


@dataclass(frozen=True)
class ImageFolder:
    """Where pictures are, and how their files become RGB pictures.

    Args:
        root: folder that relative paths start from.
        background: see `elip.data.pixels`.
        max_pixels: the most pixels of a picture; one that has more by its header is not decoded.
        orient: turn pictures upright as their EXIF data say, rather than leave them as they are stored.
    """

    root: str | Path = "."
    background: Background = "white"
    max_pixels: int = DataConfig().max_image_pixels
    orient: bool = True

    @classmethod
    def configured(cls, data: DataConfig) -> "ImageFolder":
        """Return the folder of pictures of a run, read as its config says."""
        return cls(data.image_root, data.background, data.max_image_pixels, data.exif_orientation is not False)

    def open(self, name: str, field: str = "image", view: View | None = None) -> Image.Image:
        """Return the picture in a file, as RGB.

        Args:
            name: path of the file.
            field: of the item that names the picture, for messages.
            view: see `decode`.

        Raises:
            DataError: naming field and file: it is missing, cannot be read, or `decode` refuses it.
        """
        path = Path(self.root, name)
        with located(f"field {field!r}"), open_file(path) as file, located(shown(path)):
            return self.decode(file, view)

    def decode(self, file: BinaryIO, view: View | None = None) -> Image.Image:
        """Return the picture in an open file, as RGB; the first one, if it holds several.

        Args:
            file: of bytes.
            view: the square to return instead of the whole picture: what `view.of` gives of it, at less work.

        Raises:
            DataError: it is cut short or damaged, has too many pixels, is no image of a known format, or its values
                have no known range.
        """
        with _decoding(self.max_pixels):
            with _pillow_limit(max(self.max_pixels, _HEADER_PIXELS)):
                image = Image.open(file, formats=FORMATS)
            self._check_size(image)
            stored = _orientation(image) if image.format == "TIFF" else None  # gone once it is loaded
            if view is None or not (view.fast and isinstance(image, JpegImageFile)):
                load(image)  # also because what turns it may stand behind its pixels
            turn = self._turn(image, stored)
            return self._seen(image, turn, view) if view else _transposed(to_rgb(image, self.background), turn)

    def _turn(self, image: Image.Image, stored: int | None) -> Image.Transpose | None:
        """Return what is left to do to an opened picture for it to lie as it should."""
        if image.format == "TIFF":  # Pillow turns these upright while it loads them
            return None if self.orient else _TURNS_BACK.get(stored)
        return _TURNS.get(_orientation(image)) if self.orient else None

    def _seen(self, image: ImageFile.ImageFile, turn: Image.Transpose | None, view: View) -> Image.Image:
        """Return the view of an opened picture; it is decoded here, if it is not yet."""
        width, height = image.size[::-1] if turn in _ACROSS else image.size
        crop = _before_turn(view.choose(width, height), width, height, turn)
        scale = _draft(image, crop, view.size)
        left, top, right, bottom = (edge / scale for edge in crop)
        load(image)
        outer = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
        part = to_rgb(image, self.background, partial(_cropped, crop=outer))
        if scale == 1:
            return resize(_transposed(part, turn), view.size)
        inner = left - outer[0], top - outer[1], right - outer[0], bottom - outer[1]
        square = part.resize((view.size, view.size), Image.Resampling.BICUBIC, box=inner)
        return _transposed(square, turn)

    def _check_size(self, image: Image.Image) -> None:
        pixels = image.width * image.height
        if pixels > self.max_pixels:
            raise DataError(_too_large(pixels, f" ({image.width} x {image.height})", self.max_pixels))


@contextmanager
def _decoding(max_pixels: int) -> Iterator[None]:
    """Say in words what decoders raise, which on damaged files is anything."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"not an image (known formats: {', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+", str(error))
        raise DataError(_too_large(int(found[0]) if found else 0, "", max_pixels)) from error
    except MemoryError as error:
        raise DataError("the image needs more memory than there is") from error
    except Exception as error:
        raise DataError(f"the image is cut short or damaged: {error or type(error).__name__}") from error


@contextmanager
def _pillow_limit(pixels: int | None) -> Iterator[None]:
    """Put another limit, or none, in the place of Pillow's own, which holds for a whole process, for a moment."""
    with _limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _too_large(pixels: int, sides: str, limit: int) -> str:
    return (
        f"the picture has {pixels:,} pixels{sides}, more than data.max_image_pixels={limit}; make it smaller, or raise "
        "that limit"
    )


def _orientation(image: Image.Image) -> int | None:
    """Return what EXIF says, None of a picture whose EXIF data are missing or damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # nothing that a picture needs is lost, whatever is wrong
        return None


def _transposed(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _before_turn(crop: Crop, width: int, height: int, turn: Image.Transpose | None) -> Crop:
    """Return where a part of a picture, so wide and high after `turn`, lies before it."""
    left, top, right, bottom = crop
    if turn in _MIRRORING[0]:
        left, right = width - right, width - left
    if turn in _MIRRORING[1]:
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if turn in _ACROSS else (left, top, right, bottom)


def _draft(image: ImageFile.ImageFile, crop: Crop, size: int) -> int:
    """Have an undecoded picture made smaller as it is decoded; return by how much, 1 where that cannot be."""
    left, top, right, bottom = crop
    for scale in _SCALES:
        if min(right - left, bottom - top) >= scale * size:
            return scale if image.draft(None, (image.width // scale, image.height // scale)) else 1
    return 1


def _cropped(image: Image.Image, crop: Crop) -> Image.Image:
    """Return a part of a picture, which may be of any size."""
    if crop == (0, 0, *image.size):
        return image
    with _pillow_limit(None):
        return image.crop(crop)
