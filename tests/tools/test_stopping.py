"""What signals do to commands, and what two of them do in one folder."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from elip.engine.run_lock import RunLock
from elip.engine.step import StepReport, StepRunner
from elip.errors import Interrupted
from tests.engine.stub import send_self
from tools import evaluate, train
from tools.cli import user_errors


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Interrupted(signal.SIGTERM), 143, "stopped by SIGTERM\n"),
        (Interrupted(signal.SIGUSR1), 128 + signal.SIGUSR1, "stopped by SIGUSR1\n"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT\n"),
    ],
)
def test_a_command_that_a_signal_ends_says_so_in_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @user_errors
    def command() -> int:
        raise error

    assert command() == code
    assert capsys.readouterr().err == said


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Lets something happen in the step of a number, counted from 1."""

    def arrange(number: int, happen: Callable[[], None]) -> None:
        step, steps = StepRunner.step, []

        def counted(self: StepRunner, *args: object) -> StepReport:
            steps.append(1)
            if len(steps) == number:
                happen()
            return step(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(StepRunner, "step", counted)

    return arrange


def test_ctrl_c_once_saves_and_ends_well(
    config: Path,
    tiny: list[str],
    tmp_path: Path,
    in_step: Callable[[int, Callable[[], None]], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    in_step(2, lambda: send_self(signal.SIGINT))
    assert train.main([str(config), *tiny]) == 0
    assert "Ctrl-C: finishing this step, then saving; once more stops at once\n" in capfd.readouterr().err
    assert (tmp_path / "run" / "checkpoint-00000002.pt").exists()


def test_ctrl_c_twice_ends_at_once(
    config: Path,
    tiny: list[str],
    tmp_path: Path,
    in_step: Callable[[int, Callable[[], None]], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    def twice() -> None:
        send_self(signal.SIGINT)
        send_self(signal.SIGINT)

    in_step(2, twice)
    assert train.main([str(config), *tiny]) == 130
    said = capfd.readouterr().err
    assert said.endswith("stopped by SIGINT\n")
    assert "Traceback" not in said
    assert not list((tmp_path / "run").glob("*.pt*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_an_evaluation_on_its_own_at_once(
    config: Path,
    tiny: list[str],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert train.main([str(config), *tiny, "train.max_steps=1", "data.val=[]"]) == 0
    capfd.readouterr()
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: send_self(number))
    assert evaluate.main([str(tmp_path / "run")]) == code
    assert capfd.readouterr().err.splitlines()[-1] == f"stopped by {number.name}"


def test_a_second_training_in_a_folder_is_refused_before_it_writes_anything(
    config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    first = RunLock(folder)
    first.acquire()
    for arguments in ([], ["--resume"]):
        assert train.main([str(config), *tiny, *arguments]) == 2
        assert f"error: {folder} is in use by another run: process " in capsys.readouterr().err
    first.release()
    assert not list(folder.iterdir())
