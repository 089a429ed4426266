"""Files are written whole, under names that no one can foresee; parts of killed writers are told from those in use."""

import errno
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from elip.atomic import remove_stale_parts, write_atomically
from elip.engine.results import write_sheet, write_sheets
from elip.errors import ElipError


def test_a_link_under_the_name_of_a_part_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "best.pt.part").symlink_to(victim)
    write_atomically(tmp_path / "best.pt", lambda file: file.write(b"new"))
    assert (victim.read_text(), (tmp_path / "best.pt").read_text()) == ("mine", "new")


def test_a_link_in_the_place_of_a_part_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "00000000")
    (tmp_path / "best.pt.00000000.part").symlink_to(victim)
    with pytest.raises(ElipError, match=r"cannot write .*best.pt: File exists"):
        write_atomically(tmp_path / "best.pt", lambda file: file.write(b"new"))
    assert victim.read_text() == "mine"


def test_a_link_in_the_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("metrics.json", "sheet.png"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(tmp_path / "metrics.json", lambda file: file.write(b"new"))
    write_sheets({"sheet": np.zeros((2, 2, 3), np.uint8)}, tmp_path)
    assert victim.read_text() == "mine"
    assert not (tmp_path / "metrics.json").is_symlink()
    assert Image.open(tmp_path / "sheet.png").size == (2, 2)


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    def outer(file: BinaryIO) -> None:
        write_atomically(tmp_path / "a.json", lambda inner: inner.write(b"inner"))
        file.write(b"outer")

    write_atomically(tmp_path / "a.json", outer)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "outer")]


def test_a_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.json", lambda file: file.write(b"{}"))
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_gone_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(
        ElipError, match=r"cannot write .*a.json: No such file.*The folder .*gone is gone: make it again"
    ):
        write_atomically(tmp_path / "gone/a.json", lambda file: file.write(b"{}"))


def test_a_folder_that_goes_away_during_the_write_is_told_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def write(_file: BinaryIO) -> None:
        for part in folder.iterdir():
            part.unlink()
        folder.rmdir()

    with pytest.raises(ElipError, match=r"cannot write .*a.json: .*The folder .*run is gone"):
        write_atomically(folder / "a.json", write)


def test_a_nul_byte_in_a_name_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(ElipError, match="NUL"):
        write_atomically(tmp_path / "a\0b", lambda file: file.write(b"{}"))


def test_a_failed_write_leaves_no_part(tmp_path: Path) -> None:
    def write(_file: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ElipError, match="Free some space there"):
        write_atomically(tmp_path / "a.json", write)
    assert [*tmp_path.iterdir()] == []


def test_parts_that_killed_writers_left_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for folder in ("eval/test", "sheets", "deep/er"):
        (tmp_path / folder).mkdir(parents=True)
    stale = ["best.pt.0123abcd.part", "eval/test/metrics.json.0123abcd.part", "sheets/a.png.01234567.part"]
    kept = [
        "notes.part",
        "checkpoint-00000003.pt.part",
        "deep/er/a.pt.01234567.part",
        "best.pt",
        "eval/test/metrics.json",
    ]
    for name in (*stale, *kept):
        (tmp_path / name).write_text("x")
    (tmp_path / "last.pt.0123abcd.part").symlink_to(tmp_path / "best.pt")
    os.mkfifo(tmp_path / "pipe.pt.0123abcd.part")
    during = []

    def write(_file: BinaryIO) -> None:
        during.extend(remove_stale_parts(tmp_path, ("*", "eval/*/*", "sheets/*")))

    write_atomically(tmp_path / "config.yaml", write)
    assert sorted(map(str, during)) == sorted(str(tmp_path / name) for name in stale)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {*kept, "config.yaml", "last.pt.0123abcd.part", "pipe.pt.0123abcd.part"}


def test_a_picture_of_no_known_kind_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(ElipError, match=r"Let the name end in \.png"):
        write_sheet(np.zeros((2, 2, 3), np.uint8), tmp_path / "sheet.txt")
