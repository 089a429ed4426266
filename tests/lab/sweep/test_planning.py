"""From a sweep's file to arms: parameters that meet budgets, lengths that meet costs, and the configs of all stages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from elip.config.schema import ReducerConfig, RunConfig
from elip.errors import ConfigError
from elip.lab.sweep.counting import Counts
from elip.lab.sweep.file import Sweep
from elip.lab.sweep.planning import Arm, Planner, at, images_of_step
from tests.conftest import PROJECT
from tests.lab.sweep.small_sweep import overrides_of

Plan = Callable[..., Planner]


@pytest.fixture(scope="module")
def counts() -> Counts:
    """One for all tests: what was counted once is not counted again."""
    return Counts(None)


@pytest.fixture
def plan(digits: Path, tmp_path: Path, counts: Counts) -> Plan:
    def make(arms: str, more: str = "", counts: Counts = counts) -> Planner:
        return Planner(sweep_of(digits, tmp_path, arms, more), counts)

    return make


def sweep_of(digits: Path, folder: Path, arms: str, more: str = "") -> Sweep:
    path = folder / "lab.yaml"
    lines = "".join(f"  - '{override}'\n" for override in overrides_of(digits))
    config = PROJECT / "configs/demo/pretrain.yaml"
    path.write_text(f"config: {config}\noverrides:\n{lines}arms:\n  none: {{reducer: none}}\n{arms}{more}")
    return Sweep(path)


def arm(planner: Planner, name: str) -> Arm:
    return next(one for one in planner.arms() if one.name == name)


def with_keep(config: RunConfig, ratio: float) -> RunConfig:
    params = {**config.reducer.params, "keep_ratio": [ratio]}
    return config.model_copy(update={"reducer": ReducerConfig(name=config.reducer.name, **params)})


BUDGET = "budget: {of: %s, shares: [%s]}\n"
RANDOM = "  random: {reducer: {name: random, begin: [0]}}\n"


@pytest.mark.parametrize(("of", "share"), [("train_step", 0.9), ("training", 0.9), ("vision", 0.7)])
def test_the_weakest_reduction_within_a_share_is_found(of: str, share: float, plan: Plan, counts: Counts) -> None:
    planner = plan(RANDOM, BUDGET % (of, share))
    found = arm(planner, "random").config
    cost = {
        "train_step": counts.train_step,
        "training": counts.training,
        "vision": lambda config: planner._cost(config, "vision"),
    }[of]
    dense = cost(arm(planner, "none").config)
    assert cost(found) <= share * dense
    patches = 16
    one_more = int(found.reducer.params["keep_ratio"][0] * patches) + 1
    assert cost(with_keep(found, one_more / patches)) > share * dense


def test_a_plan_is_the_same_each_time_and_kept(
    digits: Path, tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of(digits, tmp_path, RANDOM, BUDGET % ("train_step", 0.9))
    kept = Counts(tmp_path)
    first = Planner(sweep, kept).arms()
    kept.save()
    assert Planner(sweep, counts).arms() == first
    monkeypatch.setattr("elip.lab.sweep.planning.meet_budget", lambda *_: pytest.fail("it was solved for already"))
    assert Planner(sweep, Counts(tmp_path)).arms() == first


def test_each_share_makes_an_arm_and_what_sets_its_own_strength_stays_as_given(plan: Plan) -> None:
    arms = (
        f"{RANDOM}  tome: {{reducer: {{name: tome, r: 1}}}}\n  topk: {{reducer: topk, budget: null, "
        "overrides: ['reducer.begin=[1]', 'reducer.keep_ratio=[0.5]']}\n"
        "  mine: {reducer: {name: tome, r: 1}, budget: 0.95}\n"
    )
    found = {one.name: one for one in plan(arms, BUDGET % ("train_step", "0.85, 0.9")).arms()}
    assert list(found) == ["none", "random@0.85", "random@0.9", "tome", "topk", "mine"]
    assert [one.budget for one in found.values()] == [None, 0.85, 0.9, None, None, 0.95]
    assert found["tome"].config.reducer.params == {"r": 1}
    assert found["topk"].config.reducer.params == {"begin": [1], "keep_ratio": [0.5]}
    weaker, stronger = (found[f"random@{share}"].config.reducer.params["keep_ratio"] for share in (0.9, 0.85))
    assert weaker > stronger


def test_until_is_kept_and_is_part_of_what_training_costs(plan: Plan, counts: Counts) -> None:
    given = "name: random, begin: [0], keep_ratio: [0.5]"
    planner = plan(f"  plain: {{reducer: {{{given}}}}}\n  tuned: {{reducer: {{{given}, until: 0.5}}}}\n")
    none, plain, tuned = (one.config for one in planner.arms())
    assert tuned.reducer.until == 0.5
    assert counts.train_step(tuned) == counts.train_step(plain)
    mean = (counts.training(plain) + counts.training(none)) / 2
    assert counts.training(tuned) == pytest.approx(mean, rel=1e-3)


def test_a_budget_out_of_reach_is_told_by_arm_with_the_least_cost(plan: Plan) -> None:
    with pytest.raises(ConfigError) as raised:
        plan(RANDOM, BUDGET % ("train_step", 0.1)).arms()
    said = str(raised.value)
    assert "lab.yaml: arms.random: budget 0.1 of train_step: a budget of " in said
    assert "is out of reach for reducer 'random'" in said
    assert "the least it costs is 0.00" in said
    assert "\n" not in said


def test_an_arm_is_shortened_until_all_its_training_costs_no_more_than_another(plan: Plan, counts: Counts) -> None:
    arms = RANDOM + "  short: {reducer: none, equal_cost_to: random, overrides: [train.batch_size=4]}\n"
    planner = plan(arms, BUDGET % ("train_step", 0.9))
    random, short = arm(planner, "random"), arm(planner, "short")

    def whole(config: RunConfig, steps: int) -> float:
        return counts.training(config) * images_of_step(config) * steps

    available = whole(random.config, random.steps)
    assert short.config.train.max_steps == short.steps
    assert whole(short.config, short.steps) <= available < whole(short.config, short.steps + 1)


def test_a_learning_rate_that_a_shortened_arm_leaves_high_is_told(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    arms = RANDOM + "  short: {reducer: none, equal_cost_to: random, overrides: [optim.schedule=epoch]}\n"
    plan(arms, BUDGET % ("train_step", 0.9)).arms()
    assert "arm 'short' ends after 5 of 6 steps with a learning rate that has not come down" in caplog.text


def test_an_arm_that_is_the_cheaper_one_cannot_be_shortened(plan: Plan) -> None:
    arms = (
        RANDOM
        + "  short: {reducer: {name: random, begin: [0], keep_ratio: [0.5]}, equal_cost_to: none, "
        + "overrides: [train.epochs=1]}\n"
    )
    with pytest.raises(
        ConfigError, match=r"arms\.short\.equal_cost_to: 'none' costs more than all 3 steps of this arm"
    ):
        plan(arms, BUDGET % ("train_step", 0.9)).arms()


def test_shares_have_a_shortened_arm_each(plan: Plan) -> None:
    random = "  random: {reducer: {name: random, begin: [0]}, overrides: [train.epochs=9]}\n"
    arms = random + "  short: {reducer: none, equal_cost_to: random, overrides: [train.epochs=9]}\n"
    found = {one.name: one for one in plan(arms, BUDGET % ("train_step", "0.85, 0.9")).arms()}
    assert list(found)[-2:] == ["short@0.85", "short@0.9"]
    assert found["short@0.85"].steps < found["short@0.9"].steps < found["random@0.9"].steps


def test_wrong_parameters_are_told_by_arm(plan: Plan) -> None:
    with pytest.raises(ConfigError, match=r"lab\.yaml: arms\.tome: reducer\.rr: .*'rr'"):
        plan("  tome: {reducer: {name: tome, rr: 2}}\n").arms()


def test_the_reducer_of_evaluation_and_that_of_follow_ups(digits: Path, plan: Plan) -> None:
    follow_ups = (
        "evaluate: {reducer: none, splits: [val]}\n"
        f"then:\n  - {{name: own, config: {PROJECT}/configs/demo/retrieval.yaml, splits: [test]}}\n"
        f"  - {{name: same, config: {PROJECT}/configs/demo/retrieval.yaml, reducer: same}}\n"
    )
    planner = plan(RANDOM, (BUDGET % ("train_step", 0.9)) + follow_ups)
    random = arm(planner, "random")
    stages = planner.stages(random)
    assert list(stages) == ["pretrain", "own", "same"]
    assert random.config.eval.reducer == ReducerConfig(name="none")
    assert stages["own"].reducer.name == "topk"
    assert stages["same"].reducer.params == random.config.reducer.params
    assert [planner.splits(stage) for stage in stages] == [["val"], ["test"], ["val"]]


def test_a_split_without_data_is_told_before_anything_runs(plan: Plan) -> None:
    planner = plan("", "evaluate: {splits: [dev]}\n")
    with pytest.raises(ConfigError, match=r"arms\.none: pretrain: split 'dev' is to be evaluated, but .* no data\.dev"):
        planner.check(planner.arms())


def test_runs_of_one_seed_differ_in_nothing_but_the_reducer(plan: Plan, tmp_path: Path) -> None:
    found = plan(RANDOM, BUDGET % ("train_step", 0.9)).arms()
    one, other = (at(each.config, tmp_path, 5) for each in found)
    assert one.train.seed == other.train.seed == 5
    assert one.model_copy(update={"reducer": other.reducer}) == other
