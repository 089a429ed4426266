"""Devices, output folder, precision and random state of a run."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.engine.runtime import start_run
from elip.errors import ConfigError, ElipError, Interrupted
from tests.conftest import PROJECT
from tests.engine.stub import send_self, stub_config

needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a CUDA device")


@pytest.mark.parametrize("place", ["taken", "taken/below"])
def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").touch()
    with (
        pytest.raises(ElipError, match=rf"cannot write {tmp_path}/{place}: .*another folder with output_dir="),
        start_run(stub_config(tmp_path / place)),
    ):
        pass


def test_an_output_folder_without_space_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with (
        pytest.raises(ElipError, match=rf"cannot write {tmp_path}/out: No space left on device. Free some space there"),
        start_run(stub_config(tmp_path / "out")),
    ):
        pass


@needs_no_cuda
def test_without_cuda_auto_is_the_cpu_and_cuda_an_error(tmp_path: Path) -> None:
    with start_run(stub_config(tmp_path, device="auto")) as run:
        assert run.device == torch.device("cpu")
    with (
        pytest.raises(ConfigError, match=r"train.device: 'cuda:1' .*no CUDA device"),
        start_run(stub_config(tmp_path, device="cuda:1")),
    ):
        pass


def test_a_device_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"train.device: 'gpu' is no device"),
        start_run(stub_config(tmp_path, device="gpu")),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_a_run_that_has_nothing_to_save(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with (
        pytest.raises(Interrupted, match=f"^stopped by {number.name}$") as interrupted,
        start_run(stub_config(tmp_path)),
    ):
        send_self(number)
    assert interrupted.value.number == number
    assert signal.getsignal(number) == before


def test_signals_are_noted_where_there_is_a_state_to_save(tmp_path: Path) -> None:
    with start_run(stub_config(tmp_path)) as run:
        with run.saving_first():
            assert not run.must_stop()
            send_self(signal.SIGUSR1)
            assert run.stop_signal == "SIGUSR1"
            assert run.must_stop()
        send_self(signal.SIGTERM)  # the run is about to end anyway


def test_ctrl_c_says_what_happens_and_the_second_one_ends_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with start_run(stub_config(tmp_path)) as run, run.saving_first():
        send_self(signal.SIGINT)
        assert run.stop_signal == "SIGINT"
        assert capfd.readouterr().err == "Ctrl-C: finishing this step, then saving; once more stops at once\n"
        with pytest.raises(Interrupted, match=r"^stopped by SIGINT$"):
            send_self(signal.SIGINT)


def test_a_forked_process_does_not_answer_for_the_run(tmp_path: Path) -> None:
    with start_run(stub_config(tmp_path)) as run, run.saving_first():
        child = os.fork()
        if child == 0:
            send_self(signal.SIGINT)
            os._exit(run.stop_signal is not None)
        assert os.waitpid(child, 0)[1] == 0


def test_a_second_run_in_a_folder_is_refused_while_the_first_lasts(tmp_path: Path) -> None:
    config = stub_config(tmp_path)
    with start_run(config, exclusive=True):
        with (
            pytest.raises(ElipError, match=rf"{tmp_path} is in use by another run: process {os.getpid()} on .*, since"),
            start_run(config, exclusive=True),
        ):
            pass
        with start_run(config):  # such as an evaluation
            pass
        assert (tmp_path / "run.lock").exists()
    with start_run(config, exclusive=True):
        pass
    assert not (tmp_path / "run.lock").exists()


def test_a_run_clears_away_what_a_killed_one_left_unfinished(tmp_path: Path) -> None:
    part = tmp_path / "checkpoint-00000005.pt.0123abcd.part"
    part.touch()
    with start_run(stub_config(tmp_path)):
        assert part.exists()
    with start_run(stub_config(tmp_path), exclusive=True):
        assert not part.exists()


SECOND_JOB = """
import sys
from pathlib import Path
from elip.engine.runtime import start_run
from tests.engine.stub import stub_config
from tools.cli import user_errors

@user_errors
def main():
    with start_run(stub_config(Path(sys.argv[1])), exclusive=True):
        return 0

raise SystemExit(main())
"""


def test_all_processes_of_a_second_job_are_refused(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(SECOND_JOB)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with start_run(stub_config(tmp_path), exclusive=True):
        done = subprocess.run(
            [
                *torchrun,
                "--log-dir",
                str(tmp_path / "logs"),
                "--redirects",
                "3",
                str(tmp_path / "job.py"),
                str(tmp_path),
            ],
            env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=False,
        )
    assert done.returncode == 1
    said = [path.read_text() for path in (tmp_path / "logs").rglob("stderr.log")]
    assert len(said) == 2
    assert all(f"error: {tmp_path} is in use by another run: process {os.getpid()} on " in text for text in said)


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        with start_run(stub_config(tmp_path, seed=seed)):
            drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_bf16_forward_passes_run_in_bf16_and_fp32_ones_do_not(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with start_run(stub_config(tmp_path, precision=precision)) as run, run.autocast():
            assert layer(torch.ones(1, 2)).dtype is dtype


def test_a_weight_used_without_gradient_first_still_gets_one(tmp_path: Path) -> None:
    """A look-ahead does that, and autocast's cache of cast weights must not keep the one without gradient."""
    layer = torch.nn.Linear(2, 2, bias=False)
    with start_run(stub_config(tmp_path, precision="bf16")) as run, run.autocast():
        with torch.no_grad():
            layer(torch.ones(1, 2))
        layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is not None
