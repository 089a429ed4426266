"""A sweep with its plan and its folder: what there is to run, what it costs, and how long it will take."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from elip.config import config_to_dict
from elip.errors import ConfigError
from elip.lab.sweep.chain import CHAIN, Chain, Stage
from elip.lab.sweep.continuity import refuse_other_runs
from elip.lab.sweep.counting import Counts
from elip.lab.sweep.file import Sweep
from elip.lab.sweep.planning import Arm, Planner, at, images_of_step
from elip.lab.sweep.records import SweepRecord, cost_of, write_costs
from elip.lab.sweep.timing import Times, machine_of, time_beside

_QUICK_ROUNDS = 3


class Session:
    """One sweep in one folder, planned.

    Args:
        sweep: its file.
        out: its folder, which need not be there.
        tell: is told what takes a while.

    Raises:
        ElipError: the file asks for what cannot be.
    """

    def __init__(self, sweep: Sweep, out: Path, tell: Callable[[str], object] = lambda _: None) -> None:
        self.sweep, self.out, self._tell = sweep, out, tell
        folder = out if out.is_dir() else None
        self._counts, self._times = Counts(folder), Times(folder)
        self._planner = Planner(sweep, self._counts)
        try:
            self.arms = self._planner.arms()
        finally:
            self._counts.save()
        self.baseline = next(arm for arm in self.arms if arm.section == sweep.file.baseline)
        self.chains = [self._chain(arm, seed) for seed in sweep.file.seeds for arm in self.arms]

    def asked(self, arms: Sequence[str], seeds: Sequence[str]) -> list[Chain]:
        """Return the chains of some arms and seeds, in order: all arms of a seed before the next one.

        Args:
            arms: names of arms, or of their sections; none for all.
            seeds: as text; none for all.

        Raises:
            ConfigError: there is no such arm or seed.
        """
        for name in arms:
            if not any(name in (arm.name, arm.section) for arm in self.arms):
                known = ", ".join(arm.name for arm in self.arms)
                raise ConfigError(f"--only: there is no arm {name!r} in {self.sweep.path}; there are {known}.")
        for seed in seeds:
            if seed not in map(str, self.sweep.file.seeds):
                known = ", ".join(map(str, self.sweep.file.seeds))
                raise ConfigError(f"--seeds: {self.sweep.path} has no seed {seed!r}; it has {known}.")
        names = [arm.name for arm in self.arms if not arms or {arm.name, arm.section} & {*arms}]
        return [chain for chain in self.chains if chain.arm in names and (not seeds or str(chain.seed) in seeds)]

    def check_runs(self) -> None:
        """Raise an error for runs in the folder that are not those asked for now."""
        refuse_other_runs(self.chains)

    def check(self) -> None:
        """Raise an error for what would stop a run, and for runs in the folder that are not those asked for now."""
        self.check_runs()
        self._planner.check(self.arms)

    def record(self, is_alive: Callable[[Chain], bool] = lambda _: False) -> SweepRecord:
        """Return the record of all runs, as far as they are. is_alive: as for `SweepRecord`."""
        return SweepRecord(self.out, self.sweep, self.arms, self.chains, is_alive)

    def write_chains(self) -> None:
        """Write what each chain is to do into its folder."""
        for chain in self.chains:
            chain.write(self.chain_file(chain))

    def chain_file(self, chain: Chain) -> Path:
        """Return where that lies."""
        return self.out / "runs" / chain.arm / f"seed-{chain.seed}" / CHAIN

    def costs(self) -> dict[str, dict[str, Any]]:
        """Return what each arm costs, by name; see `cost_of`. Times are those that were taken before."""
        costs = {}
        try:
            for arm in self.arms:
                times = self._times.find(arm.config, self.baseline.config)
                costs[arm.name] = cost_of(arm, self.baseline, self._counts, times)
        finally:
            self._counts.save()
        return costs

    def write_costs(self) -> None:
        """Write `costs.json`."""
        write_costs(self.out, self.costs())

    def not_timed(self, chains: Sequence[Chain], machine: str | None) -> list[Arm]:
        """Return the arms of chains whose training step was not timed on a machine; None for any."""
        arms = [arm for arm in self.arms if any(chain.arm == arm.name for chain in chains)]
        return [arm for arm in arms if self._times.find(arm.config, self.baseline.config, machine) is None]

    def time(self, left: Sequence[Chain], asked: Sequence[Chain]) -> None:
        """Time a training step of each arm of chains that are left to do and was not timed on this machine yet.

        Of the others that are asked for, those are timed that never were, or whose times were removed.
        """
        here, never = self.not_timed(left, machine_of(self.baseline.config)), self.not_timed(asked, None)
        for arm in [arm for arm in self.arms if arm in here or arm in never]:
            self._tell(f"timing a training step of {arm.name}")
            times = time_beside(arm.config, self.baseline.config)
            self._times.keep(arm.config, self.baseline.config, times)

    def estimate(self, chains: Sequence[Chain], jobs: int) -> tuple[float, dict[str, Any]]:
        """Return the seconds that training takes which is left of chains, and the times of a baseline's step.

        All steps are taken to be as fast, in MACs a second, as the baseline's.
        """
        config = self.baseline.config
        times = self._times.find(config, config, machine_of(config))
        times = times or time_beside(config, config, rounds=_QUICK_ROUNDS)
        pace = times["seconds"] / (self._counts.train_step(config) * images_of_step(config))
        arms = {arm.name: arm for arm in self.arms}
        longest, seconds = 0.0, 0.0
        for chain in chains:
            stages = self._planner.stages(arms[chain.arm])
            macs = sum(self._macs(stages[stage.name]) for stage in chain.stages if not chain.has_done(stage))
            longest, seconds = max(longest, pace * macs), seconds + pace * macs
        self._counts.save()
        return max(longest, seconds / jobs), times

    def _macs(self, config: Any) -> float:
        return self._counts.training(config) * images_of_step(config) * self._counts.steps(config)

    def _chain(self, arm: Arm, seed: int) -> Chain:
        folder = self.out / "runs" / arm.name / f"seed-{seed}"
        stages = [
            Stage(name, config_to_dict(at(config, folder / name, seed)), list(self._planner.splits(name)))
            for name, config in self._planner.stages(arm).items()
        ]
        return Chain(arm.name, seed, self.sweep.file.evaluate.checkpoint, stages)
