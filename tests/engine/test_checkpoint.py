"""Checkpoint files: whole or not there, and clear about what is wrong with them."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.config import config_from_dict
from elip.engine import checkpoint
from elip.errors import CheckpointError
from elip.weights import run_folder
from tests.engine.conftest import train
from tests.engine.stub import stub_config

CONTENTS = {"config": {}, "model": {"weight": torch.arange(10.0)}, "step": 3}


def numbered(folder: Path, *steps: int) -> list[Path]:
    paths = [run_folder.path_at(folder, step) for step in steps]
    for path, step in zip(paths, steps, strict=True):
        checkpoint.save(path, {**CONTENTS, "step": step})
    return paths


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    (path,) = numbered(tmp_path, 3)
    loaded = run_folder.load(path)
    assert torch.equal(loaded["model"]["weight"], CONTENTS["model"]["weight"])
    assert loaded["step"] == 3


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (path,) = numbered(tmp_path, 3)
    before = path.read_bytes()
    with (
        files_up_to(50_000),
        pytest.raises(CheckpointError, match=r"cannot write .*-00000003.pt: File too large.*Earlier"),
    ):
        checkpoint.save(path, {**CONTENTS, "model": {"weight": torch.zeros(100_000)}})
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_a_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"-00000003.pt: No space left on device. Free some space there, or"):
        numbered(tmp_path, 3)


def test_a_run_keeps_its_earlier_checkpoint_when_the_disk_fills_up(tmp_path: Path) -> None:
    class TooLarge:
        """Swells the checkpoint once some steps are done."""

        def __call__(self, step: int) -> None:
            if step == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with files_up_to(resource.RLIM_INFINITY), pytest.raises(CheckpointError, match="File too large"):
        train(stub_config(tmp_path, save_every=3, eval_every=99, log_every=99), before_step=TooLarge())
    assert run_folder.latest(tmp_path) == tmp_path / "checkpoint-00000003.pt"
    assert run_folder.load(tmp_path / "checkpoint-00000003.pt")["step"] == 3


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "pipe/best.pt"])
def test_a_name_that_no_file_can_have_is_told_in_words(name: str, tmp_path: Path) -> None:
    (tmp_path / "pipe").touch()
    with pytest.raises(CheckpointError, match=r"cannot read|no file|no checkpoint"):
        run_folder.load(run_folder.find(tmp_path / name))


def test_a_checkpoint_cannot_be_saved_where_the_folder_is_gone(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot write .*-00000003.pt: .*The folder .*gone is gone"):
        numbered(tmp_path / "gone", 3)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({**CONTENTS, "model": Harm()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        run_folder.load(tmp_path / "evil.pt")
    assert not (tmp_path / "harm").exists()


def test_checkpoints_of_a_branch_that_was_left_are_set_aside(tmp_path: Path) -> None:
    numbered(tmp_path, 3, 6)
    checkpoint.save(tmp_path / run_folder.BEST, {**CONTENTS, "step": 6})
    checkpoint.set_aside(tmp_path, 3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.pt.abandoned", "checkpoint-00000003.pt", "checkpoint-00000006.pt.abandoned"]


def test_what_was_set_aside_before_stays_and_a_damaged_best_one_is_called_so(tmp_path: Path) -> None:
    for contents in (b"first", b"second"):
        (tmp_path / run_folder.BEST).write_bytes(contents)
        later, (damaged,) = checkpoint.set_aside(tmp_path, 3)
        assert not later
        assert damaged.read_bytes() == contents
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt.damaged", "best.pt.damaged-2"]


def test_a_checkpoint_knows_the_config_of_its_run(tmp_path: Path) -> None:
    config = stub_config(tmp_path, max_steps=2)
    _, outcome = train(config)
    assert config_from_dict(run_folder.load(outcome["checkpoint"])["config"], source="checkpoint") == config


def test_changes_name_the_keys() -> None:
    before, now = {"a": {"b": 1, "c": [2]}, "d": 4}, {"a": {"b": 1, "c": [3]}, "e": 5}
    assert checkpoint.changes(before, now) == ["a.c was [2], is [3]", "d was 4, is None", "e was None, is 5"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run has written into its checkpoint."""
    _, outcome = train(stub_config(tmp_path_factory.mktemp("whole"), max_steps=2))
    return run_folder.load(outcome["checkpoint"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "2"}, "its entry 'step' should be the number of steps done, but is '2'"),
        ({"step": -1}, "its entry 'step' should be the number of steps done, but is -1"),
        ({"step": 10**9}, "its entry 'step' should be one of the 2 steps of its run, but is 1000000000"),
        ({"config": {}}, "its entry 'config' should be the config of the run"),
        ({"config": None}, "its entry 'config' should be the config of the run"),
        ({"config": {"data": {"num_workers": 0}, 3: 4}}, "its entry 'config' should be the config of the run"),
        ({"model": {3: torch.zeros(1)}}, "its entry 'model' should be tensors by name"),
        ({"model": {"a": 3}}, "its entry 'model' should be tensors by name"),
        ({"optimizer": None}, "its entry 'optimizer' should be the optimiser's moments, but is None"),
        ({"optimizer": {}}, "lacks the optimiser's moments of 6 of 6 trained parameters"),
        ({"scaler": {"scale": 1.0}}, "its loss scale cannot be put back"),
        ({"scaler": 3}, "its entry 'scaler' should be the state of the loss scale"),
        ({"rng": []}, "its entry 'rng' should be the random state of each process"),
        ({"rng": [{}]}, "its entry 'rng' should be the random state of each process"),
        ({"rng": [dict.fromkeys(("python", "numpy", "torch", "cuda"), 3)]}, "its random state cannot be put back"),
        ({"data": None}, "its entry 'data' should be a record of the data"),
        ({"data": {"train": [{}]}}, "its entry 'data' should be a record of the data"),
        ({"best": "y"}, "its entry 'best' should be an evaluation, or none, but is 'y'"),
        ({"evaluated": {"step": 2}}, "its entry 'evaluated' should be an evaluation, or none"),
        ({"steps_per_epoch": 0}, "its entry 'steps_per_epoch' should be a number of steps"),
        ({"next_lr": "low"}, "its entry 'next_lr' should be a learning rate"),
        ({"skipped": None}, "its entry 'skipped' should be a number of samples"),
    ],
    ids=repr,
)
def test_a_checkpoint_with_odd_entries_is_refused_by_their_names(
    change: dict[str, Any], message: str, whole: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint.save(run_folder.path_at(tmp_path, 2), {**whole, **change})
    precision = "fp16" if "scale" in str(change) else "fp32"
    with pytest.raises(CheckpointError, match=rf"checkpoint-00000002\.pt.*{message}"):
        train(stub_config(tmp_path, precision=precision), resume=True)


@pytest.mark.parametrize("key", ["scaler", "rng", "best", "evaluated", "skipped", "steps_per_epoch", "optimizer"])
def test_a_checkpoint_without_an_entry_that_runs_need_is_refused(
    key: str, whole: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint.save(run_folder.path_at(tmp_path, 2), {name: entry for name, entry in whole.items() if name != key})
    with pytest.raises(CheckpointError, match=rf"lacks the entry '{key}'|holds weights only, nothing to go on with"):
        train(stub_config(tmp_path), resume=True)
