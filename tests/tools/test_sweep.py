"""Sweeps as a user runs them: to their end, cut off and gone on, with runs that fail, dry, and asked too much."""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elip.config import load_config
from elip.engine.run_lock import RunLock
from elip.lab.report.writer import write_report
from elip.lab.sweep import chain
from elip.lab.sweep.file import (
    ArmSection,
    BudgetSection,
    EvaluateSection,
    FollowUpSection,
    SlurmSection,
    SweepFile,
)
from tests.conftest import PROJECT
from tests.lab.sweep.fake_slurm import fake_slurm
from tests.lab.sweep.forked import Forked, say_into, start
from tests.lab.sweep.small_sweep import overrides_of
from tests.lab.sweep.stand_ins import StandIns, calls
from tools import sweep, train

ARMS = """arms:
  none: {reducer: none}
  random: {reducer: {name: random, begin: [0], keep_ratio: [0.5]}}
"""
Call = Callable[..., int]


def write_file(path: Path, digits: Path, arms: str = ARMS, more: str = "seeds: [1, 2]\n", *overrides: str) -> Path:
    lines = "".join(f"  - '{override}'\n" for override in [*overrides_of(digits), *overrides])
    path.write_text(f"config: {PROJECT}/configs/demo/pretrain.yaml\noverrides:\n{lines}{arms}{more}")
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts and times of the arms, which all sweeps of this file share: each is counted once."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def call(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Runs the command on a file, in a folder `out`."""
    out = tmp_path / "out"
    out.mkdir()
    for path in kept.iterdir():
        (out / path.name).write_text(path.read_text())
    monkeypatch.setattr(sweep, "write_report", lambda folder: folder / "report.md")  # stand-ins leave nothing to report

    def run(file: Path, *words: str) -> int:
        return sweep.main([str(file), "--out", str(out), *words])

    yield run
    for name in ("counts.json", "times.json"):
        if (out / name).exists():
            (kept / name).write_text((out / name).read_text())


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    return StandIns(tmp_path / "stand_ins", monkeypatch)


def runs(folder: Path) -> dict[str, str]:
    """Return the status of each run of a sweep, as its record tells."""
    record = json.loads((folder / "out" / "sweep.json").read_text())
    return {f"{run['arm']} {run['seed']}": run["status"] for run in record["runs"]}


def run_folder(folder: Path, arm: str, seed: int) -> Path:
    return folder / "out" / "runs" / arm / f"seed-{seed}" / "pretrain"


def test_runs_are_trained_evaluated_and_reported_and_each_can_be_repeated_alone(
    digits: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "write_report", write_report)
    monkeypatch.setattr(chain, "start", start)
    arms = ARMS.replace(", keep_ratio: [0.5]", "")
    more = "seeds: [1, 2]\nbudget: {of: train_step, shares: [0.9]}\n"
    file = write_file(tmp_path / "lab.yaml", digits, arms, more, "train.max_steps=2", "data.val=[]", "eval.sheets=0")
    assert call(file, "--jobs", "2", "--only", "random") == 0
    said = capsys.readouterr().out
    assert "[2/2] random, seed " in said
    record = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (record["baseline"], record["yardstick"], record["stages"]) == ("none", "random", ["pretrain"])
    assert (record["seeds"], record["file"]) == ([1, 2], file.read_text())
    done = [run for run in record["runs"] if run["status"] == "done"]
    assert [(run["arm"], run["seed"]) for run in done] == [("random", 1), ("random", 2)]
    assert "2 of 4 runs are done" in (tmp_path / "out" / "report.md").read_text()
    for run in done:
        folder = tmp_path / "out" / run["folder"]
        assert (folder / "eval" / run["split"] / "metrics.json").exists()
        assert run["seconds"] > 0
    random = json.loads((tmp_path / "out" / "costs.json").read_text())["arms"]["random"]
    assert 0.8 < random["train_step_ratio"] <= 0.9
    assert random["train_step_ratio"] == pytest.approx(random["train_ratio"])
    assert 0 < random["saved_bytes_ratio"] < 1
    assert random["time_ratio_range"][0] <= random["time_ratio"] <= random["time_ratio_range"][1]
    assert random["steps"] == 2
    one = run_folder(tmp_path, "random", 2)
    config = load_config(one / "config.yaml")
    assert config.train.seed == 2
    assert isinstance(config.reducer.params["keep_ratio"][0], float)
    assert train.main([str(one / "config.yaml"), f"output_dir={tmp_path / 'again'}"]) == 0
    assert losses(tmp_path / "again") == losses(one)
    assert losses(one) != losses(run_folder(tmp_path, "random", 1))


