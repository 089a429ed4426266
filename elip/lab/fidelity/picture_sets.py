"""Pictures to set encoders beside each other on: a folder, with a folder a class in it or without; or pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from typing_extensions import NotRequired, TypedDict

from elip.data.annotations import load_annotations
from elip.data.ids import picture_path
from elip.data.images import ImageFolder
from elip.efficiency.costed import SUFFIXES, picture_files
from elip.errors import DataError


@dataclass(frozen=True)
class PictureSet:
    """Pictures, and what is known of each.

    Args:
        images: the folder of the pictures.
        paths: of their files.
        classes: of each picture; None where they are not known.
        captions: of each picture, one or several; None where there are none.
    """

    images: ImageFolder
    paths: Sequence[str]
    classes: Sequence[str] | None = None
    captions: Sequence[Sequence[str]] | None = None

    def spread(self, limit: int | None) -> "PictureSet":
        """Return at most that many of the pictures, evenly spread over all."""
        count = len(self.paths) if limit is None else min(limit, len(self.paths))
        chosen = [place * len(self.paths) // count for place in range(count)]

        def of(values: Sequence | None) -> list | None:
            return None if values is None else [values[place] for place in chosen]

        return PictureSet(self.images, of(self.paths) or [], of(self.classes), of(self.captions))


class _PairItem(TypedDict):
    """What is wanted of an annotated item."""

    image: str
    caption: NotRequired[str | list[str]]


def pictures_of_folder(folder: Path, images: ImageFolder) -> PictureSet:
    """Return the pictures of a folder and its subfolders.

    Where all of them lie in subfolders, of which there are several, each subfolder is a class.

    Args:
        folder: where they are.
        images: how files become pictures; its own folder does not count.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"--images: there is no folder {folder}.")
    paths = picture_files(folder)
    if not paths:
        raise DataError(f"--images: there are no pictures in {folder} (known suffixes: {', '.join(sorted(SUFFIXES))}).")
    tops = [PurePath(path).parts[0] for path in paths]
    by_class = all(top != path for top, path in zip(tops, paths, strict=True)) and len(set(tops)) > 1
    return PictureSet(replace(images, root=folder), paths, tops if by_class else None)


def pictures_of_pairs(file: Path, images: ImageFolder) -> PictureSet:
    """Return the pictures of an annotation file with their captions; what several items say of one picture is joined.

    Args:
        file: JSON or JSON-lines, items with a field `image` and, if texts are to be found, a field `caption`.
        images: the folder that their paths start from.

    Raises:
        DataError: the file is missing or malformed, or some pictures have a caption and some have none.
    """
    annotations = load_annotations([file], _PairItem)
    said: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for item in annotations:
        path = picture_path(images.root, item["image"])
        names.setdefault(path, item["image"])
        caption = item.get("caption", [])
        said.setdefault(path, []).extend([caption] if isinstance(caption, str) else caption)
    captions = list(said.values())
    without = [name for name, texts in zip(names.values(), captions, strict=True) if not texts]
    if without and len(without) < len(captions):
        raise DataError(
            f"--data: {file}: {len(without)} of {len(captions)} pictures have no caption, the first is {without[0]}; "
            "give all of them one, or none."
        )
    return PictureSet(images, list(names.values()), captions=None if without else captions)
