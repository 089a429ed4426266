"""Members of tar shards: part of a sample, passed over and counted, or an error that names them."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from elip.data.tar_samples import PassedOver, RawSample, read_shard
from elip.errors import DataError

Member = str | tuple[str, dict[str, Any]]
"""A name, of which the content is told by the name; or a name and fields of its header."""
Pack = Callable[..., Path]


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Packs members in the order given."""

    def write(members: Sequence[Member], name: str = "s.tar", mode: str = "w") -> Path:
        with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
            for member in members:
                given, fields = (member, {}) if isinstance(member, str) else member
                info = tarfile.TarInfo(given)
                for key, value in fields.items():
                    setattr(info, key, value)
                content = b"" if info.type != tarfile.REGTYPE else b"<%s>" % given.encode()
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return tmp_path / name

    return write


def read(path: Path) -> dict[str, list[str]]:
    """Return the endings of each sample, in order, and check that contents are those of the right members."""
    found: dict[str, list[str]] = {}
    for sample in read_shard(path):
        assert sample.damage is None
        assert sample.key not in found
        found[sample.key] = list(sample.files)
        if sample.is_whole:
            for ending, content in sample.files.items():
                assert content.decode() == f"<{sample.key}.{ending}>"
    return found


def passed(path: Path) -> PassedOver:
    passed_over = PassedOver()
    for _ in read_shard(path, passed_over):
        pass
    return passed_over


@pytest.mark.parametrize(
    ("members", "samples"),
    [
        (["a.jpg", "a.txt", "b.jpg", "b.txt"], {"a": ["jpg", "txt"], "b": ["jpg", "txt"]}),
        (["v1.0.jpg", "v1.0.txt", "v1.1.jpg", "v1.1.txt"], {"v1.0": ["jpg", "txt"], "v1.1": ["jpg", "txt"]}),
        (["d.1/a.b.png", "d.1/a.b.json"], {"d.1/a.b": ["png", "json"]}),
        (["a.jpg", "a.seg.npy", "a.txt"], {"a": ["jpg", "txt"]}),
        (["a.jpg", "a.seg.png", "a.txt"], {"a": ["jpg", "txt"]}),
        (["a.cap.png", "a.depth.png", "a.jpg", "a.txt"], {"a": ["jpg", "txt"]}),
        (["a.jpg", "a.k.jpg", "a.k.txt", "a.txt"], {"a.k": ["jpg", "txt"], "a": ["jpg", "txt"]}),
        (["1.1.jpg", "1.1.txt", "1.jpg", "1.txt"], {"1.1": ["jpg", "txt"], "1": ["jpg", "txt"]}),
        (["1.jpg", "1.txt", "1.1.jpg", "1.1.txt"], {"1": ["jpg", "txt"], "1.1": ["jpg", "txt"]}),
        (["a.jpg", "b.npy", "a.txt"], {"a": ["jpg", "txt"]}),
        (["a.jpg", "a.txt", "a.json"], {"a": ["jpg", "txt", "json"]}),
        (["a.jpg", "b.txt"], {"a": ["jpg"], "b": ["txt"]}),
        (["v.1.jpg", "v.2.jpg", "v.2.txt"], {"v.2": ["jpg", "txt"], "v.1": ["jpg"]}),
        (["a.jpg", "a.caption.txt"], {"a": ["jpg"]}),
    ],
)
def test_names_may_hold_dots(pack: Pack, members: list[str], samples: dict[str, list[str]]) -> None:
    assert read(pack(members)) == samples


def test_a_sample_is_given_as_soon_as_nothing_can_belong_to_it(pack: Pack) -> None:
    """Names that share all up to their first dot do not make a shard one group."""
    path = pack([f"v.{i}.{ending}" for i in range(9) for ending in ("jpg", "txt")])
    with tarfile.open(path) as tar:
        last_text = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last_text.offset])
    assert [sample.key for sample in read_shard(path) if sample.damage is None] == [f"v.{i}" for i in range(8)]


