"""One conformance suite for all token reducers, for the project's own and for anybody's.

    from elip.testing import check_reducer

    check_reducer(MyReducer, keep_ratio=0.7)

or, each property a test of its own:

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_reducer(check):
        CHECKS[check](Trial(MyReducer, keep_ratio=0.7))

Reducers are put into tiny ViTs of 12 blocks and 196 patches, which the default parameters of any reducer for ViT-B fit.
What a class says of itself (`soft`, `keeps_order`, `static_counts`, `schedule` of `TokenReducer`) is what
it is held to. Needs nothing but elip's own requirements; runs in seconds on one core.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from elip.reduction.reducer import TokenReducer
from elip.testing import graph_checks, token_checks, value_checks
from elip.testing.trial import Trial, told

__all__ = ["CHECKS", "Trial", "check_reducer"]

_CHECKS = (
    value_checks.keep_all_is_identity,
    value_checks.strength_scales,
    token_checks.prefix_survives,
    token_checks.counts_follow_schedule,
    token_checks.sizes_count_patches,
    token_checks.source_is_right,
    token_checks.order_is_kept,
    token_checks.works_at_any_grid,
    token_checks.class_token_or_refusal,
    value_checks.evaluation_is_deterministic,
    value_checks.images_are_independent,
    value_checks.gradients_reach_parameters,
    value_checks.half_precision_is_finite,
    graph_checks.compiles,
    graph_checks.exports,
)
CHECKS: Mapping[str, Callable[[Trial], None]] = MappingProxyType({check.__name__: check for check in _CHECKS})
"""Each property by its name: raises an AssertionError for a reducer that has it not."""


def check_reducer(cls: type[TokenReducer], **kwargs: Any) -> None:
    """Check every property in `CHECKS` of a reducer.

    Args:
        cls: the reducer; it need not be registered.
        kwargs: parameters for its constructor, after the `EncoderInfo`.

    Raises:
        AssertionError: it lacks some; the message has a line for each.
    """
    failures: list[tuple[str, Exception]] = []
    for name, check in CHECKS.items():
        try:
            check(Trial(cls, **kwargs))
        except Exception as error:
            failures.append((name, error))
    if failures:
        lines = "".join(f"\n  {name}: {_words(error)}" for name, error in failures)
        raise AssertionError(
            f"{cls.__name__}({told(kwargs)}) fails {len(failures)} of {len(CHECKS)} checks:{lines}"
        ) from failures[0][1]


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
