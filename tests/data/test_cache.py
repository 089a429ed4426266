"""Files made once from data files, and what is done about damaged and left-over ones."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from filelock import FileLock
from typing_extensions import TypedDict

from elip.atomic import replacing
from elip.data import cache as cache_module
from elip.data.annotations import load_annotations
from elip.data.cache import cached_file
from elip.errors import DataError
from tests.conftest import WriteJson


class Item(TypedDict):
    n: int


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_text("content")
    return tmp_path / "source"


def read_number(path: Path) -> int:
    return int(path.read_text())


def writes(*texts: str) -> Callable[[BinaryIO], None]:
    """Return what makes a file of one text after the other; once more than there are texts is an error."""
    left = list(texts)

    def write(file: BinaryIO) -> None:
        file.write(left.pop(0).encode())

    return write


def files(cache: Path, ending: str = "") -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name.endswith(ending))


def test_a_file_is_made_once_and_nothing_else_is_left(source: Path, cache: Path) -> None:
    make = writes("7")
    first, again = (cached_file(source, ".count", make, read_number) for _ in range(2))
    assert first == again
    assert files(cache) == [first.name]


@pytest.mark.parametrize("damage", ["", "\0\0\0", "7x"])
def test_a_damaged_file_is_made_once_more_and_that_is_said(
    source: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    make = writes("7", "8")
    path = cached_file(source, ".count", make, read_number)
    path.write_text(damage)
    with caplog.at_level(logging.WARNING, logger="elip.data.cache"):
        assert read_number(cached_file(source, ".count", make, read_number)) == 8
    (message,) = caplog.messages
    assert message.startswith(f"{path} is damaged and made once more (ValueError: invalid literal")
    cached_file(source, ".count", make, read_number)  # and is sound from then on


def test_what_is_damaged_as_soon_as_it_is_made_stops_with_the_way_out(source: Path) -> None:
    with pytest.raises(DataError, match=r"source: what was made from it is damaged at once: .*\.count .*ELIP_CACHE"):
        cached_file(source, ".count", writes("x"), read_number)


def test_a_damaged_index_of_annotations_is_made_once_more(write_json: WriteJson, cache: Path) -> None:
    path = write_json([{"n": number} for number in range(20_000)])
    expected = list(load_annotations([path], Item))
    (index,) = cache.glob("*.arrow")
    content = index.read_bytes()
    for damaged in (b"", content[:100], content[: len(content) // 2], content[:-1], bytes(len(content)), b"?" * 999):
        index.write_bytes(damaged)
        assert list(load_annotations([path], Item)) == expected
    assert index.read_bytes() == content


def test_an_item_damaged_within_the_index_is_no_traceback(write_json: WriteJson, cache: Path) -> None:
    path = write_json([{"n": number} for number in range(100)])
    load_annotations([path], Item)
    (index,) = cache.glob("*.arrow")
    index.write_bytes(index.read_bytes().replace(b'{"n": 55}', b'{"n": 5\0}'))
    annotations = load_annotations([path], Item)
    assert annotations[54] == {"n": 54}
    with pytest.raises(DataError, match=f"its copy in the cache is damaged .*: delete the files in {cache}"):
        annotations[55]


def test_a_folder_in_the_place_of_a_file_is_told(source: Path, cache: Path) -> None:
    path = cached_file(source, ".count", writes("7"), read_number)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"cannot write its index to .*ELIP_CACHE"):
        cached_file(source, ".count", writes("7"), read_number)


def test_what_killed_processes_left_is_removed(source: Path, cache: Path) -> None:
    for name in ("a.count.lock", "b.arrow.01234567.part", "c.count.lock", "c.count.01234567.part"):
        (cache / name).touch()
    (cache / "kept.count").write_text("3")
    made = cached_file(source, ".count", writes("7"), read_number)
    assert files(cache) == sorted([made.name, "kept.count"])


def test_what_another_process_is_writing_stays(source: Path, cache: Path) -> None:
    with FileLock(cache / "b.arrow.lock"), replacing(cache / "b.arrow"):
        cached_file(source, ".count", writes("7"), read_number)
        assert [name[:8] for name in files(cache) if name.startswith("b.")] == ["b.arrow."] * 2
    assert (cache / "b.arrow").exists()


def test_who_waits_finds_the_damaged_file_made(source: Path) -> None:
    path = cached_file(source, ".count", writes("7"), read_number)
    path.write_text("x")
    make = writes("8")
    threads = [threading.Thread(target=cached_file, args=(source, ".count", make, read_number)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "8"


def test_a_file_reaches_the_disk_before_it_gets_its_name(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        call = getattr(os, name)
        return lambda *args: [done.append(name), call(*args)][1]  # type: ignore[func-returns-value]

    monkeypatch.setattr(cache_module.os, "fsync", noted("fsync"))
    monkeypatch.setattr(cache_module.os, "replace", noted("replace"))
    cached_file(source, ".count", writes("7"), read_number)
    assert done[:2] == ["fsync", "replace"]


def test_a_pipe_is_no_source_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "items.json")
    with pytest.raises(DataError, match=r"items\.json: cannot be read: it is a pipe, not a file"):
        load_annotations([tmp_path / "items.json"], Item)
