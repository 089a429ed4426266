"""Samples as they lie in WebDataset tar shards: each member is part of one, passed over and counted, or an error.

A member belongs to the sample that its name up to the last dot says, if it has one of the endings below; names may hold
other dots (`img.v1.0.jpg`, `img.v1.0.txt`). The members of a sample must be neighbours. It has one picture, and its
caption in a .txt, else in the field `caption` of a .json; a .json beside a .txt counts for nothing (img2dataset puts
facts about the picture there). Where there is a sample `a`, a lone `a.mask.png` is no sample that lacks a caption, but
has the unknown ending `.mask.png`.
"""

import bz2
import gzip
import lzma
import posixpath
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from elip.data.opening import open_file
from elip.errors import DataError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
TEXT_EXTENSIONS = ("txt", "json")
_READ_BYTES = 1 << 20
_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
"""How compressed archives are read, by their first bytes."""
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, struct.error, ValueError, OverflowError)


@dataclass(frozen=True)
class RawSample:
    """The files of one sample as they lie in a shard.

    Args:
        shard: the tar file.
        key: the part of the file names that the sample's files share.
        files: content by extension, in lower case without the dot; of a sample without picture or caption all empty.
        damage: why the shard could not be read on from here, or None.
    """

    shard: Path
    key: str
    files: dict[str, bytes]
    damage: str | None = None

    @property
    def where(self) -> str:
        """The place of the sample, for messages."""
        return f"{self.shard} sample {self.key!r}"

    @property
    def is_whole(self) -> bool:
        """Whether there are a picture and a caption."""
        return all(any(name in self.files for name in names) for names in (IMAGE_EXTENSIONS, TEXT_EXTENSIONS))


@dataclass
class PassedOver:
    """Members that belong to no sample, counted by the reason, each with the first one's name."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count a member, or several."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.examples.setdefault(reason, example)

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason} ({self.examples[reason]})" for reason, count in self.counts.items())


def read_shard(shard: Path, passed_over: PassedOver | None = None) -> Iterator[RawSample]:
    """Yield the samples of a tar file, compressed or not, read once from start to end.

    A damaged archive ends with one sample that says so.

    Args:
        shard: the tar file.
        passed_over: where to count the members that belong to no sample.

    Raises:
        DataError: there is no such file; a member is something else than a file, or there twice; the members of a
            sample are no neighbours, or two of them are pictures. The message names member or sample.
    """
    with ExitStack() as stack:
        samples = _Samples(shard, PassedOver() if passed_over is None else passed_over, stack)
        file = stack.enter_context(open_file(shard))
        try:
            tar = stack.enter_context(_open_tar(file))
            for member in tar:
                yield from samples.add(member, tar)
            _check_end(tar)
        except DataError:
            raise
        except _DAMAGE as error:
            damage = f"the archive is cut short or damaged here: {error}"
            yield RawSample(shard, samples.last_key, {}, damage)
        else:
            yield from samples.finish()


class _StrictTarInfo(tarfile.TarInfo):
    """Member headers of which a damaged or missing one is an error; `tarfile` takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(tar)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("there is no end mark") from error


def _open_tar(file: IO[bytes]) -> tarfile.TarFile:
    start = file.read(6)
    file.seek(0)
    opener = next((opener for mark, opener in _OPENERS.items() if start.startswith(mark)), None)
    stream = opener(file) if opener else file
    return tarfile.open(fileobj=stream, mode="r|", bufsize=_READ_BYTES, tarinfo=_StrictTarInfo)


def _check_end(tar: tarfile.TarFile) -> None:
    assert tar.fileobj is not None
    while rest := tar.fileobj.read(_READ_BYTES):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("more follows the end mark; if archives were joined, pack their files into one")