def test_what_belongs_to_no_sample_is_counted_with_an_example(pack: Pack) -> None:
    members: list[Member] = [
        ("data", {"type": tarfile.DIRTYPE}),
        ("data/PaxHeaders.7/a.jpg", {}),
        "data/._a.jpg",
        "data/a.jpg",
        "data/._a.txt",
        "data/a.txt",
        "__MACOSX/data/a.jpg",
        "data/.DS_Store",
        "data/a.npy",
        "data/b.npy",
        "data/a.mask.png",
        ("data/c.npy", {"type": tarfile.SYMTYPE, "linkname": "/nowhere"}),
        "LICENSE",
    ]
    path = pack(members)
    assert [sample.key for sample in read_shard(path)] == ["data/a"]
    assert str(passed(path)) == (
        f"1 folders ({path}: data), 1 PaxHeaders ({path}: data/PaxHeaders.7/a.jpg), 3 of macOS ({path}: data/._a.jpg), "
        f"1 hidden ({path}: data/.DS_Store), 3 ending in .npy ({path}: data/a.npy), "
        f"1 without ending ({path}: LICENSE), 1 ending in .mask.png ({path}: data/a.mask.png)"
    )


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["a.jpg", "a.jpg", "a.txt"], r"member 'a\.jpg': there is another \.jpg of sample 'a'; which one is meant\?"),
        (["a.jpg", "a.JPG", "a.txt"], r"member 'a\.JPG': there is another \.jpg of sample 'a'"),
        (
            ["a.jpg", "b.jpg", "a.txt", "b.txt"],
            r"member 'a\.txt': other files of sample 'a' lie further ahead; .*--sort",
        ),
        (["a.jpg", "a.txt", "b.jpg", "a.jpg"], r"member 'a\.jpg': other files of sample 'a' lie further ahead"),
        (
            ["a.jpg", "a.png", "a.txt"],
            r"sample 'a': two pictures \(\.jpg, \.png\); which one is meant\?.*a\.other\.png",
        ),
        ([("a.jpg", {"type": tarfile.CHRTYPE})], r"member 'a\.jpg': it is a device, a pipe or something else"),
        ([("fifo", {"type": tarfile.FIFOTYPE})], r"member 'fifo': it is a device, a pipe or something else"),
        (
            [("a.jpg", {"type": tarfile.LNKTYPE, "linkname": "z.jpg"})],
            r"member 'a\.jpg': it is a link to 'z\.jpg', which",
        ),
        (
            [("a.jpg", {"type": tarfile.SYMTYPE, "linkname": "/etc/x.jpg"})],
            r"it is a link to '/etc/x\.jpg', which is no",
        ),
        ([("a.jpg", {"type": tarfile.SYMTYPE, "linkname": "a.jpg"})], r"it is a link to 'a\.jpg', which is no file"),
        (
            [(a, {"type": tarfile.SYMTYPE, "linkname": b}) for a, b in (("a.jpg", "b.jpg"), ("b.jpg", "a.jpg"))],
            r"member 'a\.jpg': it is a link to 'b\.jpg', which is no file in the shard, nor leads to one",
        ),
    ],
)
def test_what_would_lose_or_mix_up_samples_is_an_error(pack: Pack, members: list[Member], message: str) -> None:
    with pytest.raises(DataError, match=rf"s\.tar:? .*{message}"):
        list(read_shard(pack(members)))


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[148:156] = b"        "
    header[148:155] = b"%06o\0" % sum(header)
    (tmp_path / "s.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(DataError, match=r"member 'a\.jpg': it is a sparse file"):
        list(read_shard(tmp_path / "s.tar"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_within_the_archive_are_followed(pack: Pack, mode: str) -> None:
    members: list[Member] = [
        "d/a.jpg",
        "d/a.txt",
        ("d/b.jpg", {"type": tarfile.LNKTYPE, "linkname": "d/a.jpg"}),
        ("d/b.txt", {"type": tarfile.SYMTYPE, "linkname": "./a.txt"}),
        ("e/c.jpg", {"type": tarfile.SYMTYPE, "linkname": "../d/a.jpg"}),
        "e/c.txt",
        ("f/d.jpg", {"type": tarfile.SYMTYPE, "linkname": "../e/c.jpg"}),
        ("f/d.txt", {"type": tarfile.LNKTYPE, "linkname": "d/b.txt"}),
    ]
    contents = {sample.key: sample.files for sample in read_shard(pack(members, mode=mode))}
    assert contents["d/b"] == contents["d/a"] == {"jpg": b"<d/a.jpg>", "txt": b"<d/a.txt>"}
    assert contents["e/c"] == {"jpg": b"<d/a.jpg>", "txt": b"<e/c.txt>"}
    assert contents["f/d"] == contents["d/a"]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_archives_are_read_whatever_their_name(pack: Pack, compress: Callable[[bytes], bytes]) -> None:
    path = pack(["a.jpg", "a.txt", "b.jpg", "b.txt"])
    content = path.read_bytes()
    path.write_bytes(compress(content[:700]) + compress(content[700:]))  # of several parts, as parallel packers write
    assert list(read(path)) == ["a", "b"]
    path.write_bytes(compress(content)[:-20])
    assert last(path).damage is not None


def last(path: Path) -> RawSample:
    return list(read_shard(path))[-1]


def test_an_archive_that_ends_between_two_members_is_cut_short(pack: Pack) -> None:
    path = pack(["a.jpg", "a.txt", "b.jpg", "b.txt"])
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2]
    path.write_bytes(path.read_bytes()[: third.offset])
    assert last(path).damage == "the archive is cut short or damaged here: there is no end mark"


def test_archives_put_together_are_not_read_in_part(pack: Pack) -> None:
    one, other = pack(["a.jpg", "a.txt"], "1.tar"), pack(["b.jpg", "b.txt"], "2.tar")
    one.write_bytes(one.read_bytes() + other.read_bytes())
    assert "more follows the end mark; if archives were joined" in str(last(one).damage)


def test_a_pipe_is_no_shard_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.tar")
    with pytest.raises(DataError, match=r"s\.tar: cannot be read: it is a pipe, not a file"):
        list(read_shard(tmp_path / "s.tar"))
