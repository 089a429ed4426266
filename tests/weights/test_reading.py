"""Files of weights: what is damaged is refused by name, and what is no file is not opened."""

import gzip
import os
import random
import stat
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from elip.errors import CheckpointError
from elip.weights.reading import CHECKSUM, checksum, read_pickled, read_safetensors, read_tensors

TENSORS = {
    "model.a.weight": torch.linspace(-1, 1, 60).reshape(6, 10),
    "model.a.bias": torch.arange(6, dtype=torch.bfloat16),
    "model.count": torch.tensor(7),
}


def flip(data: bytes, bit: int) -> bytes:
    place, mask = bit // 8, 1 << bit % 8
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def is_same(read: dict[str, Tensor]) -> bool:
    return read.keys() == TENSORS.keys() and all(
        read[name].dtype == tensor.dtype and torch.equal(read[name], tensor) for name, tensor in TENSORS.items()
    )


def refusal(path: Path) -> str:
    """Return how the file is refused, "" if it is read; fail if it then holds other tensors than it should."""
    try:
        read, _ = read_tensors(path)
    except CheckpointError as error:
        return str(error)
    assert is_same(read)
    return ""


def test_no_single_flip_in_a_checkpoint_gives_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(TENSORS, path)
    whole = path.read_bytes()
    flips = random.Random(0).sample(range(8 * len(whole)), 400)
    refusals = []
    for bit in flips:
        path.write_bytes(flip(whole, bit))
        refusals.append(refusal(path))
    assert all(str(path) in each for each in refusals if each)
    assert sum(map(bool, refusals)) > 150, "the rest lies in padding, dates and such"


def test_every_flip_in_the_content_and_in_the_names_of_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(TENSORS, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            content = archive.read(member)
            for place in (whole.index(content), whole.index(member.filename.encode())):
                path.write_bytes(flip(whole, 8 * place + 1))
                assert str(path) in refusal(path), member.filename


def test_a_flip_that_makes_a_tensor_pass_for_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(TENSORS, path)
    whole = path.read_bytes()
    attributes = whole.rindex(b"checkpoint/data/0") - 8  # in the directory at the end: four bytes, a place, the name
    path.write_bytes(flip(whole, 8 * attributes + 4))
    assert "data/0 passes for a folder" in refusal(path)


def test_no_single_flip_in_safetensors_with_a_checksum_gives_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    metadata = {"elip": '{"step": 7}'}
    save_file(TENSORS, path, {**metadata, CHECKSUM: checksum(TENSORS, metadata)})
    whole = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 400):
        path.write_bytes(flip(whole, bit))
        said = refusal(path)
        assert not said or str(path) in said


def test_a_flip_in_the_tensors_of_safetensors_is_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path, {CHECKSUM: checksum(TENSORS, {})})
    path.write_bytes(flip(path.read_bytes(), 8 * (path.stat().st_size - 20)))
    with pytest.raises(CheckpointError, match=rf"{path} is damaged: its tensors or metadata are not those of its"):
        read_safetensors(path)


def test_files_of_an_older_torch_are_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(TENSORS, tmp_path / "new.pth")
    assert is_same(read_pickled(tmp_path / "new.pth"))
    assert not caplog.records
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert is_same(read_pickled(tmp_path / "old.pth"))
    assert "old.pth was saved without checksums: damage to it would not be noticed" in caplog.text


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_flips_and_cuts_in_a_file_of_an_older_torch_never_end_in_a_traceback(share: float, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        read_pickled(path)


def test_files_saved_without_checksums_are_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(TENSORS, whole)
    data = bytearray(whole.read_bytes())
    with zipfile.ZipFile(whole) as archive:
        sums = {member.CRC.to_bytes(4, "little") for member in archive.infolist()}
    for each in sums:
        while (place := data.find(each)) >= 0:
            data[place : place + 4] = bytes(4)
    (tmp_path / "without.pt").write_bytes(data)
    assert is_same(read_pickled(tmp_path / "without.pt"))
    assert "without.pt was saved without checksums" in caplog.text


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_file_is_named_and_not_waited_for(suffix: str, tmp_path: Path) -> None:
    pipe, folder = tmp_path / f"pipe{suffix}", tmp_path / f"folder{suffix}"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, message in (
        (pipe, f"{pipe} is no file of weights, but a pipe"),
        (folder, f"{folder} is a folder"),
        (tmp_path / f"missing{suffix}", "there is no file .*missing"),
        (Path(f"https://x.org/w{suffix}"), rf"https://x\.org/w{suffix} is an address on the web: download it"),
        (tmp_path / f"a\0b{suffix}", r"cannot read .*a\\x00b.*: embedded null"),
        (tmp_path / f"{'a' * 300}{suffix}", "cannot read .*: File name too long"),
        (pipe / f"within{suffix}", "cannot read .*: Not a directory"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_tensors(path)


def test_a_device_is_named_and_not_read() -> None:
    assert stat.S_ISCHR(os.stat("/dev/zero").st_mode)
    with pytest.raises(CheckpointError, match="/dev/zero is no file of weights, but a device"):
        read_pickled(Path("/dev/zero"))


FOREIGN = {
    b'{"architectures": ["BertModel"]}': "JSON or other text, which begins '{\"architectures",
    b"[1, 2]": "JSON or other text, which begins",
    b"<!DOCTYPE html><html>404</html>": "a web page, as a failed download leaves behind",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n": "a Git LFS pointer, not the file .*git lfs pull",
    gzip.compress(b"x"): "compressed with gzip; unpack it first",
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", FOREIGN, ids=FOREIGN.values())
def test_what_is_no_file_of_weights_is_told_by_its_content(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{path} is no file of weights: this is {FOREIGN[content]}") as failure:
        read_tensors(path)
    assert "weights_only" not in str(failure.value)


@pytest.mark.parametrize("text", ["model:\n  vision: null\n", "hello", "cls sep\n"])
def test_text_is_told_by_its_first_line_and_nobody_is_sent_to_unsafe_loading(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.pt"
    path.write_text(text)
    with pytest.raises(
        CheckpointError, match=rf"or no file of weights but text: it begins '{text.split()[0]}"
    ) as failure:
        read_tensors(path)
    assert "weights_only" not in str(failure.value)


def test_a_file_by_the_name_of_another_kind_is_told(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a.safetensors")
    save_file(TENSORS, tmp_path / "b.safetensors")
    (tmp_path / "b.safetensors").rename(tmp_path / "b.pt")
    for name, message in (
        ("a.safetensors", r"written by torch\.save; let its name end in \.pt"),
        ("b.pt", r"in the form of safetensors; let its name end in \.safetensors"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_tensors(tmp_path / name)
