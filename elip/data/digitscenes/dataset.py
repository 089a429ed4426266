"""DigitScenes on disk: pictures, annotation files and tokenizer in one folder."""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elip.atomic import remove_stale_parts, replacing
from elip.data.digitscenes.clutter import LEVELS
from elip.data.digitscenes.draw import write_pictures
from elip.data.digitscenes.handwriting import load_handwriting
from elip.data.digitscenes.items import annotations
from elip.data.digitscenes.vocab import vocabulary
from elip.data.vocabulary import write_tokenizer
from elip.errors import DataError

NAME = "DigitScenes"
FORMAT = 2
"""Raised whenever the same settings come to make other files than before."""
IMAGE_SIZES = (32, 4096)
"""Smallest and largest side: below, digits blur; above, JPEG and memory are near their ends."""
CLUTTERED_IMAGE_SIZE = 64
"""Smallest side of pictures with clutter, whose digits are smaller."""
MIN_PICTURES, MAX_PICTURES = 2, 1_000_000
"""In a split: statements about two pictures need two, and scenes that all differ run out some time."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides every byte of a data set."""

    num_train: int
    num_val: int
    num_test: int
    image_size: int = 64
    """Side of the square pictures, pixels."""
    clutter: int = 0
    """How much there is that no text tells of: 0 (nothing, and large digits) to 2."""
    seed: int = 0
    format: int = FORMAT

    def __post_init__(self) -> None:
        pictures = (MIN_PICTURES, MAX_PICTURES)
        sides = (CLUTTERED_IMAGE_SIZE if self.clutter else IMAGE_SIZES[0], IMAGE_SIZES[1])
        ranges = {
            **{"num_train": pictures, "num_val": pictures, "num_test": pictures},
            **{"clutter": (0, len(LEVELS) - 1), "image_size": sides},
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise DataError(f"{NAME}: {name} must be between {low} and {high}, got {getattr(self, name)}")

    def recorded(self) -> dict[str, int]:
        """Return what `meta.json` holds: clutter only where there is any, since older sets do not know of it."""
        return {name: value for name, value in asdict(self).items() if name != "clutter" or value}


def build(
    out: Path,
    *,
    num_train: int,
    num_val: int,
    num_test: int,
    image_size: int = 64,
    clutter: int = 0,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Return `out`, a folder with the DigitScenes data set of these settings, made unless it is already there.

    `meta.json` holds the settings and is marked as finished after everything else is written; a set that was left
    half made is made again.

    Args:
        num_train: pictures in the training split, from 2 to a million; those of a smaller set are the first of a
            larger one.
        num_val: pictures in the validation split, in the same range.
        num_test: pictures in the test split, in the same range.
        image_size: side of the square pictures, pixels, from 32 to 4096.
        clutter: 0 for large digits alone; 1 or 2 for smaller ones among printed shapes, in pictures of 64 px or more.
            All texts are the same at all levels.
        seed: another one makes other scenes and texts, from the same handwriting.
        force: replace a data set of other settings, and make one of the same settings again.

    Raises:
        DataError: a number is out of range, or the folder holds something else.
        ElipError: scikit-learn is not installed.
        OSError: the folder cannot be written.
    """
    parts = {"train": num_train, "val": num_val, "test": num_test}
    sizes = {f"num_{split}": num for split, num in parts.items()}
    settings = Settings(**sizes, image_size=image_size, clutter=clutter, seed=seed)
    if is_built(out, settings) and not force:
        return out
    handwriting = load_handwriting()
    _make_room(out, settings, force)
    pictures = {
        split: write_pictures(out / "images", split, num, image_size, seed, handwriting, clutter)
        for split, num in parts.items()
    }
    files = annotations(pictures["train"], pictures["val"], pictures["test"], image_size)
    for name, content in files.items():
        (out / name).write_text(_to_json(content), encoding="utf-8")
    write_tokenizer(vocabulary(), out / "tokenizer")
    counts = {name: len(content) for name, content in files.items() if isinstance(content, list)}
    _write_meta(out, settings, finished=True, items=counts)
    return out


def is_built(out: Path, settings: Settings) -> bool:
    """Return whether the folder holds a finished data set of these settings."""
    meta = _read_meta(out)
    return meta is not None and meta["finished"] and meta["settings"] == settings.recorded()


def _make_room(out: Path, settings: Settings, force: bool) -> None:
    """Make the folder ours, without the pictures of an earlier set, or refuse to touch it."""
    meta = _read_meta(out)
    if meta is None and out.exists() and (not out.is_dir() or any(map(_is_foreign, out.iterdir()))):
        raise DataError(f"{out} exists and is no {NAME} folder: choose a new or an empty folder")
    if meta is not None and meta["finished"] and not force:
        there, asked = {"clutter": 0, **meta["settings"]}, asdict(settings)
        changes = [
            f"{key}: {there.get(key)} there, {value} asked for"
            for key, value in asked.items()
            if there.get(key) != value
        ]
        raise DataError(
            f"{out} holds a {NAME} set of other settings ({'; '.join(changes)}): choose another folder, "
            "or replace the set with --force (from Python: force=True)"
        )
    out.mkdir(parents=True, exist_ok=True)
    remove_stale_parts(out)
    _write_meta(out, settings, finished=False, items={})
    if (out / "images").exists():
        shutil.rmtree(out / "images")


def _is_foreign(file: Path) -> bool:
    """Return whether a file is none that writing the first `meta.json` may leave when it is killed."""
    return re.fullmatch(r"meta\.json\..*part", file.name) is None


def _read_meta(out: Path) -> dict[str, Any] | None:
    """Return the content of `meta.json`, or None where there is no such file of ours."""
    try:
        meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return meta if isinstance(meta, dict) and meta.get("name") == NAME else None


def _write_meta(out: Path, settings: Settings, *, finished: bool, items: dict[str, int]) -> None:
    meta = {"name": NAME, "settings": settings.recorded(), "items": items, "finished": finished}
    with replacing(out / "meta.json") as file:
        file.write((json.dumps(meta, indent=1) + "\n").encode())


def _to_json(content: list[Any] | dict[str, Any]) -> str:
    """Return the list or object as JSON with one entry a line, to be read by people too."""
    if isinstance(content, dict):
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()) + "\n}\n"
    return "[\n" + ",\n".join(map(json.dumps, content)) + "\n]\n"
