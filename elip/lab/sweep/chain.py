"""One arm with one seed: its stages one after the other, each trained and evaluated by the commands for that.

What a chain is to do lies in a file of its own, so that whatever runs it, a thread here or a job on a cluster, needs
that file only. It goes on from wherever an earlier attempt came to.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import elip
from elip.atomic import write_text, writing
from elip.config import config_from_dict, save_config
from elip.config.schema import RunConfig
from elip.engine.run_lock import RunLock
from elip.errors import CheckpointError, DataError, ElipError
from elip.lab.sweep.origins import made_from
from elip.weights import run_folder

Status = Literal["done", "failed", "waiting", "running"]

CHAIN, OUTCOME, OUTPUT = "chain.json", "outcome.json", "output.log"
_ROOT = Path(elip.__file__).parents[1]
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Stage:
    """One run of a chain.

    Args:
        name: of the stage.
        config: of the run, as plain values; `output_dir` is its folder.
        splits: to evaluate.
    """

    name: str
    config: dict[str, Any]
    splits: list[str]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config["output_dir"])


@dataclass(frozen=True)
class StageState:
    """How far a run has come.

    Args:
        status: `waiting` also for one that was interrupted.
        checkpoint: which one was evaluated: best or last.
        error: last line of what a failed one said.
        seconds: that it took, over all attempts.
        metrics: by split, the headline's name and value.
        files: that it was made from, with digests.
    """

    status: Status = "waiting"
    checkpoint: str = ""
    error: str | None = None
    seconds: float = 0.0
    metrics: dict[str, tuple[str, float]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "StageState":
        """Return that of the run in a folder; what cannot be read is as good as not run."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads((folder / OUTCOME).read_text(encoding="utf-8")))
        return cls()

    def write(self, folder: Path) -> None:
        """Keep it in the run's folder."""
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / OUTCOME, json.dumps(asdict(self), indent=2) + "\n")


class Chain:
    """The stages of one arm and seed.

    Args:
        arm: name of the arm.
        seed: of all its runs.
        checkpoint: whose weights are evaluated and handed on: best or last.
        stages: each after the first starts from what the first leaves.
    """

    def __init__(self, arm: str, seed: int, checkpoint: str, stages: Sequence[Stage]) -> None:
        self.arm, self.seed, self.checkpoint, self.stages = arm, seed, checkpoint, list(stages)

    @classmethod
    def read(cls, path: Path) -> "Chain":
        """Return the chain that a file tells.

        Raises:
            DataError: it is not there, or damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**values, "stages": [Stage(**stage) for stage in values["stages"]]})
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise DataError(f"cannot read {path} ({error}). Start the sweep again, which writes it.") from error

    def write(self, path: Path) -> None:
        """Keep it in a file."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        values = {"arm": self.arm, "seed": self.seed, "checkpoint": self.checkpoint}
        write_text(path, json.dumps({**values, "stages": [asdict(stage) for stage in self.stages]}, indent=1) + "\n")

    @property
    def is_done(self) -> bool:
        """Whether all stages are."""
        return all(self.has_done(stage) for stage in self.stages)

    def has_done(self, stage: Stage) -> bool:
        """Return whether a stage is trained, and evaluated on all splits that are asked for now."""
        outcome = StageState.of(stage.folder)
        return (
            outcome.status == "done"
            and outcome.checkpoint == self.checkpoint
            and all((stage.folder / "eval" / split / "metrics.json").is_file() for split in stage.splits)
            and {*stage.splits} <= outcome.metrics.keys()
        )


