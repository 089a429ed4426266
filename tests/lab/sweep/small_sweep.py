"""A sweep of runs that take a moment."""

from pathlib import Path

from tests.conftest import tiny_run


def overrides_of(digits: Path) -> list[str]:
    """Return the overrides of a tiny run that leave reducer and folder open."""
    return [one for one in tiny_run(digits, Path()) if not one.startswith(("reducer.", "output_dir"))]
