"""Opening files: each thing that is none is named, and none is waited for."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from elip.data.json_files import read_items, read_json
from elip.data.opening import file_status, open_file
from elip.errors import DataError


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        folder = os.open(path.parent, os.O_RDONLY)
        one.bind(f"/proc/self/fd/{folder}/{path.name}")  # the whole path may be too long
        os.close(folder)


MAKE: list[tuple[Callable[[Path], object], str]] = [
    (os.mkfifo, "it is a pipe, not a file"),
    (bind_socket, "it is a socket, not a file"),
    (Path.mkdir, "it is a folder, not a file"),
    (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
    (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
]


@pytest.mark.parametrize(("make", "message"), MAKE)
def test_what_is_no_file_is_named_and_not_waited_for(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "x.json"
    make(path)
    for read in (open_file, file_status, lambda path: list(read_items(path)), lambda path: read_json(path, list)):
        with pytest.raises(DataError, match=rf"x\.json: cannot be read: {message}"):
            read(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\0b", r"a\\x00b': no file can have this name: embedded null byte"),
        ("a\ud800b", r"a\\ud800b': no file can have this name: .*surrogates not allowed"),
        ("a\nb", r"a\\nb': no such file in "),
        ("a\nb/c", r"a\\nb/c': no such file, not even a folder '"),
        ("a" * 300, r"aaa: cannot be read: File name too long"),
        ("file/b", r"file/b: cannot be read: Not a directory"),
        ("nowhere/b", r"nowhere/b: no such file, not even a folder .*nowhere"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_in_one_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=message) as caught:
        open_file(tmp_path / name)
    assert str(caught.value).isprintable()


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to("file")
    with open_file(tmp_path / "link") as file:
        assert file.read() == b"content"
    assert stat.S_ISREG(file_status(tmp_path / "link").st_mode)
