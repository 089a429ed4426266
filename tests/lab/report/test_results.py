"""What a sweep came to, read from its folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from elip.errors import DataError
from elip.lab.report.results import SweepResults, curve
from elip.lab.statistics import bootstrap_items_and_seeds, mean_over_seeds
from tests.lab.report.made_up_sweep import PICTURES, make_sweep

PLACE = ("pretrain", "test")
ARMS = {"none": 68.0, "random-0.5": 55.0, "tome-0.5": 60.0, "random-0.7": 62.0, "elip": 66.0}
BUDGETS = {"random-0.5": 0.5, "tome-0.5": 0.5, "random-0.7": 0.7}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_sweep(tmp_path, ARMS, budgets=BUDGETS)


def scores_of(out: Path, arm: str, seed: int) -> list[float]:
    parts = json.loads((out / f"runs/{arm}/seed-{seed}/pretrain/eval/test/scores.json").read_text())
    return parts[0]["values"]


def test_means_and_paired_differences_are_those_of_the_items_of_all_seeds(out: Path) -> None:
    results = SweepResults(out)
    none, random, tome, *_ = results.arms
    tables = {
        arm.name: np.array([scores_of(out, arm.name, seed) for seed in (1, 2, 3)]) for arm in (none, tome, random)
    }
    order = np.argsort([f"{number}.png" for number in range(PICTURES)])  # clusters are in the order of their names
    mean = results.mean(tome, *PLACE)
    difference = results.difference(tome, none, *PLACE)
    assert mean is not None
    assert difference is not None
    assert (mean.over, mean.seeds) == ("items and seeds", [1, 2, 3])
    expected = bootstrap_items_and_seeds(tables["tome-0.5"][:, order])
    assert (mean.value.mean, mean.value.low, mean.value.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    expected = bootstrap_items_and_seeds((tables["tome-0.5"] - tables["none"])[:, order])
    assert difference.value.low == pytest.approx(expected.low)
    assert difference.value.high == pytest.approx(expected.high)


def test_the_yardstick_is_the_one_of_the_same_budget(out: Path) -> None:
    results = SweepResults(out)
    others = {arm.name: results.comparable(arm) for arm in results.arms}
    found = {name: other and other.name for name, other in others.items()}
    assert found == {"none": None, "random-0.5": None, "tome-0.5": "random-0.5", "random-0.7": None, "elip": None}


def test_a_difference_is_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    results = SweepResults(make_sweep(tmp_path, ARMS, failed=[("none", 1), ("elip", 3)]))
    none, *_, elip = results.arms
    found = results.difference(elip, none, *PLACE)
    mean = results.mean(elip, *PLACE)
    assert found is not None
    assert mean is not None
    assert (found.seeds, mean.seeds) == ([2], [1, 2])
    assert (found.over, mean.over) == ("items", "items and seeds")
    assert results.difference(none, none, *PLACE) is None


def test_without_scores_of_items_intervals_are_over_seeds(tmp_path: Path) -> None:
    results = SweepResults(make_sweep(tmp_path, ARMS, with_scores=False))
    found = results.mean(results.arms[0], *PLACE)
    runs = results.done(results.arms[0], *PLACE).values()
    assert found is not None
    assert found.over == "seeds"
    assert found.value == mean_over_seeds([run.outcome.value for run in runs if run.outcome])


def test_a_single_seed_without_scores_has_no_interval(tmp_path: Path) -> None:
    results = SweepResults(make_sweep(tmp_path, ARMS, seeds=[1], with_scores=False))
    found = results.mean(results.arms[0], *PLACE)
    assert found is not None
    assert found.over is None
    assert np.isnan(found.value.low)


def test_runs_of_other_items_are_not_paired_by_item(out: Path) -> None:
    path = out / "runs/tome-0.5/seed-2/pretrain/eval/test/scores.json"
    path.write_text(path.read_text().replace('"0.png"', '"other.png"'))
    results = SweepResults(out)
    found = results.difference(results.arms[2], results.arms[0], *PLACE)
    assert found is not None
    assert found.over == "seeds"


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("eval/test/metrics.json", "{", "metrics.json is damaged"),
        ("eval/test/metrics.json", None, "nothing was evaluated"),
        ("eval/test/scores.json", '[{"values": [1.0]}]', "scores.json is damaged"),
        (
            "eval/test/scores.json",
            '[{"values": [1.0, 2.0], "clusters": ["a", "b"]}]',
            "the scores come to 1.5, and r_mean",
        ),
    ],
)
def test_a_run_whose_files_are_damaged_has_failed_and_the_others_count(
    out: Path, file: str, content: str | None, error: str
) -> None:
    path = out / "runs/elip/seed-2/pretrain" / file
    path.unlink() if content is None else path.write_text(content)
    results = SweepResults(out)
    (run,) = results.failed
    assert (run.arm, run.seed) == ("elip", 2)
    assert error in str(run.error)
    found = results.mean(results.arms[4], *PLACE)
    assert found is not None
    assert found.seeds == [1, 3]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("[]", "holds no object"),
        ("{", "is damaged"),
        ('{"name": "x"}', "is damaged"),
        (None, "Run tools/sweep.py first"),
    ],
)
def test_a_folder_that_is_no_sweep_is_told_in_words(tmp_path: Path, content: str | None, error: str) -> None:
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(DataError, match=error):
        SweepResults(tmp_path)


def test_all_of_training_costs_its_steps_times_their_mean(out: Path) -> None:
    costs = json.loads((out / "costs.json").read_text())
    costs["arms"]["elip"].update({"steps": 150, "train_ratio": 0.8})
    (out / "costs.json").write_text(json.dumps(costs))
    results = SweepResults(out)
    assert results.training_share(results.arms[4]) == pytest.approx(0.4)
    assert results.training_share(results.arms[0]) == 1.0


def test_what_a_run_reached_by_step_is_the_headline_or_else_its_loss(out: Path) -> None:
    run = SweepResults(out).runs[0]
    name, values = curve(run)
    assert (name, [step for step, _ in values]) == ("r_mean, val", [50, 100, 150, 200, 250, 300])
    train = [{"event": "train", "step": step, "loss": 1 / step} for step in (10, 20)]
    once = {"event": "eval", "step": 20, "split": "val", "metrics": {"r_mean": 3.0}}
    (run.folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in [*train, once]))
    assert curve(run) == ("training loss", [(10, 0.1), (20, 0.05)])
