"""A run that was ended and resumed is, bit for bit, the run that was not."""

import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from elip.engine import checkpoint
from elip.errors import CheckpointError, ElipError
from tests.engine.conftest import assert_same, read_log, train
from tests.engine.stub import harm_at, send_self, stub_config

WHOLE_LOG = (
    [f"train {step}" for step in range(1, 6)] + ["eval 5"] + [f"train {step}" for step in range(6, 11)] + ["eval 10"]
)


def crash() -> None:
    raise RuntimeError("crash")


def assert_same_run(first: Path, second: Path) -> None:
    """Logs agree in all but times, and the whole run is in them."""
    log = read_log(first)
    assert [f"{entry['event']} {entry['step']}" for entry in log] == WHOLE_LOG
    assert read_log(second) == log


@pytest.mark.parametrize(("step", "num_workers"), [(2, 0), (7, 0), (7, 2)])
def test_a_run_that_crashes_in_mid_epoch_resumes_exactly(tmp_path: Path, step: int, num_workers: int) -> None:
    whole, _ = train(stub_config(tmp_path / "whole"))
    config = stub_config(tmp_path / "crashed", data={"num_workers": num_workers}, save_every=2)
    with pytest.raises(RuntimeError, match="crash"):
        train(config, before_step=harm_at(step, crash))
    resumed, outcome = train(config, resume=True)
    assert outcome["step"] == 10
    assert_same(whole, resumed)
    assert_same_run(tmp_path / "whole", tmp_path / "crashed")


@pytest.mark.parametrize(("number", "num_workers"), [(signal.SIGTERM, 2), (signal.SIGUSR1, 0)])
def test_a_signal_saves_after_the_step_and_the_run_resumes_exactly(
    tmp_path: Path, number: signal.Signals, num_workers: int
) -> None:
    whole, _ = train(stub_config(tmp_path / "whole"))
    config = stub_config(tmp_path / "stopped", data={"num_workers": num_workers})
    _, outcome = train(config, before_step=harm_at(6, partial(send_self, number)))
    assert outcome["stopped"]
    assert outcome["step"] == 7
    assert outcome["checkpoint"] == tmp_path / "stopped" / "checkpoint-00000007.pt"
    resumed, outcome = train(config, resume=True)
    assert not outcome["stopped"]
    assert_same(whole, resumed)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("last_step", [4, 9])
def test_an_evaluation_that_a_signal_prevented_is_made_up_for(tmp_path: Path, last_step: int) -> None:
    train(stub_config(tmp_path / "whole"))
    config = stub_config(tmp_path / "stopped")
    train(config, before_step=harm_at(last_step, partial(send_self, signal.SIGTERM)))
    _, outcome = train(config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert outcome["metrics"].keys() == {"accuracy", "error"}


def test_a_run_killed_outright_resumes_exactly(tmp_path: Path) -> None:
    whole, _ = train(stub_config(tmp_path / "whole"))
    folder = tmp_path / "killed"
    killed = subprocess.run([sys.executable, "-m", "tests.engine.killed", str(folder), "8"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in checkpoint.in_order(folder)] == ["checkpoint-00000003.pt", "checkpoint-00000006.pt"]
    resumed, _ = train(stub_config(folder, save_every=3), resume=True)
    assert_same(whole, resumed)
    assert_same_run(tmp_path / "whole", folder)


def test_resuming_from_an_earlier_checkpoint_sets_later_ones_aside(tmp_path: Path) -> None:
    config = stub_config(tmp_path, keep_last=5)
    first, _ = train(config)
    log = read_log(tmp_path)
    again, _ = train(config, resume=tmp_path / "checkpoint-00000005.pt")
    assert_same(first, again)
    assert read_log(tmp_path) == log
    assert (tmp_path / "checkpoint-00000010.pt.abandoned").exists()


def test_resuming_from_a_folder_takes_its_last_checkpoint(tmp_path: Path) -> None:
    train(stub_config(tmp_path / "first"))
    _, outcome = train(stub_config(tmp_path / "second", epochs=3), resume=tmp_path / "first")
    assert outcome["step"] == 15
    assert [entry["step"] for entry in read_log(tmp_path / "second") if entry["event"] == "train"] == [*range(11, 16)]


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    config = stub_config(tmp_path)
    _, outcome = train(config)
    log = read_log(tmp_path)
    _, again = train(config, resume=True)
    assert again == outcome
    assert read_log(tmp_path) == log


def test_the_count_of_broken_samples_goes_on(tmp_path: Path) -> None:
    data = {"max_broken_ratio": 0.1}
    train(stub_config(tmp_path, data=data, max_steps=5), broken=[3, 5])
    train(stub_config(tmp_path, data=data), resume=True, broken=[3, 5])
    skipped = [entry["skipped"] for entry in read_log(tmp_path) if entry["event"] == "train"]
    assert (skipped[4], skipped[-1]) == (2, 4)


def test_changed_settings_are_named_and_take_effect(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(stub_config(tmp_path, max_steps=5))
    train(stub_config(tmp_path, optim={"lr": 0.2}), resume=True)
    assert "optim.lr was 0.1, is 0.2" in caplog.text
    assert read_log(tmp_path)[-2]["lr"] == pytest.approx((0.2 + 1e-5) / 2)  # half-way down the cosine


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(stub_config(tmp_path))
    config_text = (tmp_path / "config.yaml").read_text()
    with pytest.raises(
        ElipError, match=r"holds a run already \(its last checkpoint is checkpoint-00000010.pt\).*--resume"
    ):
        train(stub_config(tmp_path, seed=1))
    assert (tmp_path / "config.yaml").read_text() == config_text


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (lambda folder: True, r"there is no checkpoint in .*empty to go on from. Start without --resume"),
        (lambda folder: folder / "checkpoint-00000003.pt", r"there is no checkpoint .*empty/checkpoint-00000003.pt"),
    ],
)
def test_nothing_to_resume_from(tmp_path: Path, where: Callable[[Path], bool | Path], message: str) -> None:
    folder = tmp_path / "empty"
    with pytest.raises(CheckpointError, match=message):
        train(stub_config(folder), resume=where(folder))


def test_another_order_of_the_data_is_refused(tmp_path: Path) -> None:
    train(stub_config(tmp_path))
    with pytest.raises(CheckpointError, match="with 5 steps per epoch, this one has 10, so the order of the data"):
        train(stub_config(tmp_path, batch_size=2), resume=True)


def test_another_architecture_is_refused_with_the_parts_that_differ(tmp_path: Path) -> None:
    train(stub_config(tmp_path))
    with pytest.raises(CheckpointError, match=r"another architecture.*layers.0.weight \[4, 3\], not \[6, 3\]"):
        train(stub_config(tmp_path), resume=True, width=6)