class _Samples:
    """Joins the members of a shard to samples.

    All that may still belong together is held: samples whose names are one another up to some dot.
    """

    def __init__(self, shard: Path, passed_over: PassedOver, stack: ExitStack) -> None:
        self.last_key = ""
        self._shard = shard
        self._passed_over = passed_over
        self._stack = stack
        self._base = ""  # names up to the first dot of what is held
        self._open: dict[str, RawSample] = {}
        self._incomplete: list[RawSample] = []
        self._seen: set[str] = set()
        self._second: tarfile.TarFile | None = None  # the shard once more, to look up what links lead to
        self._members: dict[str, tarfile.TarInfo] = {}

    def add(self, member: tarfile.TarInfo, tar: tarfile.TarFile) -> Iterator[RawSample]:
        """Take the next member, and yield the samples that are finished by it."""
        reason = _reason_to_pass(member)
        if reason is not None:
            self._passed_over.add(reason, f"{self._shard}: {member.name}")
            return
        content = self._content(member, tar)
        key, _, extension = member.name.rpartition(".")
        if key not in self._open:
            yield from self._start(key, member)
        files = self._open[key].files
        if extension.lower() in files:
            raise self._wrong(member, f"there is another .{extension.lower()} of sample {key!r}; which one is meant?")
        files[extension.lower()] = content
        self.last_key = key

    def _start(self, key: str, member: tarfile.TarInfo) -> Iterator[RawSample]:
        if key in self._seen:
            raise self._wrong(
                member,
                f"other files of sample {key!r} lie further ahead; they must be neighbours. Pack the files anew in the "
                "order of their names: tar --sort=name -cf NEW.tar FOLDER",
            )
        base = _up_to_first_dot(key)
        if base != self._base:
            yield from self.finish()
        self._base = base
        for other in [other for other in self._open if not (_extends(key, other) or _extends(other, key))]:
            yield from self._close(self._open.pop(other))
        self._open[key] = RawSample(self._shard, key, {})
        self._seen.add(key)

    def finish(self) -> Iterator[RawSample]:
        """Yield what is held."""
        for sample in self._open.values():
            yield from self._close(sample)
        for sample in self._incomplete:
            owner = self._owner(sample.key)
            if owner is None:
                yield sample
                continue
            for extension in sample.files:
                name = f"{sample.key}.{extension}"
                self._passed_over.add(f"ending in {name[len(owner) :]}", f"{self._shard}: {name}")
        self._open, self._incomplete = {}, []

    def _close(self, sample: RawSample) -> Iterator[RawSample]:
        pictures = [extension for extension in sample.files if extension in IMAGE_EXTENSIONS]
        if len(pictures) > 1:
            raise DataError(
                f"{sample.where}: two pictures (.{', .'.join(pictures)}); which one is meant? Name the other one "
                f"otherwise, e.g. {posixpath.basename(sample.key)}.other.{pictures[1]}"
            )
        if sample.is_whole:
            yield sample
        else:
            self._incomplete.append(RawSample(sample.shard, sample.key, dict.fromkeys(sample.files, b"")))

    def _owner(self, key: str) -> str | None:
        """Return the sample of which `key` is the name with more behind a dot, None if there is none."""
        while "." in posixpath.basename(key):
            key = key.rpartition(".")[0]
            if key in self._seen:
                return key
        return None

    def _content(self, member: tarfile.TarInfo, tar: tarfile.TarFile) -> bytes:
        if member.islnk() or member.issym():
            return self._linked(member)
        if not member.isreg() or member.issparse():
            kind = "a sparse file" if member.issparse() else "a device, a pipe or something else that is no file"
            raise self._wrong(member, f"it is {kind}; pack plain files only")
        return _read(tar, member)

    def _linked(self, link: tarfile.TarInfo) -> bytes:
        """Return the content of a file in the shard that a link leads to, perhaps over others.

        The shard is opened anew to look back.
        """
        if self._second is None:
            self._second = self._stack.enter_context(tarfile.TarFile.open(self._shard))
            self._members = _by_name(self._second)
        found, seen = link, {posixpath.normpath(link.name)}
        while not found.isreg():
            target = _target(found)
            if target in seen or target not in self._members:
                raise self._wrong(
                    link,
                    f"it is a link to {link.linkname!r}, which is no file in the shard, nor leads to one; pack "
                    "files in the place of links: tar --dereference --hard-dereference",
                )
            seen.add(target)
            found = self._members[target]
        return _read(self._second, found)

    def _wrong(self, member: tarfile.TarInfo, problem: str) -> DataError:
        return DataError(f"{self._shard}: member {member.name!r}: {problem}")


def _by_name(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """Return the files of an archive, and the links that lead to them."""
    members = [(posixpath.normpath(member.name), member) for member in tar]
    links = {name: member for name, member in members if member.islnk() or member.issym()}
    return links | {name: member for name, member in members if member.isreg()}


def _target(link: tarfile.TarInfo) -> str:
    """Return the name that a link leads to."""
    folder = "" if link.islnk() else posixpath.dirname(link.name)
    return posixpath.normpath(posixpath.join(folder, link.linkname))


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _reason_to_pass(member: tarfile.TarInfo) -> str | None:
    """Return why a member belongs to no sample, None if it belongs to one, or should."""
    *folders, name = member.name.split("/")
    if name.startswith("._") or "__MACOSX" in folders:
        return "of macOS"
    if any(folder.startswith("PaxHeader") for folder in folders):
        return "PaxHeaders"
    if member.isdir():
        return "folders"
    if not (member.isreg() or member.islnk() or member.issym()):
        return None
    stem, _, extension = name.rpartition(".")
    if not stem:
        return "without ending" if not name.startswith(".") else "hidden"
    return None if extension.lower() in IMAGE_EXTENSIONS + TEXT_EXTENSIONS else f"ending in .{extension}"


def _up_to_first_dot(key: str) -> str:
    folder, _, name = key.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"


def _extends(key: str, other: str) -> bool:
    """Return whether `key` is `other` with more behind a dot."""
    return key.startswith(f"{other}.")
