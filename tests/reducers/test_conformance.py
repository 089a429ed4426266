"""Every reducer of the project is held to every property, with the parameters it has by default."""

import pytest

from elip.registry import REDUCERS
from elip.testing import REDUCER_CHECKS, ReducerTrial

NAMES = [name for name in REDUCERS.names() if REDUCERS.get(name).__module__.startswith("reducers.")]


@pytest.mark.parametrize("check", REDUCER_CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_reducer_has_the_property(name: str, check: str) -> None:
    REDUCER_CHECKS[check](ReducerTrial(REDUCERS.get(name)))


@pytest.mark.parametrize("name", NAMES)
def test_a_listing_says_what_it_does_and_where_it_comes_from(name: str) -> None:
    found = {entry.name: entry for entry in REDUCERS.describe()}[name]
    assert found.summary.endswith(".")
    assert found.paper or name in ("random", "pool")
