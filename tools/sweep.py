"""Train and compare reducers: every arm of a sweep's file with every seed, and a report with honest intervals."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from elip.atomic import remove_stale_parts, writing
from elip.config import config_to_dict
from elip.config.describe import keys_of
from elip.efficiency.report import Table, as_text
from elip.engine.run_lock import RunLock, is_held
from elip.errors import ConfigError, ElipError
from elip.lab.report.writer import write_report
from elip.lab.sweep.chain import OUTPUT, Chain, Stage, StageState
from elip.lab.sweep.file import Sweep, SweepFile
from elip.lab.sweep.planning import Arm
from elip.lab.sweep.pool import default_jobs, run_all
from elip.lab.sweep.records import SWEEP, SweepRecord
from elip.lab.sweep.session import Session
from elip.lab.sweep.slurm import JOBS, LOCAL, SLURM, Cluster
from elip.lab.sweep.timing import TimingJob
from tools.cli import user_errors

EPILOG = """examples:
  python tools/sweep.py --help-file
  python tools/sweep.py configs/lab/digitscenes.yaml --dry-run
  python tools/sweep.py configs/lab/digitscenes.yaml --jobs 2
  python tools/sweep.py configs/lab/digitscenes.yaml --only none,random --seeds 1,2
  python tools/sweep.py configs/lab/digitscenes.yaml --report
  python tools/sweep.py big.yaml --launcher slurm