def losses(folder: Path) -> list[float]:
    entries = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if entry["event"] == "train"]


def test_a_failing_run_is_told_the_others_go_on_and_the_next_call_tries_it_again(
    digits: Path, tmp_path: Path, call: Call, stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.behave({"random seed-1 pretrain": "fail"})
    file = write_file(tmp_path / "lab.yaml", digits)
    assert call(file) == 1
    assert runs(tmp_path) == {"none 1": "done", "none 2": "done", "random 1": "failed", "random 2": "done"}
    captured = capsys.readouterr()
    odd = run_folder(tmp_path, "random", 1)
    assert f"random, seed 1, pretrain: failed: data.train: there is no file pairs.json (all it said is in {odd}" in (
        captured.out
    )
    assert f"failed: {odd}: data.train: there is no file pairs.json" in captured.err
    assert "looking for data" in (odd / "output.log").read_text()
    stand_ins.behave({})
    assert call(file) == 0
    assert calls(odd) == ["train", "train", "evaluate checkpoint-00000002.pt test"]
    assert len(calls(run_folder(tmp_path, "none", 1))) == 2


def forked(file: Path, out: Path) -> Forked:
    """Return the command on a file, in a process that leads a group of its own."""

    def call() -> int:
        os.setsid()
        with (out.parent / "said").open("ab") as said:
            say_into(said.fileno())
            return sweep.main([str(file), "--out", str(out)])

    return Forked(call)


@pytest.mark.parametrize("how", ["killed", "asked to stop"])
def test_a_sweep_that_was_cut_off_is_gone_on_with(
    how: str, digits: Path, tmp_path: Path, call: Call, stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.behave({"random seed-1 pretrain": "go on until told"})
    file = write_file(tmp_path / "lab.yaml", digits)
    process = forked(file, tmp_path / "out")
    half_done = run_folder(tmp_path, "random", 1)
    while not (half_done / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    if how == "killed":
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert runs(tmp_path)["random 1"] == "running"
        assert call(file, "--report") == 0
        assert runs(tmp_path)["random 1"] == "waiting"
        assert call(file, "--only", "none", "--seeds", "1") == 0
        assert runs(tmp_path)["random 1"] == "waiting"
    else:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
        assert runs(tmp_path) == {"none 1": "done", "none 2": "waiting", "random 1": "waiting", "random 2": "waiting"}
        assert (tmp_path / "said").read_text().splitlines()[-1] == "stopped by SIGTERM"
    first = run_folder(tmp_path, "none", 1)
    assert calls(first) == ["train", "evaluate checkpoint-00000002.pt test"]
    stand_ins.behave({})
    assert call(file) == 0
    assert {*runs(tmp_path).values()} == {"done"}
    assert len(calls(first)) == 2  # it was done
    assert calls(half_done)[:2] == ["train", "train --resume"]
    assert "[4/4]" in capsys.readouterr().out


def test_chains_are_handed_to_slurm_once_and_a_report_asks_it_which_run(
    digits: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = {"4711_0": "RUNNING", "4711_1": "PENDING", "4711_2": "RUNNING", "4711_3": "FAILED"}
    programs = fake_slurm(tmp_path, monkeypatch, states)
    file = write_file(tmp_path / "lab.yaml", digits, ARMS, "seeds: [1, 2]\nslurm: {partition: gpu, gpus: 0}\n")
    assert call(file, "--launcher", "slurm") == 0
    said = capsys.readouterr().out
    assert "0 chains of runs are with Slurm already, 4 were handed over now" in said
    assert "4711_0, 4711_1, 4711_2, 4711_3; their logs are in " in said
    assert "#SBATCH --array=0-3" in (programs / "submitted.sh").read_text()
    assert call(file, "--launcher", "slurm") == 0
    assert "3 chains of runs are with Slurm already, 1 were handed over now" in capsys.readouterr().out
    for arm, seed in (("none", 1), ("random", 2)):  # in the order of jobs, the first and the last
        chain.StageState("running").write(run_folder(tmp_path, arm, seed))
    (tmp_path / "out" / "runs" / "random" / "seed-2" / "job.json").write_text(json.dumps({"job": "4711_3"}))
    assert call(file, "--report") == 0
    assert (runs(tmp_path)["none 1"], runs(tmp_path)["random 2"]) == ("running", "waiting")
    (programs / "sbatch").unlink()  # on a machine without Slurm nobody can tell
    assert call(file, "--report") == 0
    assert runs(tmp_path)["random 2"] == "running"


def test_only_what_is_asked_for_is_run_and_an_arm_can_be_added(
    digits: Path, tmp_path: Path, call: Call, stand_ins: StandIns
) -> None:
    file = write_file(tmp_path / "lab.yaml", digits)
    assert call(file, "--only", "random", "--seeds", "2") == 0
    assert runs(tmp_path) == {"none 1": "waiting", "none 2": "waiting", "random 1": "waiting", "random 2": "done"}
    write_file(file, digits, f"{ARMS}  late: {{reducer: none}}\n", "seeds: [1, 2, 3]\n")
    assert call(file, "--only", "late", "--seeds", "3") == 0
    assert {name for name, status in runs(tmp_path).items() if status == "done"} == {"random 2", "late 3"}
    assert len(runs(tmp_path)) == 9


def test_another_config_for_a_run_that_was_begun_is_refused_with_what_differs(
    digits: Path, tmp_path: Path, call: Call, stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path / "lab.yaml", digits)
    assert call(file, "--only", "random", "--seeds", "1") == 0
    write_file(file, digits, ARMS.replace("0.5", "0.75"))
    capsys.readouterr()
    assert call(file) == 2
    said = capsys.readouterr().err
    assert (
        f"{run_folder(tmp_path, 'random', 1)} was begun with another config (reducer.keep_ratio was [0.5], is" in said
    )
    assert calls(run_folder(tmp_path, "none", 1)) == []
    assert call(file, "--report") == 2  # else its figures would stand beside parameters that it did not have
    assert "was begun with another config" in capsys.readouterr().err


@pytest.mark.parametrize("held", ["out", "out/runs/random/seed-1/pretrain"])
def test_a_report_believes_a_run_that_says_it_is_running_while_someone_has_its_folder(
    held: str, digits: Path, tmp_path: Path, call: Call, stand_ins: StandIns
) -> None:
    file = write_file(tmp_path / "lab.yaml", digits)
    assert call(file, "--only", "none", "--seeds", "1") == 0
    chain.StageState("running").write(run_folder(tmp_path, "random", 1))
    lock = RunLock(tmp_path / held)
    lock.acquire()
    assert call(file, "--report") == 0
    assert runs(tmp_path)["random 1"] == "running"
    lock.release()
    assert call(file, "--report") == 0
    assert runs(tmp_path)["random 1"] == "waiting"


def test_steps_are_timed_of_those_arms_only_that_are_run(
    digits: Path, tmp_path: Path, stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_file(tmp_path / "lab.yaml", digits), tmp_path / "new"
    assert sweep.main([str(file), "--out", str(out), "--only", "random", "--seeds", "1"]) == 0
    said = capsys.readouterr().err
    assert "timing a training step of random" in said
    assert "timing a training step of none" not in said
    (out / "times.json").unlink()
    assert sweep.main([str(file), "--out", str(out), "--only", "random", "--seeds", "1"]) == 0  # nothing is left to run
    assert capsys.readouterr().err.count("timing a training step of random") == 1


def test_a_dry_run_lists_runs_and_costs_and_writes_nothing(
    digits: Path, tmp_path: Path, stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_file(tmp_path / "lab.yaml", digits), tmp_path / "new"
    assert sweep.main([str(file), "--out", str(out), "--dry-run", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert "random begin=[0] keep_ratio=[0.5]" in said
    assert "(1.000)" in said
    assert "4 runs are left to do, of 4:" in said
    assert "2 at a time" in said
    assert not out.exists()


def test_two_sweeps_in_one_folder_are_refused(
    digits: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = RunLock(tmp_path / "out")
    lock.acquire()
    assert call(write_file(tmp_path / "lab.yaml", digits)) == 2
    lock.release()
    said = capsys.readouterr().err
    assert f"{tmp_path / 'out'} is in use by another sweep: process {os.getpid()}" in said
    assert "--out DIR" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "tome"], "--only: there is no arm 'tome' in "),
        (["--seeds", "7"], "has no seed '7'; it has 1, 2."),
        (["--jobs", "0"], "--jobs: expected a number above 0, got 0."),
        (["--report"], "--report: there is no sweep in "),
    ],
)
def test_what_is_asked_for_and_not_there_is_told(
    words: list[str], said: str, digits: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(write_file(tmp_path / "lab.yaml", digits), *words) == 2
    assert said in capsys.readouterr().err


def test_the_keys_of_a_file_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--help-file"]) == 0
    said = capsys.readouterr().out
    for section in (SweepFile, ArmSection, BudgetSection, EvaluateSection, FollowUpSection, SlurmSection):
        for key in section.model_fields:
            assert re.search(rf"^( *{key} [=(]|{key}  #)", said, re.MULTILINE), key
    assert sweep.main([]) == 2
    assert "name the file of a sweep" in capsys.readouterr().err
