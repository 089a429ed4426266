"""Image files as RGB pictures; what is wrong with a broken one is said in words."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from elip.config.schema import DataConfig
from elip.data.opening import open_file, shown
from elip.data.pixels import Background, to_rgb
from elip.errors import DataError, located

# Pillow's decoders of common pictures; the others (some start other programs) stay shut to files of unknown origin.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_TURNS = {
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

_HEADER_PIXELS = 1 << 28  # some decoders allocate while they read the header: Pillow stops them at twice this
_limit_lock = threading.Lock()


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

    def open(self, name: str, field: str = "image") -> Image.Image:
        """Return the picture in a file, as RGB.

        Args:
            name: path of the file.
            field: of the item that names the picture, for messages.

        Raises:
            DataError: naming field and file: it is missing, cannot be read, or `decode` refuses it.
        """
        path = Path(self.root, name)
        with located(f"field {field!r}"), open_file(path) as file, located(shown(path)):
            return self.decode(file)

    def decode(self, file: BinaryIO) -> Image.Image:
        """Return the picture in an open file, as RGB; the first one, if it holds several.

        Raises:
            DataError: it is cut short or damaged, has too many pixels, is no image of a known format, or its values
                have no known range.
        """
        with _decoding(self.max_pixels):
            with _pillow_limit(self.max_pixels):
                image = Image.open(file, formats=FORMATS)
            self._check_size(image)
            turned = image.format == "TIFF"  # Pillow turns these upright while it loads them
            stored = _orientation(image) if turned else None
            rgb = to_rgb(image, self.background)
            if turned:
                return rgb if self.orient else _transposed(rgb, _TURNS_BACK, stored)
            return _transposed(rgb, _TURNS, _orientation(image)) if self.orient else rgb

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
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Keep Pillow's own limit, which holds for a whole process, out of the way for a moment."""
    with _limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max(max_pixels, _HEADER_PIXELS)
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


def _transposed(image: Image.Image, turns: dict[int, Image.Transpose], orientation: int | None) -> Image.Image:
    return image.transpose(turns[orientation]) if orientation in turns else image
