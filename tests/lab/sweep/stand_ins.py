"""Commands in the place of tools/train.py and tools/evaluate.py that do in a moment what a chain must cope with."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.lab.sweep import chain
from elip.lab.sweep.chain import Chain, Stage

TRAIN = """
import json, os, shutil, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[1]).parent
here = Path(__file__).parent
with (folder / "calls").open("a") as file:
    file.write(" ".join(["train", *sys.argv[2:]]) + "\\n")
(folder / "environment.json").write_text(json.dumps(dict(os.environ)))
behaviours = json.loads((here / "behaviours.json").read_text())
behaviour = behaviours.get(f"{folder.parents[1].name} {folder.parent.name} {folder.name}")

def save(what):
    step = {"half": 1, "whole": 2}[what]
    shutil.copy(here / f"{what}.pt", folder / f"checkpoint-0000000{step}.pt")

def save_and_end(*_):
    save("half")
    sys.exit(0)

if behaviour == "fail":
    print("looking for data")
    print("error: data.train: there is no file pairs.json", file=sys.stderr)
    print("and a last word")
    sys.exit(2)
if behaviour == "raise":
    raise RuntimeError("out of ideas")
if behaviour == "be killed":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "end early":
    save_and_end()
if behaviour == "go on until told":
    signal.signal(signal.SIGTERM, save_and_end)
    save("half")
    (folder / "parent").write_text(str(os.getppid()))
    (folder / "begun").touch()
    while True:
        signal.pause()
save("whole")
"""
EVALUATE = """
import json, os, sys
from pathlib import Path

weights, split = Path(sys.argv[1]), sys.argv[3]
folder = weights.parent
with (folder / "calls").open("a") as file:
    file.write(f"evaluate {weights.name} {split}\\n")
behaviours = json.loads((Path(__file__).parent / "behaviours.json").read_text())
if behaviours.get(f"{folder.parents[1].name} {folder.parent.name} {folder.name}") == "fail in evaluation":
    print("error: there are no pictures", file=sys.stderr)
    sys.exit(2)
place = folder / "eval" / split
place.mkdir(parents=True, exist_ok=True)
(place / "metrics.json").write_text(json.dumps({"r_mean": 12.5, "other": 1.0}))
(place / "about.json").write_text(json.dumps({"checkpoint": weights.name, "headline": "r_mean"}))
"""


class StandIns:
    """The stand-ins, which chains call from now on, and what they are to do."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._tools = folder / "tools"
        self._tools.mkdir(parents=True)
        (self._tools / "train.py").write_text(TRAIN)
        (self._tools / "evaluate.py").write_text(EVALUATE)
        for name, step in (("half", 1), ("whole", 2)):
            torch.save({"config": {}, "model": {}, "step": step, "total_steps": 2}, self._tools / f"{name}.pt")
        self.behave({})
        monkeypatch.setattr(chain, "_ROOT", folder)

    def behave(self, behaviours: dict[str, str]) -> None:
        """Let trainings do something else, by "ARM seed-S STAGE", than come to their end."""
        (self._tools / "behaviours.json").write_text(json.dumps(behaviours))


def calls(folder: Path) -> list[str]:
    """Return the commands that were called for a run, as words."""
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def make_chain(
    out: Path, config: dict[str, Any], arm: str = "tome", seed: int = 1, stages: tuple[str, ...] = ("pretrain",)
) -> Chain:
    """Return a chain whose runs lie under a folder."""
    folder = out / "runs" / arm / f"seed-{seed}"
    return Chain(
        arm, seed, "best", [Stage(name, {**config, "output_dir": str(folder / name)}, ["test"]) for name in stages]
    )


def wait_for(path: Path) -> None:
    """Wait until a stand-in has made a file."""
    while not path.exists():
        time.sleep(0.01)
