"""A job that calls stand-ins, in a process of its own."""

from pathlib import Path

from elip.lab.sweep import chain
from elip.lab.sweep.slurm import ChainJob


class ChainJobWithStandIns(ChainJob):
    """A chain's job.

    Args:
        root: where the stand-ins for the commands lie.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def __call__(self, path: str) -> str:
        chain._ROOT = self._root
        return super().__call__(path)

    def checkpoint(self, path: str) -> object:
        delayed = super().checkpoint(path)
        delayed.function = ChainJobWithStandIns(self._root)
        return delayed
