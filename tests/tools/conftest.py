"""Running the commands as a user does."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PROJECT

Command = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def command() -> Command:
    """Runs tools/NAME.py with arguments in a process of its own, from the project's root."""

    def run(name: str, *args: object, processes: int = 1, env: dict[str, str] | None = None):
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return subprocess.run(
            [*launcher, str(PROJECT / "tools" / f"{name}.py"), *map(str, args)],
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def config() -> Path:
    """The demo's config, which the fixture `tiny` makes small."""
    return PROJECT / "configs/demo/pretrain.yaml"
