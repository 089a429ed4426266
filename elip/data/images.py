"""Image files as RGB pictures; what is wrong with a broken one is said in words."""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from elip.data.messages import located, missing_file
from elip.errors import DataError

# Pillow's decoders of common pictures; the others (some start other programs) stay shut to files of unknown origin.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def load_image(path: Path) -> Image.Image:
    """Return the picture in a file, as RGB.

    Raises:
        DataError: the file is missing, cannot be read, is cut short or damaged, or is no image of a known format.
    """
    try:
        with located(str(path)), path.open("rb") as file:
            return decode_image(file)
    except FileNotFoundError as error:
        raise DataError(f"{path}: {missing_file(path)}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def decode_image(file: BinaryIO) -> Image.Image:
    """Return the picture in an open file, as RGB.

    Raises:
        DataError: it is cut short or damaged, or no image of a known format.
    """
    try:
        return Image.open(file, formats=FORMATS).convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError(f"not an image (known formats: {', '.join(FORMATS)})") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"the image is cut short or damaged: {error}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"the image is too large: {error}") from error
