"""What a run is made from beside its config: the files of its data and of its code, told apart by their content."""

import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from elip.errors import ElipError
from elip.registry import REDUCERS, file_of

_DIGITS = 16


def plugin_files(plugins: Iterable[str]) -> list[Path]:
    """Return the files of plug-ins: of a package, all that are in it. One that cannot be found has none."""
    files: list[Path] = []
    for plugin in plugins:
        if (place := file_of(plugin)) is not None:
            files += sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]
    return files


def reducer_files(name: str) -> list[Path]:
    """Return the files of a reducer's class and of those that it is made from."""
    with suppress(ElipError):
        classes = REDUCERS.get(name).__mro__
        return [Path(file) for cls in classes if (file := _file(cls)) is not None]
    return []


def digest(files: Iterable[Path]) -> str:
    """Return what tells contents of files apart."""
    return hashlib.sha256("".join(filter(None, map(_digest, files))).encode()).hexdigest()[:_DIGITS]


def made_from(config: Mapping[str, Any], splits: Sequence[str]) -> dict[str, str]:
    """Return the files that a run of a config, and its evaluations on some splits, are made from, with their digests.

    Shards of images are left out: to read them all takes too long.
    """
    data = [Path(file) for split in ("train", *splits) for file in config["data"].get(split) or []]
    files = [file for file in data if file.suffix != ".tar"] + plugin_files(config.get("plugins") or [])
    files += reducer_files(config["reducer"]["name"])[:1]
    return {str(file): found for file in files if (found := _digest(file))}


def _digest(file: Path) -> str:
    """Return the digest of a file, "" if there is none."""
    try:
        found = file.stat()
        return _digest_of(file, found.st_size, found.st_mtime_ns)
    except OSError:
        return ""


@cache
def _digest_of(file: Path, _size: int, _changed: int) -> str:
    with file.open("rb") as content:
        value = hashlib.sha256()
        while part := content.read(1 << 20):
            value.update(part)
    return value.hexdigest()[:_DIGITS]


def _file(cls: type) -> str | None:
    with suppress(TypeError, OSError):
        return inspect.getsourcefile(cls)
    return None
