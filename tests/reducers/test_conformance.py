"""Every reducer of the project is held to every property, with the parameters it has by default."""

import pytest

from elip.registry import REDUCERS
from elip.testing import REDUCER_CHECKS, ReducerTrial

NAMES = [name for name in REDUCERS.names() if REDUCERS.get(name).__module__.startswith("reducers.")]


@pytest.mark.parametrize("check", REDUCER_CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_reducer_has_the_property(name: str, check: str) -> None:
    REDUCER_CHECKS[check](ReducerTrial(REDUCERS.get(name)))


@pytest.mark.parametrize("of", ["initial", "current"])
@pytest.mark.parametrize("name", [name for name in NAMES if "of" in REDUCERS.parameters(name)])
def test_numbers_of_tokens_follow_from_either_base(name: str, of: str) -> None:
    for check in ("counts_follow_schedule", "strength_scales", "works_at_any_grid"):
        REDUCER_CHECKS[check](ReducerTrial(REDUCERS.get(name), of=of))


@pytest.mark.parametrize("name", NAMES)
def test_a_listing_says_what_it_does_and_where_it_comes_from(name: str) -> None:
    found = {entry.name: entry for entry in REDUCERS.describe()}[name]
    assert found.summary.endswith(".")
    assert found.paper or name in ("random", "pool")
