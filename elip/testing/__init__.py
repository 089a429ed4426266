"""Conformance suites for all token reducers and all tasks, for the project's own and for anybody's.

    from elip.testing import check_reducer

    check_reducer(MyReducer, keep_ratio=[0.7, 0.49, 0.343])

or, each property a test of its own:

    @pytest.mark.parametrize("check", REDUCER_CHECKS)
    def test_my_reducer(check):
        REDUCER_CHECKS[check](ReducerTrial(MyReducer, keep_ratio=[0.7, 0.49, 0.343]))

Reducers are put into tiny ViTs of 12 blocks and 196 patches, which the default parameters of any reducer for ViT-B fit.
What a class says of itself (`soft`, `keeps_order`, `static_counts`, `schedule` of `TokenReducer`) is what
it is held to. Needs nothing but elip's own requirements; runs in seconds on one core.

Tasks likewise, with the config of a run of seconds, which names files to train on and to evaluate on:

    from elip.testing import check_task

    check_task(MyTask, load_config("my_task.yaml"))

each property by its name in `TASK_CHECKS`, of a `TaskTrial(MyTask, config)`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from elip.config.schema import RunConfig
from elip.reduction.reducer import TokenReducer
from elip.task.contract import Task
from elip.testing import graph_checks, task_checks, token_checks, value_checks
from elip.testing.ranks import LocalEvaluator
from elip.testing.task_trial import TaskTrial
from elip.testing.trial import ReducerTrial, as_arguments

__all__ = [
    "REDUCER_CHECKS",
    "TASK_CHECKS",
    "LocalEvaluator",
    "ReducerTrial",
    "TaskTrial",
    "check_reducer",
    "check_task",
]

TrialT = TypeVar("TrialT")

_REDUCER_CHECKS = (
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
REDUCER_CHECKS: Mapping[str, Callable[[ReducerTrial], None]] = MappingProxyType(
    {check.__name__: check for check in _REDUCER_CHECKS}
)
"""Each property by its name: raises an AssertionError for a reducer that has it not."""

_TASK_CHECKS = (
    task_checks.made_up_batches_need_no_file,
    task_checks.losses_are_declared,
    task_checks.gradients_reach_parameters,
    task_checks.steps_change_nothing_themselves,
    task_checks.steps_do_not_wait,
    task_checks.seeds_decide_losses,
    task_checks.real_batches_train,
    task_checks.splits_are_those_with_files,
    task_checks.evaluation_changes_nothing,
    task_checks.evaluation_measures_the_headline,
    task_checks.ranks_agree,
    task_checks.checkpoints_bring_it_back,
)
TASK_CHECKS: Mapping[str, Callable[[TaskTrial], None]] = MappingProxyType({c.__name__: c for c in _TASK_CHECKS})
"""Each property by its name: raises an AssertionError for a task that has it not."""


def check_reducer(cls: type[TokenReducer], **kwargs: Any) -> None:
    """Check every property in `REDUCER_CHECKS` of a reducer.

    Args:
        cls: the reducer; it need not be registered.
        kwargs: parameters for its constructor, after the `EncoderInfo`.

    Raises:
        AssertionError: it lacks some; the message has a line for each.
    """
    _check_all(f"{cls.__name__}({as_arguments(kwargs)})", REDUCER_CHECKS, lambda: ReducerTrial(cls, **kwargs))


def check_task(cls: type[Task[Any]], config: RunConfig) -> None:
    """Check every property in `TASK_CHECKS` of a task.

    Args:
        cls: the task; it need not be registered.
        config: of a run of it that takes seconds, with files to train on and to evaluate on.

    Raises:
        AssertionError: it lacks some; the message has a line for each.
    """
    _check_all(cls.__name__, TASK_CHECKS, lambda: TaskTrial(cls, config))


def _check_all(who: str, checks: Mapping[str, Callable[[TrialT], None]], trial: Callable[[], TrialT]) -> None:
    failures: list[tuple[str, Exception]] = []
    for name, check in checks.items():
        try:
            check(trial())
        except Exception as error:
            failures.append((name, error))
    if failures:
        lines = "".join(f"\n  {name}: {_words(error)}" for name, error in failures)
        raise AssertionError(f"{who} fails {len(failures)} of {len(checks)} checks:{lines}") from failures[0][1]


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
