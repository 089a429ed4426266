"""The report of a sweep: what it says, and in which words."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest, Status
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from elip.lab.report.writer import write_report
from tests.lab.report.made_up_sweep import make_sweep

ARMS = {"none": 68.0, "random-0.5": 55.0, "tome-0.5": 61.5, "alike": 68.0}
BUDGETS = {"random-0.5": 0.5, "tome-0.5": 0.5}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def line_of(report: str, arm: str) -> list[str]:
    """Return the cells of an arm in the first table."""
    line = next(line for line in report.splitlines() if line.startswith(f"| {arm} |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.mark.slow
def test_tables_verdicts_files_and_pictures_of_a_whole_sweep(tmp_path: Path) -> None:
    out = make_sweep(tmp_path, ARMS, budgets=BUDGETS, stages=("pretrain", "ve"), failed=[("alike", 2)])
    report = write_report(out).read_text()
    assert "22 of 24 runs are done; seeds 1, 2, 3." in report
    assert r"- Failed: alike, seed 2, pretrain, test: no space \| left" in report
    none, tome, alike = (line_of(report, name) for name in ("none", "tome-0.5", "alike"))
    assert (none[2], none[4], none[5]) == ("3", "-", "-")
    assert tome[4].startswith("-")
    assert tome[4].endswith("worse")
    assert tome[5].startswith("+")
    assert tome[5].endswith("better")
    assert alike[2] == "2"
    assert alike[4].endswith("tie")
    assert "A tie with none: alike. Worse than none: random-0.5, tome-0.5." in report
    assert "Better than random at the same budget: tome-0.5." in report
    assert "by chance 2.5" in report

    runs, summary = rows_of(out / "results.csv"), rows_of(out / "summary.csv")
    assert len(runs) == 24
    assert len(summary) == 8
    values = [float(run["value"]) for run in runs if (run["arm"], run["stage"]) == ("tome-0.5", "ve")]
    row = next(row for row in summary if (row["arm"], row["stage"]) == ("tome-0.5", "ve"))
    assert float(row["mean"]) == pytest.approx(sum(values) / 3)
    assert (row["baseline_verdict"], row["yardstick"], row["yardstick_verdict"]) == ("worse", "random-0.5", "better")
    assert (
        tome[3] == f"{float(summary[2]['mean']):.1f} [{float(summary[2]['low']):.1f}, {float(summary[2]['high']):.1f}]"
    )

    for stage in ("pretrain", "ve"):
        for name in ("differences", "cost", "curves"):
            assert f"({stage}-test-{name}.png)" in report
            with Image.open(out / f"{stage}-test-{name}.png") as picture:
                assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
            assert (out / f"{stage}-test-{name}.svg").read_text().startswith("<?xml")
    drawn = (out / "pretrain-test-cost.svg").read_text()
    for text in ("all of training, MACs, share of none", "time measured", "tome-0.5", "random-0.5"):
        assert f"<!-- {text}" in drawn or text in drawn


def test_without_budgets_the_yardstick_is_said_to_cost_what_it_costs(tmp_path: Path) -> None:
    report = write_report(make_sweep(tmp_path, {"none": 68.0, "random": 50.0, "tome": 60.0})).read_text()
    assert "| minus random, which may cost another amount |" in report
    assert [line_of(report, name)[5] == "-" for name in ("none", "random", "tome")] == [True, True, False]


def test_a_single_seed_is_said_not_to_cover_others_and_has_no_verdict(tmp_path: Path) -> None:
    out = make_sweep(tmp_path, {"none": 68.0, "random-0.5": 40.0}, seeds=[7], costs={})
    report = write_report(out).read_text()
    assert "they do not cover other seeds" in report
    assert line_of(report, "random-0.5")[4].endswith("]")  # an interval, far from zero, without a word
    assert "Worse than" not in report
    assert not rows_of(out / "summary.csv")[1]["baseline_verdict"]
    assert "widened" not in report
    assert not (tmp_path / "pretrain-test-cost.png").exists()  # no cost is known


def test_a_difference_over_the_only_common_seed_is_said_to_be_one(tmp_path: Path) -> None:
    out = make_sweep(tmp_path, {"none": 68.0, "tome": 40.0}, failed=[("none", 1), ("tome", 2)])
    report = write_report(out).read_text()
    assert line_of(report, "tome")[4].endswith("] (1 seed)")
    assert "they do not cover other seeds" in report


def test_arms_that_evaluations_kept_all_tokens_of_cost_what_the_baseline_costs(tmp_path: Path) -> None:
    out = make_sweep(tmp_path, {"none": 68.0, "elip": 60.0, "tome": 60.0}, seeds=[1, 2])
    for arm, gmacs in (("none", 2.0), ("elip", 2.0), ("tome", 1.0)):
        for path in out.glob(f"runs/{arm}/seed-*/pretrain/eval/test/about.json"):
            figures = {"vision_gmacs": gmacs, "vision_gmacs_dense": 2.0}
            path.write_text(json.dumps({**json.loads(path.read_text()), **figures}))
    assert "and so the picture has it: elip." in write_report(out).read_text()
    _, elip, tome = rows_of(out / "summary.csv")
    assert float(elip["inference_share"]) == 1.0 > float(elip["inference_ratio"])
    assert tome["inference_share"] == tome["inference_ratio"]


def test_times_of_a_busy_machine_are_told_to_say_little(tmp_path: Path) -> None:
    out = make_sweep(tmp_path, {"none": 68.0, "tome": 60.0})
    assert "Times of steps say little" not in write_report(out).read_text()
    costs = json.loads((out / "costs.json").read_text())
    costs["arms"]["tome"]["time_ratio_range"] = [0.3, 0.9]
    (out / "costs.json").write_text(json.dumps(costs))
    assert "**Times of steps say little: single rounds differ by up to 3.0 times" in write_report(out).read_text()


def test_runs_that_were_made_from_other_files_than_the_rest_are_told(tmp_path: Path) -> None:
    out = make_sweep(tmp_path, {"none": 68.0, "tome": 60.0})
    record = json.loads((out / "sweep.json").read_text())
    for run in record["runs"]:
        run["files"] = {"train.json": "a1", "mine.py": "b2"} if run["arm"] == "tome" else {"train.json": "a1"}
    (out / "sweep.json").write_text(json.dumps(record))
    assert "Changed while" not in write_report(out).read_text()
    record["runs"][-1]["files"]["mine.py"] = "c3"
    (out / "sweep.json").write_text(json.dumps(record))
    assert "**Changed while the sweep went on: mine.py. Runs from before" in write_report(out).read_text()


def test_a_sweep_of_which_nothing_is_done_has_a_report_that_says_so(tmp_path: Path) -> None:
    out = make_sweep(tmp_path, {"none": 68.0}, failed=[("none", seed) for seed in (1, 2, 3)])
    report = write_report(out).read_text()
    assert "0 of 3 runs are done" in report
    assert "No run is done." in report


def test_tensorboard_has_one_entry_a_run_however_often_the_report_is_written(tmp_path: Path) -> None:
    out = make_sweep(tmp_path, {"none": 68.0, "tome-0.5": 60.0}, seeds=[1, 2])
    write_report(out)
    write_report(out)
    assert len([*out.rglob("*tfevents*.sweep")]) == 4
    events = EventMultiplexer().AddRunsFromDirectory(str(out))
    events.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(events, str(out)), logdir=str(out)))
    statuses = [Status.STATUS_UNKNOWN, Status.STATUS_SUCCESS, Status.STATUS_FAILURE, Status.STATUS_RUNNING]
    request = ListSessionGroupsRequest(start_index=0, slice_size=9, allowed_statuses=statuses)
    groups = {group.name: group for group in Handler(RequestContext(), context, "", request).run().session_groups}
    assert groups.keys() == {
        f"runs/{arm}/seed-{seed}/pretrain/tensorboard" for arm in ("none", "tome-0.5") for seed in (1, 2)
    }
    group = groups["runs/tome-0.5/seed-2/pretrain/tensorboard"]
    assert group.hparams["reducer.name"].string_value == "tome"
    figures = {value.name.tag: value.value for value in group.metric_values}
    run = next(row for row in rows_of(out / "results.csv") if (row["arm"], row["seed"]) == ("tome-0.5", "2"))
    assert figures["sweep/test_r_mean"] == pytest.approx(float(run["value"]))
    assert figures["sweep/train_ratio"] == pytest.approx(
        json.loads((out / "costs.json").read_text())["arms"]["tome-0.5"]["train_ratio"]
    )
