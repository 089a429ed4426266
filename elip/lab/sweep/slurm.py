"""Chains as jobs of a Slurm cluster, handed over by submitit: queueing, time limits and restarts are theirs.

A chain is one job, so that follow-up tasks wait for what they start from, and each job goes on from wherever an earlier
one came to: a job that Slurm stops, or that runs into its time limit, saves and is queued again.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import elip
from elip.atomic import write_text, writing
from elip.errors import ConfigError, ElipError
from elip.lab.sweep.chain import Chain, ChainRunner
from elip.lab.sweep.file import SlurmSection

SLURM, LOCAL = "slurm", "local"
"""Clusters that submitit knows: Slurm's, or processes of this machine for trying it out."""
JOBS, JOB = "jobs", "job.json"
"""Folder of submitit's own files; and what says, beside a chain, which job has it."""

_SIGNAL = "USR1"  # before a job is stopped; submitit's own choice, USR2, would kill a training that it reaches
_REQUEUES = 100
_ROOT = Path(elip.__file__).parents[1]
_PATIENCE_SECONDS = 0.2


class ChainJob:
    """What a job calls: runs the chain in a file, and asks to be queued again when it must stop before its end."""

    def __init__(self) -> None:
        self._runner: ChainRunner | None = None
        self._thread: threading.Thread | None = None

    def __call__(self, path: str) -> str:
        """Return what became of the chain."""
        runner = self._runner = ChainRunner()
        chain = Chain.read(Path(path))
        statuses: list[str] = []
        # apart from the main thread, in which the signal is answered
        self._thread = threading.Thread(target=lambda: statuses.append(runner.run(chain)))
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(_PATIENCE_SECONDS)
        return statuses[0] if statuses else "failed"

    def checkpoint(self, path: str) -> Any:
        """Let what runs save and end, and return what to queue."""
        from submitit.helpers import DelayedSubmission

        if self._runner is not None and self._thread is not None:
            self._runner.stop()
            self._thread.join()
        return DelayedSubmission(ChainJob(), path)


class Cluster:
    """Hands chains over, and knows which of them it still has.

    Args:
        out: folder of the sweep.
        section: what to ask of Slurm for each job.
        name: of the jobs.
        kind: `SLURM`, or `LOCAL` to try it out.

    Raises:
        ConfigError: submitit or Slurm is not here, or a parameter is none of theirs.
    """

    def __init__(self, out: Path, section: SlurmSection, name: str, kind: str = SLURM) -> None:
        self._submitit = _submitit()
        if kind == SLURM and shutil.which("sbatch") is None:
            raise ConfigError("--launcher slurm: there is no sbatch here. Start this on a machine of the cluster.")
        self._folder, self._kind = out / JOBS, kind
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._executor = self._submitit.AutoExecutor(self._folder, cluster=kind, slurm_max_num_timeout=_REQUEUES)
        try:
            self._executor.update_parameters(**_parameters(section, name))
        except (NameError, ValueError, TypeError) as error:
            raise ConfigError(f"slurm: submitit does not take these parameters: {error}") from error

    def has(self, file: Path) -> bool:
        """Return whether a job with the chain of a file is waiting or running; only Slurm can tell."""
        if self._kind != SLURM:
            return False
        with suppress(OSError, ValueError, LookupError):
            number = json.loads((file.parent / JOB).read_text(encoding="utf-8"))["job"]
            return not self._submitit.SlurmJob(self._folder, number).done(force_check=True)
        return False

    @staticmethod
    def had(file: Path) -> bool:
        """Return whether the chain of a file was ever handed over."""
        return (file.parent / JOB).exists()

    def hand_over(self, files: Sequence[Path]) -> list[Any]:
        """Submit a job for the chain in each file, and return submitit's jobs."""
        with self._submitting(), self._executor.batch():
            jobs = [self._executor.submit(ChainJob(), str(file.absolute())) for file in files]
        for file, job in zip(files, jobs, strict=True):
            write_text(file.parent / JOB, json.dumps({"job": job.job_id}) + "\n")
        return jobs

    def submit(self, job: Callable[..., Any], *arguments: Any) -> Any:
        """Submit one job that calls something, and return it."""
        with self._submitting():
            return self._executor.submit(job, *arguments)

    @contextmanager
    def _submitting(self) -> Iterator[None]:
        """Return a context in which jobs find this toolkit if it is not installed, and failures are told."""
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), before]))
        try:
            yield
        except self._submitit.core.utils.FailedJobError as error:
            raise ElipError(f"Slurm did not take the jobs: {' '.join(str(error).split())}") from error
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def _submitit() -> Any:
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = _SIGNAL  # read when it is imported, here and in the jobs
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--launcher slurm needs submitit, which is not installed: pip install 'elip[slurm]' (or submitit)."
        ) from error
    return submitit


def _parameters(section: SlurmSection, name: str) -> dict[str, Any]:
    """Return submitit's parameters for what a file asks for."""
    asked = {
        "name": name,
        "timeout_min": section.time,
        "gpus_per_node": section.gpus,
        "cpus_per_task": section.cpus,
        "tasks_per_node": 1,
        "mem_gb": section.mem_gb,
        "slurm_partition": section.partition,
        "slurm_account": section.account,
        "slurm_qos": section.qos,
        "slurm_array_parallelism": section.max_jobs,
        "slurm_additional_parameters": section.additional or None,
    }
    return {key: value for key, value in asked.items() if value is not None}
