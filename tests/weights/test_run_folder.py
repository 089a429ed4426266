"""The checkpoints in a run's folder: found by name, and clear about what is wrong with them."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.errors import CheckpointError
from elip.weights import run_folder

CONTENTS = {"config": {}, "model": {"weight": torch.arange(10.0)}, "step": 3}


def numbered(folder: Path, *steps: int) -> list[Path]:
    paths = [run_folder.path_at(folder, step) for step in steps]
    for path, step in zip(paths, steps, strict=True):
        torch.save({**CONTENTS, "step": step}, path)
    return paths


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: b"hello",
        lambda whole: bytes(len(whole)),
        lambda whole: whole.replace(CONTENTS["model"]["weight"].numpy().tobytes(), bytes(40)),
    ],
    ids=["cut short", "empty", "text", "zeros", "other weights"],
)
def test_a_damaged_file_is_named_with_the_one_before(tmp_path: Path, damage: Any) -> None:
    first, second, _ = numbered(tmp_path, 3, 6, 9)
    second.write_bytes(damage(second.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{second} is cut short or damaged.*Use the one before: {first}$"):
        run_folder.load(second)


def test_a_damaged_file_without_an_earlier_one(tmp_path: Path) -> None:
    (path,) = numbered(tmp_path, 3)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="No earlier one lies beside it"):
        run_folder.load(path)


def test_a_file_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    numbered(tmp_path, 3, 6)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*-00000004.pt. In that folder are: .*03.pt, .*06.pt"):
        run_folder.load(run_folder.path_at(tmp_path, 4))


@pytest.mark.parametrize("name", ["pipe", "folder/best.pt"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name} is no file of weights, but a pipe"):
        run_folder.load(run_folder.find(tmp_path / name.split("/")[0]))


def test_weights_of_others_are_told_apart(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "albef.pth")
    with pytest.raises(CheckpointError, match=r"albef.pth is not a checkpoint of this toolkit.*--init"):
        run_folder.load(tmp_path / "albef.pth")


def test_the_latest_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    assert run_folder.latest(tmp_path) is None
    numbered(tmp_path, 99_999_999, 100_000_000, 5)
    torch.save(CONTENTS, tmp_path / run_folder.BEST)
    assert run_folder.latest(tmp_path) == run_folder.path_at(tmp_path, 100_000_000)
