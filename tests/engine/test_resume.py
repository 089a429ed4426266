"""A run that was ended and resumed is, bit for bit, the run that was not."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from elip.engine.run_lock import RunLock
from elip.errors import CheckpointError, ElipError, Interrupted
from elip.weights import run_folder
from tests.engine.conftest import assert_same, read_log, train
from tests.engine.stub import SignalledInEvaluation, Stream, StubTask, harm_at, send_self, stub_config

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


@pytest.mark.parametrize("last_step", [5, 10])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_an_evaluation_between_its_batches_and_it_is_made_up_for(
    tmp_path: Path, number: signal.Signals, last_step: int
) -> None:
    whole, expected = train(stub_config(tmp_path / "whole"))
    config = stub_config(tmp_path / "stopped")

    def prepare(task: StubTask) -> None:
        task.signal_at, task.number = last_step, number

    task, outcome = train(config, kind=SignalledInEvaluation, prepare=prepare)
    assert task.batches == 1  # of three
    assert (outcome["step"], outcome["stopped"]) == (last_step, True)
    assert outcome["checkpoint"].name == f"checkpoint-{last_step:08d}.pt"
    resumed, outcome = train(config, resume=True)
    assert not outcome["stopped"]
    assert_same(whole, resumed)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert outcome["metrics"] == expected["metrics"]
    assert_same_checkpoint(tmp_path / "whole" / "best.pt", tmp_path / "stopped" / "best.pt")


def assert_same_checkpoint(first: Path, second: Path) -> None:
    """They agree bit for bit in all but the name of the output folder."""
    both = [run_folder.load(path) for path in (first, second)]
    for contents in both:
        del contents["config"]["output_dir"]
    assert flat(both[0]) == flat(both[1])


def flat(value: Any) -> Any:
    """Return plain values that compare."""
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [flat(item) for item in value]
    return value.tolist() if isinstance(value, Tensor) else value


def test_ctrl_c_once_finishes_the_step_and_twice_ends_it_with_nothing_half_written(tmp_path: Path) -> None:
    train(stub_config(tmp_path / "whole"))
    config = stub_config(tmp_path / "stopped", data={"num_workers": 2})
    _, outcome = train(config, before_step=harm_at(6, partial(send_self, signal.SIGINT)))
    assert (outcome["step"], outcome["stopped"]) == (7, True)

    def twice() -> None:
        send_self(signal.SIGINT)
        send_self(signal.SIGINT)

    files = {path.name for path in (tmp_path / "stopped").iterdir()}
    with pytest.raises(Interrupted):
        train(config, resume=True, before_step=harm_at(8, twice))
    assert {path.name for path in (tmp_path / "stopped").iterdir()} == files
    train(config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_an_interrupted_checkpoint_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stub_config(tmp_path, save_every=2)
    save = torch.save

    def interrupted(contents: Any, file: Any) -> None:
        save(contents, file)
        if contents["step"] == 4:
            send_self(signal.SIGINT)
            send_self(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        with pytest.raises(Interrupted):
            train(config)
    assert [path.name for path in tmp_path.glob("*.pt*")] == ["checkpoint-00000002.pt"]
    _, outcome = train(config, resume=True)
    assert outcome["step"] == 10


def test_a_signal_before_the_first_step_ends_at_once(tmp_path: Path) -> None:
    class Slow(StubTask):
        def inspect_training_data(self, dataset: Dataset) -> None:
            send_self(signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM"):
        train(stub_config(tmp_path), kind=Slow)
    assert not list(tmp_path.glob("*.pt*"))
    assert not (tmp_path / "run.lock").exists()


def test_a_run_killed_outright_resumes_exactly(tmp_path: Path) -> None:
    whole, _ = train(stub_config(tmp_path / "whole"))
    folder = tmp_path / "killed"
    killed = subprocess.run([sys.executable, "-m", "tests.engine.killed", str(folder), "8"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in run_folder.in_order(folder)] == ["checkpoint-00000003.pt", "checkpoint-00000006.pt"]
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


def test_the_best_checkpoint_comes_along_to_another_folder(tmp_path: Path) -> None:
    accuracies = [3.0, 1.0]
    train(stub_config(tmp_path / "first"), accuracies=accuracies)
    _, outcome = train(stub_config(tmp_path / "second", epochs=3), tmp_path / "first", accuracies=[2.0])
    assert outcome["best"]["step"] == 5
    assert run_folder.load(tmp_path / "second" / "best.pt")["step"] == 5


@pytest.mark.parametrize("loss", ["gone", "damaged", "of a later step"])
def test_a_best_checkpoint_that_is_lost_is_not_claimed(
    tmp_path: Path, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = stub_config(tmp_path, keep_last=9)
    train(config, accuracies=[2.0, 3.0 if loss == "of a later step" else 1.0])
    best = tmp_path / "best.pt"
    if loss == "gone":
        best.unlink()
    elif loss == "damaged":
        best.write_bytes(best.read_bytes()[:1000])
    _, outcome = train(config, resume=tmp_path / "checkpoint-00000005.pt", accuracies=[1.5])
    assert "the best evaluation so far, after step 5, is not there any more" in caplog.text
    assert outcome["best"]["step"] == run_folder.load(best)["step"] == 10


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


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(stub_config(tmp_path / "whole"))
    config = stub_config(tmp_path / "stopped")
    train(config, before_step=harm_at(5, partial(send_self, signal.SIGTERM)))
    path = tmp_path / "stopped" / "checkpoint-00000006.pt"
    contents = run_folder.load(path)
    for key in ("data", "vocabulary", "total_steps", "next_lr"):
        del contents[key]
    torch.save(contents, path)
    train(config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert "jumps" not in caplog.text


def test_more_epochs_make_the_learning_rate_jump_which_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(stub_config(tmp_path))
    train(stub_config(tmp_path, epochs=4), resume=True)
    rate = read_log(tmp_path)[12]["lr"]
    assert f"the learning rate jumps: step 11 would have had 1e-05 in the run of {tmp_path}" in caplog.text
    assert f"and has {rate:.3g} now" in caplog.text
    assert rate == pytest.approx((0.1 + 1e-5) / 2)
    assert "training was to take 10 steps, and takes 20 now" in caplog.text


@pytest.mark.parametrize(("schedule", "told"), [("step", True), ("epoch", False)])
def test_a_longer_run_is_told_where_it_bends_the_curve(
    tmp_path: Path, schedule: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    optim = {"schedule": schedule}
    train(stub_config(tmp_path, optim=optim, max_steps=5))
    train(stub_config(tmp_path, optim=optim), resume=True)
    assert ("the learning rate jumps" in caplog.text) == told


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_shards_go_on_with_as_many_workers_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Streamed(StubTask):
        def train_dataset(self) -> Dataset:
            return Stream(20, 4)

    def use(cpus: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)

    config = partial(stub_config, tmp_path, data={"num_workers": 2})
    use(2)
    train(config(max_steps=3), kind=Streamed)
    use(1)
    train(config(max_steps=4), kind=Streamed, resume=True)
    assert "order of shards depends on the number of loader processes: 2 are started" in caplog.text
    assert run_folder.load(tmp_path / "checkpoint-00000004.pt")["data"]["num_workers"] == 2


@pytest.mark.parametrize("emptied", [False, True])
def test_an_output_folder_removed_during_the_run_is_told_and_made_again(
    tmp_path: Path, emptied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"

    def remove() -> None:
        folder.rename(tmp_path / "gone")  # in one step: another thread may be writing into it
        if emptied:
            folder.mkdir()

    train(stub_config(folder), before_step=harm_at(7, remove))
    assert f"{folder} was removed or emptied during the run" in caplog.text
    assert {"checkpoint-00000010.pt", "config.yaml"} <= {path.name for path in folder.iterdir()}


def test_a_run_whose_folder_another_one_took_stops(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    other = RunLock(folder)

    def take() -> None:
        folder.rename(tmp_path / "gone")
        folder.mkdir()
        other.acquire()

    with pytest.raises(ElipError, match=f"{folder} is in use by another run"):
        train(stub_config(folder), before_step=harm_at(7, take))
    other.release()


def test_another_architecture_is_refused_with_the_parts_that_differ(tmp_path: Path) -> None:
    train(stub_config(tmp_path))
    with pytest.raises(CheckpointError, match=r"another architecture.*layers.0.weight \[4, 3\], not \[6, 3\]"):
        train(stub_config(tmp_path), resume=True, width=6)
