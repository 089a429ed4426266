"""The programs of a Slurm cluster, as far as handing over is concerned: jobs are taken and never run."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

SBATCH = """#!/bin/sh
cp "$1" "$(dirname "$0")/submitted.sh"
echo "Submitted batch job 4711"
"""


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, states: Mapping[str, str]) -> Path:
    """Put the programs first on the path, and return their folder: `submitted.sh` there is what was handed over last.

    Args:
        states: of the jobs, by number, that they tell of.
    """
    programs = folder / "bin"
    programs.mkdir()
    lines = "".join(f'echo "{number}|{state}"\n' for number, state in states.items())
    sacct = f'#!/bin/sh\necho "JobID|State"\n{lines}'
    for name, text in (("sbatch", SBATCH), ("sacct", sacct), ("srun", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs
