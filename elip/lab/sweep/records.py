"""What a sweep leaves for its report: which runs there are and how far they are, and what each arm costs."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from elip.atomic import write_text
from elip.lab.sweep.chain import Chain, Stage, StageState
from elip.lab.sweep.counting import Counts
from elip.lab.sweep.file import Sweep
from elip.lab.sweep.planning import Arm

SWEEP, COSTS = "sweep.json", "costs.json"

Key = tuple[str, int, str]
"""Arm, seed and stage."""


class SweepRecord:
    """`sweep.json`: all runs of a sweep, with what became of them.

    Args:
        out: folder of the sweep.
        sweep: its file.
        arms: all of them.
        chains: of all arms and seeds.
        is_alive: whether a chain may be running at this moment, so that a run which says so is believed.
    """

    def __init__(
        self,
        out: Path,
        sweep: Sweep,
        arms: Sequence[Arm],
        chains: Sequence[Chain],
        is_alive: Callable[[Chain], bool] = lambda _: False,
    ) -> None:
        self._out, self._sweep, self._arms, self._chains = out, sweep, arms, chains
        self._outcomes: dict[Key, StageState] = {}
        for chain, stage in self.runs:
            outcome = StageState.of(stage.folder)
            undone = outcome.status == "done" and not chain.has_done(stage)  # another evaluation is asked for now
            if undone or (outcome.status == "running" and not is_alive(chain)):
                outcome = StageState("waiting", seconds=outcome.seconds)
            self._outcomes[_key(chain, stage)] = outcome

    @property
    def runs(self) -> list[tuple[Chain, Stage]]:
        """All runs, each with the chain that it is in."""
        return [(chain, stage) for chain in self._chains for stage in chain.stages]

    def outcome(self, chain: Chain, stage: Stage) -> StageState:
        """Return what became of a run."""
        return self._outcomes[_key(chain, stage)]

    def note(self, chain: Chain, stage: Stage, outcome: StageState) -> None:
        """Take in what became of a run, and write it down."""
        self._outcomes[_key(chain, stage)] = outcome
        self.write()

    def write(self) -> None:
        """Write the file."""
        file = self._sweep.file
        names = [arm.name for arm in self._arms]
        record = {
            "name": self._sweep.name,
            "file": self._sweep.text,
            "baseline": file.baseline,
            "yardstick": file.yardstick if any(arm.section == file.yardstick for arm in self._arms) else None,
            "stages": list(dict.fromkeys(stage.name for _, stage in self.runs)),
            "arms": [_arm_row(arm) for arm in self._arms],
            "seeds": sorted({chain.seed for chain in self._chains}),
            "runs": sorted(self._rows(), key=lambda row: (names.index(row["arm"]), row["seed"])),
        }
        write_text(self._out / SWEEP, json.dumps(record, indent=2) + "\n")

    def _rows(self) -> Iterable[dict[str, Any]]:
        for chain, stage in self.runs:
            outcome = self._outcomes[_key(chain, stage)]
            for split in stage.splits:
                yield {
                    "arm": chain.arm,
                    "seed": chain.seed,
                    "stage": stage.name,
                    "folder": str(stage.folder.relative_to(self._out)),
                    "split": split,
                    "status": outcome.status,
                    "error": outcome.error,
                    "seconds": outcome.seconds or None,
                    "files": outcome.files,
                }


def _arm_row(arm: Arm) -> dict[str, Any]:
    return {"name": arm.name, "section": arm.section, "label": arm.label, "budget": arm.budget}


def cost_of(arm: Arm, baseline: Arm, counts: Counts, times: dict[str, Any] | None) -> dict[str, Any]:
    """Return what an arm costs, as `costs.json` has it: GMACs of one image, and shares of the baseline's.

    Args:
        counts: counts it.
        times: of a training step, as `elip.lab.sweep.timing` gives them; None where none was timed.
    """
    mine, theirs = counts.whole(arm.config), counts.whole(baseline.config)
    record: dict[str, Any] = {}
    for key, name in (("inference", "inference"), ("train_step", "train_step"), ("training", "train")):
        record[f"{name}_gmacs"] = mine[key] / 1e9
        record[f"{name}_ratio"] = mine[key] / theirs[key]
    times = times or {}
    return {
        **record,
        "steps": arm.steps,
        "saved_bytes": mine["saved_bytes"],
        "saved_bytes_ratio": mine["saved_bytes"] / theirs["saved_bytes"],
        "time_ratio": times.get("ratio"),
        "time_ratio_range": times.get("range"),
        "seconds_per_step": times.get("seconds"),
        "machine": times.get("machine"),
    }


def write_costs(out: Path, costs: dict[str, dict[str, Any]]) -> None:
    """Write `costs.json`."""
    write_text(out / COSTS, json.dumps({"arms": costs}, indent=2) + "\n")


def _key(chain: Chain, stage: Stage) -> Key:
    return chain.arm, chain.seed, stage.name
