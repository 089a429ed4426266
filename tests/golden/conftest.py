"""Where the reference numbers are: tests/golden, or the folder that ELIP_GOLDEN names."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden_albef() -> Path:
    """Folder of the ALBEF and ELIP numbers."""
    return _golden() / "albef"


@pytest.fixture(scope="session")
def golden_reducers() -> Path:
    """Folder of the numbers of other token reducers."""
    return _golden() / "reducers"


def _golden() -> Path:
    return Path(os.environ.get("ELIP_GOLDEN", Path(__file__).parent))
