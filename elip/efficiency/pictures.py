"""Pictures to take the mean over, for reducers that keep different numbers of tokens in different images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

from PIL import Image
from torch import Tensor
from typing_extensions import TypedDict

from elip.data.annotations import load_annotations
from elip.data.datasets import open_image
from elip.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


class PictureItem(TypedDict):
    """What is wanted of an annotated item."""

    image: str


class Pictures(Sequence[Tensor]):
    """Pictures as the encoder gets them, [3, S, S] each, opened when they are asked for.

    Args:
        root: folder that relative paths start from.
        paths: of the files.
        transform: from a picture to the encoder's input.
    """

    def __init__(self, root: Path, paths: Sequence[str], transform: Callable[[Image.Image], Tensor]) -> None:
        self._root, self._paths, self._transform = root, paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...
    def __getitem__(self, index: int | slice) -> "Tensor | Pictures":
        if isinstance(index, slice):
            return Pictures(self._root, self._paths[index], self._transform)
        return self._transform(open_image(self._root, self._paths[index]))


def find_pictures(
    source: Path, image_root: Path | None, limit: int, transform: Callable[[Image.Image], Tensor]
) -> Pictures:
    """Return pictures of a data set, evenly spread over it.

    Args:
        source: a folder of pictures, searched with its subfolders; or a JSON or JSON-lines file of items with a field
            `image`.
        image_root: folder that relative paths in the file start from; None for the file's own.
        limit: the most pictures to take.
        transform: from a picture to the encoder's input.

    Raises:
        DataError: there are no pictures, or the file is missing or malformed.
    """
    if source.is_dir():
        root, paths = source, [str(p.relative_to(source)) for p in sorted(source.rglob("*")) if _is_picture(p)]
    else:
        root = image_root or source.parent
        paths = [item["image"] for item in load_annotations([source], PictureItem)]
    if not paths:
        raise DataError(f"there are no pictures in {source} (known suffixes: {', '.join(sorted(SUFFIXES))}).")
    count = min(limit, len(paths))
    return Pictures(root, [paths[i * len(paths) // count] for i in range(count)], transform)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