class ChainRunner:
    """Runs chains, one at a time; `stop` may be called from anywhere.

    Args:
        environment: of the commands, beside this process's.
        notice: is told when a stage begins, waits for what another one does in its folder, or has come to an end.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        notice: Callable[[Chain, Stage, StageState], None] = lambda *_: None,
    ) -> None:
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
        self._notice = notice
        self._process: subprocess.Popen | None = None
        self._stopping = threading.Event()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask the command that runs to save and end, and begin no other."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def run(self, chain: Chain) -> Status:
        """Run what is left of a chain, and return what became of it."""
        for stage in chain.stages:
            if chain.has_done(stage):
                continue
            before = StageState.of(stage.folder)
            begun_with = before.files if run_folder.latest(stage.folder) is not None else {}
            files = {**made_from(stage.config, stage.splits), **begun_with}
            running = replace(before, status="running", error=None, files=files)
            with suppress(ElipError):  # a full disk: the run itself says so
                running.write(stage.folder)
            self._notice(chain, stage, running)
            began = time.monotonic()
            try:
                outcome = self._run_stage(chain, stage)
            except ElipError as error:
                outcome = StageState("failed", error=str(error))
            except OSError as error:
                outcome = StageState("failed", error=f"{type(error).__name__}: {error}")
            seconds = before.seconds + time.monotonic() - began
            outcome = replace(outcome, checkpoint=chain.checkpoint, seconds=round(seconds, 3), files=running.files)
            with suppress(ElipError):
                outcome.write(stage.folder)
            self._notice(chain, stage, outcome)
            if outcome.status != "done":
                return outcome.status
        return "done"

    def _run_stage(self, chain: Chain, stage: Stage) -> StageState:
        folder = stage.folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._wait_for_others(chain, stage)
        if not is_trained(folder):
            error = self._train(chain, stage)
            if self._stopping.is_set() and not (error is None and is_trained(folder)):
                return StageState("waiting")
            if error is None and not is_trained(folder):  # a signal that came from elsewhere
                return StageState("waiting", error="stopped by a signal")
            if error is not None:
                return StageState("failed", error=error)
        weights = weights_of(folder, chain.checkpoint)
        metrics = {}
        for split in stage.splits:
            error = self._command(folder, "evaluate", weights, "--split", split, *_plugins(stage))
            if self._stopping.is_set() and error is not None:
                return StageState("waiting")
            if error is not None:
                return StageState("failed", error=error)
            metrics[split] = headline(folder / "eval" / split)
        return StageState("done", metrics=metrics)

    def _train(self, chain: Chain, stage: Stage) -> str | None:
        """Begin a run or go on with it; return what went wrong, None if nothing did."""
        folder = stage.folder
        if run_folder.latest(folder) is not None:
            return self._command(folder, "train", folder / "config.yaml", "--resume")
        first = chain.stages[0]
        init = weights_of(first.folder, chain.checkpoint) if stage is not first else None
        save_config(stage_config(stage, init), folder / "config.yaml")
        return self._command(folder, "train", folder / "config.yaml")

    def _command(self, folder: Path, name: str, *words: object) -> str | None:
        """Run a command, its output going to a file in the run's folder, and return the last line of its failure."""
        path = folder / OUTPUT
        with writing(path), path.open("ab") as output:
            begin = output.tell()
            command = [sys.executable, str(_ROOT / "tools" / f"{name}.py"), *map(str, words)]
            if self._stopping.is_set():
                return "stopped"
            self._process = start(command, output, self._environment)
            if self._stopping.is_set():  # asked for between the two lines above
                self.stop()
            code = self._process.wait()
        return None if code == 0 else _last_error(path, begin, code)

    def _wait_for_others(self, chain: Chain, stage: Stage) -> None:
        """Wait for a run that still goes on in the folder, and tell so: whoever started it may be gone without it."""
        folder, told = stage.folder, False
        while not self._stopping.is_set():
            lock = RunLock(folder)
            try:
                lock.acquire()
            except ElipError as error:
                if "in use by another run" not in str(error):
                    raise
                if not told:
                    self._notice(chain, stage, StageState("running", error=f"waits: {error}"))
                    told = True
                time.sleep(_POLL_SECONDS)
            else:
                lock.release()
                return


def start(command: Sequence[str], output: BinaryIO, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start a command in a process of this process's group, so that what kills that kills all."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)


def stage_config(stage: Stage, init: Path | None = None) -> RunConfig:
    """Return the checked config of a stage, which starts from weights if some are given."""
    plugins = [f"plugins={json.dumps(stage.config['plugins'])}"] if stage.config.get("plugins") else []
    words = [f"model.init={json.dumps(str(init))}"] if init else []
    return config_from_dict(stage.config, f"{stage.name} of a sweep", [*plugins, *words])


def is_trained(folder: Path) -> bool:
    """Return whether the training in a folder has come to its end."""
    last = run_folder.latest(folder)
    if last is None:
        return False
    try:
        contents = run_folder.load(last)
    except CheckpointError:
        return False
    return bool(contents["step"] >= contents.get("total_steps", contents["step"] + 1))


def weights_of(folder: Path, which: str) -> Path:
    """Return the best or the last checkpoint of a run; the last one where none was evaluated in training.

    Raises:
        CheckpointError: there is none.
    """
    last = run_folder.latest(folder)
    return last if which == "last" and last is not None else run_folder.find(folder)


def headline(folder: Path) -> tuple[str, float]:
    """Return name and value of the metric that counts, from the files of an evaluation.

    Raises:
        DataError: they are not there or damaged.
    """
    try:
        name = json.loads((folder / "about.json").read_text(encoding="utf-8"))["headline"]
        value = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))[name]
        return str(name), float(value)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"the evaluation in {folder} cannot be read ({type(error).__name__}: {error}).") from error


def _plugins(stage: Stage) -> list[str]:
    return [word for plugin in stage.config.get("plugins", []) for word in ("--plugins", plugin)]


def _last_error(path: Path, begin: int, code: int) -> str:
    """Return what a command said last, from where its output begins in the file."""
    with path.open("rb") as file:
        file.seek(max(begin, path.stat().st_size - 65536))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1]
