"""Where the reference numbers are: tests/golden, or the folder that ELIP_GOLDEN names."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden_albef() -> Path:
    """Folder of the ALBEF and ELIP numbers."""
    return Path(os.environ.get("ELIP_GOLDEN", Path(__file__).parent)) / "albef"
