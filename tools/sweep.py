"""Train and compare reducers: every arm of a sweep's file with every seed, and a report with honest intervals."""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from elip.atomic import remove_stale_parts, writing
from elip.config import config_to_dict
from elip.efficiency.report import Table, as_text
from elip.engine.run_lock import RunLock
from elip.errors import ConfigError, ElipError
from elip.lab.chain import CHAIN, Chain, Outcome, Stage
from elip.lab.continuity import refuse_other_runs
from elip.lab.counting import Counts
from elip.lab.planning import Arm, Planner, at, chosen
from elip.lab.pool import default_jobs, run_all
from elip.lab.records import SweepRecord, cost_of, write_costs
from elip.lab.sweep_file import Sweep
from elip.lab.timing import machine_of, time_beside
from tools.cli import user_errors

EPILOG = """examples:
  python tools/sweep.py configs/lab/digitscenes.yaml --dry-run
  python tools/sweep.py configs/lab/digitscenes.yaml --jobs 2
  python tools/sweep.py configs/lab/digitscenes.yaml --only none,random --seeds 1,2
  python tools/sweep.py configs/lab/digitscenes.yaml --report
  python tools/sweep.py big.yaml --launcher slurm

The same command goes on with a sweep that was stopped, and tries again what failed.
"""
FAILED = 1
"""Exit code when a run has failed."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="sweep.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="SWEEP.yaml", help="file of the sweep")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the sweep (default: runs/NAME)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs side by side (default: one for each GPU; without any, one)"
    )
    parser.add_argument("--only", type=_words, default=[], metavar="ARM,...", help="run these arms only")
    parser.add_argument("--seeds", type=_words, default=[], metavar="SEED,...", help="run these seeds of the file only")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="list runs, costs and an estimate of time, and train none")
    what.add_argument("--report", action="store_true", help="write the report of what is there, and train none")
    return parser.parse_args(argv)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep, and return 0 when all runs that were asked for are done."""
    args = parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs: expected a number above 0, got {args.jobs}.")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sweep = Sweep(args.file)
    out = args.out or Path("runs") / sweep.name
    if args.dry_run:
        return Session(sweep, out, args).dry_run()
    with _alone_in(out):
        session = Session(sweep, out, args)
        return session.report() if args.report else session.run()


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Return a context in which no other sweep runs in a folder."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out)
    try:
        lock.acquire()
    except ElipError as error:
        raise ElipError(
            str(error).replace("another run", "another sweep").replace("output_dir=...", "--out")
        ) from error
    try:
        remove_stale_parts(out)
        yield
    finally:
        lock.release()


class Session:
    """One call of the command: a sweep, its plan, and what of it was asked for.

    Args:
        sweep: its file.
        out: its folder.
        args: of the command line.
    """

    def __init__(self, sweep: Sweep, out: Path, args: argparse.Namespace) -> None:
        self._sweep, self._out, self._args = sweep, out, args
        self._jobs = args.jobs or default_jobs()
        self._counts = Counts(out if out.is_dir() else None)
        self._planner = Planner(sweep, self._counts)
        try:
            self._arms = self._planner.arms()
        finally:
            self._counts.save()
        self._seeds = _seeds(sweep, args.seeds)
        self._chains = [self._chain(arm, seed) for seed in sweep.file.seeds for arm in self._arms]

    def dry_run(self) -> int:
        """List runs, costs and times."""
        self._planner.check(self._arms)
        refuse_other_runs(self._asked)
        timed = self._timed_baseline()
        costs = {arm.name: cost_of(arm, self._baseline, self._counts, None) for arm in self._arms}
        print(as_text(_table(self._sweep.name, self._arms, costs)), end="")
        left = [(chain, stage) for chain in self._asked for stage in chain.stages if not chain.has_done(stage)]
        first = [chain for chain, stage in left if stage is chain.stages[0]]
        arms = {arm.name: arm for arm in self._arms}
        seconds = sum(
            timed["seconds"] * costs[chain.arm]["train_ratio"] * arms[chain.arm].steps for chain in first
        ) / min(self._jobs, max(1, len(first)))
        print(f"\n{len(left)} runs are left to do, of {sum(len(chain.stages) for chain in self._asked)}:")
        for _, stage in left:
            print(f"  {stage.folder}")
        print(
            f"about {_minutes(seconds)} with {self._jobs} at a time, evaluations and follow-up tasks apart: from "
            f"{timed['seconds']:.3g} s for a step of {self._baseline.name!r} ({timed['machine']}), and for the others "
            "in proportion to their MACs"
        )
        return 0

    def report(self) -> int:
        """Write the report of what is there."""
        record = SweepRecord(self._out, self._sweep, self._arms, self._chains)
        record.write()
        write_costs(self._out, self._costs(timing=False))
        return self._finish(record)

    def run(self) -> int:
        """Run what is left, and write the report."""
        self._planner.check(self._arms)
        refuse_other_runs(self._chains)
        for chain in self._chains:
            chain.write(self._out / "runs" / chain.arm / f"seed-{chain.seed}" / CHAIN)
        record = SweepRecord(self._out, self._sweep, self._arms, self._chains)
        record.write()
        left = [chain for chain in self._asked if not chain.is_done]
        write_costs(self._out, self._costs(timing=bool(left)))
        progress = Progress(record, self._asked, self._jobs)
        try:
            run_all(left, min(self._jobs, max(1, len(left))), progress)
        finally:
            record.write()
        return self._finish(record)

    def _finish(self, record: SweepRecord) -> int:
        asked = [(chain, stage) for chain in self._asked for stage in chain.stages]
        failed = [(chain, stage) for chain, stage in asked if record.outcome(chain, stage).status == "failed"]
        for _, stage in failed:
            print(f"failed: {stage.folder}: {Outcome.of(stage.folder).error}", file=sys.stderr)
        if any(record.outcome(chain, stage).status == "done" for chain, stage in record.runs):
            _report(self._out)
        return FAILED if failed else 0

    @property
    def _asked(self) -> list[Chain]:
        """The chains that the command line leaves."""
        names = [arm.name for arm in chosen(self._arms, self._args.only)] if self._args.only else None
        return [chain for chain in self._chains if chain.seed in self._seeds and (names is None or chain.arm in names)]

    @property
    def _baseline(self) -> Arm:
        name = self._sweep.file.baseline
        return next(arm for arm in self._arms if arm.section == name)

    def _chain(self, arm: Arm, seed: int) -> Chain:
        folder = self._out / "runs" / arm.name / f"seed-{seed}"
        stages = [
            Stage(name, config_to_dict(at(config, folder / name, seed)), list(self._planner.splits(name)))
            for name, config in self._planner.stages(arm).items()
        ]
        return Chain(arm.name, seed, self._sweep.file.evaluate.checkpoint, stages)

    def _costs(self, timing: bool) -> dict[str, dict[str, Any]]:
        costs = {}
        try:
            for arm in self._arms:
                costs[arm.name] = cost_of(arm, self._baseline, self._counts, self._times(arm, timing))
        finally:
            self._counts.save()
        return costs

    def _times(self, arm: Arm, timing: bool) -> dict[str, Any] | None:
        """Return how long an arm's step takes; timed now, unless that was done before, if `timing` says so."""
        config, beside = arm.config, self._baseline.config
        machine = machine_of(config)
        known = self._counts.time(config, beside, machine)
        if known is None and timing:
            print(f"timing a training step of {arm.name} ...", file=sys.stderr)
            known = time_beside(config, beside)
            self._counts.keep_time(config, beside, machine, known)
        return known

    def _timed_baseline(self) -> dict[str, Any]:
        baseline = self._baseline
        known = self._counts.time(baseline.config, baseline.config, machine_of(baseline.config))
        return known or time_beside(baseline.config, baseline.config, rounds=3)