The same command goes on with a sweep that was stopped, and tries again what failed. Each run takes one GPU; one over
several, by torchrun, is no part of a sweep.
"""
FAILED = 1
"""Exit code when a run has failed."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="sweep.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="SWEEP.yaml", help="file of the sweep")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the sweep (default: runs/NAME)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs side by side (default: one for each GPU; without any, one)"
    )
    parser.add_argument("--only", type=_words, default=[], metavar="ARM,...", help="run these arms only")
    parser.add_argument("--seeds", type=_words, default=[], metavar="SEED,...", help="run these seeds of the file only")
    parser.add_argument(
        "--launcher",
        choices=[LOCAL, SLURM],
        default=LOCAL,
        help="run here (default), or hand the runs to Slurm, each arm and seed as one job",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="list runs, costs and an estimate of time, and train none")
    what.add_argument("--help-file", action="store_true", help="tell all keys of such a file")
    what.add_argument("--report", action="store_true", help="write the report of what is there, and train none")
    return parser.parse_args(argv)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep, and return 0 unless a run has failed."""
    args = parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs: expected a number above 0, got {args.jobs}.")
    if args.help_file:
        print(keys_of(SweepFile), end="")
        return 0
    if args.file is None:
        raise ConfigError("name the file of a sweep, such as configs/lab/digitscenes.yaml; --help-file tells its keys.")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sweep = Sweep(args.file)
    out = args.out or Path("runs") / sweep.name
    if args.dry_run:
        return dry_run(_planned(sweep, out), args)
    if args.report:
        return report(_planned(sweep, out))
    with _alone_in(out):
        session = _planned(sweep, out)
        return hand_over(session, args) if args.launcher == SLURM else run(session, args)


def _planned(sweep: Sweep, out: Path) -> Session:
    return Session(sweep, out, lambda text: print(f"{text} ...", file=sys.stderr))


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Return a context in which no other sweep runs in a folder."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out)
    try:
        lock.acquire()
    except ElipError as error:
        words = str(error).replace("another run", "another sweep").replace("output_dir=...", "--out DIR")
        raise ElipError(words) from error
    try:
        remove_stale_parts(out)
        yield
    finally:
        lock.release()


def dry_run(session: Session, args: argparse.Namespace) -> int:
    """List runs, costs and times."""
    asked = session.asked(args.only, args.seeds)
    session.check()
    jobs = args.jobs or default_jobs()
    seconds, times = session.estimate(asked, jobs)
    print(as_text(_table(session)), end="")
    left = [stage.folder for chain in asked for stage in chain.stages if not chain.has_done(stage)]
    print(f"\n{len(left)} runs are left to do, of {sum(len(chain.stages) for chain in asked)}:")
    for folder in left:
        print(f"  {folder}")
    print(
        f"training takes about {_minutes(seconds)}, {jobs} at a time, evaluations and starting not counted: a step of "
        f"{session.baseline.name!r} takes {times['seconds']:.3g} s ({times['machine']}), and all others are taken to "
        "be as fast in MACs a second"
    )
    return 0


def report(session: Session) -> int:
    """Write the report of what is there; while runs go on, too."""
    if not (session.out / SWEEP).is_file():
        raise ConfigError(f"--report: there is no sweep in {session.out} yet. Run it, or name its folder by --out.")
    session.check_runs()
    record = session.record(is_alive=_may_run(session))
    record.write()
    session.write_costs()
    return _finish(record, session.out, record.runs)


def _may_run(session: Session) -> Callable[[Chain], bool]:
    """Return what tells whether a chain may be running: a sweep that was killed left runs that still say so."""
    sweep_runs = is_held(session.out)
    cluster = None
    if any(Cluster.had(session.chain_file(chain)) for chain in session.chains):
        with suppress(ConfigError):  # no Slurm on this machine: what a job says of itself is believed
            cluster = Cluster(session.out, session.sweep.file.slurm, session.sweep.name)

    def may_run(chain: Chain) -> bool:
        if sweep_runs or any(is_held(stage.folder) for stage in chain.stages):
            return True
        file = session.chain_file(chain)
        return Cluster.had(file) and (cluster is None or cluster.has(file))

    return may_run


def run(session: Session, args: argparse.Namespace) -> int:
    """Run what is left, and write the report."""
    asked = session.asked(args.only, args.seeds)
    session.check()
    session.write_chains()
    record = session.record()
    record.write()
    left = [chain for chain in asked if not chain.is_done]
    session.time(left, asked)
    session.write_costs()
    jobs = min(args.jobs or default_jobs(), max(1, len(left)))
    try:
        run_all(left, jobs, ProgressLines(record, asked, jobs))
    finally:
        record.write()
    return _finish(record, session.out, [(chain, stage) for chain in asked for stage in chain.stages])


def hand_over(session: Session, args: argparse.Namespace, kind: str = SLURM) -> int:
    """Hand what is left to Slurm, and write the report of what is there."""
    asked = session.asked(args.only, args.seeds)
    cluster = Cluster(session.out, session.sweep.file.slurm, session.sweep.name, kind)
    session.check()
    session.write_chains()
    queued = [chain for chain in asked if not chain.is_done and cluster.has(session.chain_file(chain))]
    left = [chain for chain in asked if not chain.is_done and chain not in queued]
    record = session.record(is_alive=queued.__contains__)
    record.write()
    session.write_costs()
    jobs = []
    if left and (arms := session.not_timed(left, None)):
        configs = [config_to_dict(arm.config) for arm in arms]
        baseline = config_to_dict(session.baseline.config)
        jobs.append(cluster.submit(TimingJob(), str(session.out.absolute()), configs, baseline))
    if left:
        jobs += cluster.hand_over([session.chain_file(chain) for chain in left])
    print(f"{len(queued)} chains of runs are with Slurm already, {len(left)} were handed over now")
    if jobs:
        print(f"jobs {', '.join(job.job_id for job in jobs)}; their logs are in {session.out / JOBS}")
    print("the same command tells how far they are, and --report writes the report meanwhile")
    return _finish(record, session.out, [(chain, stage) for chain in asked for stage in chain.stages])


def _finish(record: SweepRecord, out: Path, runs: Sequence[tuple[Chain, Stage]]) -> int:
    """Say what has failed, and write the report if there is anything to report."""
    failed = [stage for chain, stage in runs if record.outcome(chain, stage).status == "failed"]
    for stage in failed:
        print(f"failed: {stage.folder}: {StageState.of(stage.folder).error}", file=sys.stderr)
    done = [one for one in record.runs if record.outcome(*one).status == "done"]
    print(f"{len(done)} of {len(record.runs)} runs are done")
    if done:
        print(f"the report is {write_report(out)}")
    return FAILED if failed else 0


class ProgressLines:
    """Prints a line for each run that ends.

    Args:
        record: that keeps what became of runs.
        chains: that are to be run in all.
        jobs: at a time.
    """

    def __init__(self, record: SweepRecord, chains: Sequence[Chain], jobs: int) -> None:
        self._record, self._jobs = record, jobs
        self._runs = [(chain, stage) for chain in chains for stage in chain.stages]

    def __call__(self, chain: Chain, stage: Stage, outcome: StageState) -> None:
        """Take in what became of a run."""
        self._record.note(chain, stage, outcome)
        what = f"{chain.arm}, seed {chain.seed}, {stage.name}"
        if outcome.status == "running":
            if outcome.error:
                print(f"{what}: {outcome.error}", flush=True)
            return
        done = [one for one in self._runs if self._record.outcome(*one).status == "done"]
        print(f"[{len(done)}/{len(self._runs)}] {what}: {self._said(stage, outcome)}", flush=True)

    def _said(self, stage: Stage, outcome: StageState) -> str:
        if outcome.status == "failed":
            return f"failed: {outcome.error} (all it said is in {stage.folder / OUTPUT})"
        if outcome.status == "waiting":
            return "stopped; the same command goes on with it"
        metrics = ", ".join(f"{split} {name} {value:.2f}" for split, (name, value) in outcome.metrics.items())
        return f"{metrics}; {_minutes(outcome.seconds)}; {_minutes(self._left())} left"

    def _left(self) -> float:
        """Return the seconds that are left, if the other runs of a stage take as long as those that are done."""
        seconds = 0.0
        known = [(stage, self._record.outcome(chain, stage)) for chain, stage in self._runs]
        done = [(stage, outcome) for stage, outcome in known if outcome.status == "done"]
        for chain, stage in self._runs:
            if self._record.outcome(chain, stage).status != "done":
                alike = [one.seconds for other, one in done if other.name == stage.name] or [o.seconds for _, o in done]
                seconds += sum(alike) / len(alike)
        return seconds / self._jobs


def _table(session: Session) -> Table:
    costs = session.costs()
    rows = [[arm.name, arm.label, *_cells(arm, costs[arm.name])] for arm in session.arms]
    columns = ["arm", "reducer", "budget", "steps", "inference", "training step", "mean of training"]
    return Table(f"Arms of {session.sweep.name}; GMACs an image, and ratio to the baseline's", columns, rows)


def _cells(arm: Arm, cost: dict[str, Any]) -> list[str]:
    gmacs = [f"{cost[f'{k}_gmacs']:.4g} ({cost[f'{k}_ratio']:.3f})" for k in ("inference", "train_step", "train")]
    return ["-" if arm.budget is None else f"{arm.budget:g}", str(arm.steps), *gmacs]


def _minutes(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else str(timedelta(seconds=round(seconds)))


if __name__ == "__main__":
    raise SystemExit(main())
