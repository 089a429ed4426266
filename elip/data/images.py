"""Image files as RGB pictures; what is wrong with a broken one is said in words."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from elip.config.schema import DataConfig
from elip.data.messages import located, missing_file
from elip.errors import DataError

# Pillow's decoders of common pictures; the others (some start other programs) stay shut to files of unknown origin.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


@dataclass(frozen=True)
class ImageFolder:
    """Where pictures are, and how their files become RGB pictures.

    Args:
        root: folder that relative paths start from.
    """

    root: str | Path = "."

    @classmethod
    def configured(cls, data: DataConfig) -> "ImageFolder":
        """Return the folder of pictures of a run, read as its config says."""
        return cls(data.image_root)

    def open(self, name: str, field: str = "image") -> Image.Image:
        """Return the picture in a file, as RGB.

        Args:
            name: path of the file.
            field: of the item that names the picture, for messages.

        Raises:
            DataError: naming field and file: it is missing, cannot be read, is cut short or damaged, or is no image of
                a known format.
        """
        path = Path(self.root, name)
        with located(f"field {field!r}"):
            try:
                with located(str(path)), path.open("rb") as file:
                    return self.decode(file)
            except FileNotFoundError as error:
                raise DataError(f"{path}: {missing_file(path)}") from error
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    def decode(self, file: BinaryIO) -> Image.Image:
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