class Progress:
    """Prints a line for each run that ends.

    Args:
        record: that keeps what became of runs.
        chains: that are to be run in all.
        jobs: at a time.
    """

    def __init__(self, record: SweepRecord, chains: Sequence[Chain], jobs: int) -> None:
        self._record, self._jobs = record, jobs
        self._runs = [(chain, stage) for chain in chains for stage in chain.stages]

    def __call__(self, chain: Chain, stage: Stage, outcome: Outcome) -> None:
        """Take in what became of a run."""
        self._record.note(chain, stage, outcome)
        if outcome.status == "running":
            return
        done = [one for one in self._runs if self._record.outcome(*one).status == "done"]
        what = f"{chain.arm}, seed {chain.seed}, {stage.name}"
        print(f"[{len(done)}/{len(self._runs)}] {what}: {self._said(stage, outcome)}", flush=True)

    def _said(self, stage: Stage, outcome: Outcome) -> str:
        if outcome.status == "failed":
            return f"failed: {outcome.error} (all it said is in {stage.folder / 'output.log'})"
        if outcome.status == "waiting":
            return "stopped; the same command goes on with it"
        metrics = ", ".join(f"{split} {name} {value:.2f}" for split, (name, value) in outcome.metrics.items())
        return f"{metrics}; {_minutes(outcome.seconds)}; {_minutes(self._left())} left"

    def _left(self) -> float:
        """Return the seconds that are left, if the other runs of a stage take as long as those that are done."""
        seconds = 0.0
        done = [(stage, self._record.outcome(chain, stage)) for chain, stage in self._runs]
        done = [(stage, outcome) for stage, outcome in done if outcome.status == "done"]
        for chain, stage in self._runs:
            if self._record.outcome(chain, stage).status != "done":
                alike = [one.seconds for other, one in done if other.name == stage.name] or [o.seconds for _, o in done]
                seconds += sum(alike) / len(alike)
        return seconds / self._jobs


def _report(out: Path) -> None:
    try:
        from elip.lab.report import write_report
    except ModuleNotFoundError:
        return
    write_report(out)
    print(f"the report is {out / 'report.md'}")


def _seeds(sweep: Sweep, asked: Sequence[str]) -> list[int]:
    known = sweep.file.seeds
    for word in asked:
        if word not in map(str, known):
            raise ConfigError(f"--seeds: {word!r} is no seed of {sweep.path}, which has {', '.join(map(str, known))}.")
    return [int(word) for word in asked] or list(known)


def _table(name: str, arms: Sequence[Arm], costs: dict[str, dict[str, Any]]) -> Table:
    rows = []
    for arm in arms:
        cost = costs[arm.name]
        rows.append(
            [
                arm.name,
                arm.label,
                "-" if arm.budget is None else f"{arm.budget:g}",
                str(arm.steps),
                *(
                    f"{cost[f'{key}_gmacs']:.4g} ({cost[f'{key}_ratio']:.3f})"
                    for key in ("inference", "train_step", "train")
                ),
            ]
        )
    columns = ["arm", "reducer", "budget", "steps", "inference", "training step", "mean of training"]
    return Table(f"Arms of {name}; GMACs an image, and ratio to the baseline's", columns, rows)


def _minutes(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else str(timedelta(seconds=round(seconds)))


if __name__ == "__main__":
    raise SystemExit(main())
