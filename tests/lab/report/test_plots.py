"""Pictures of a sweep: the Pareto front, marks that differ, labels that do not run into each other."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from elip.lab.drawing import mark
from elip.lab.report import plots
from elip.lab.report.plots import curves, differences, pareto, trade_offs
from elip.lab.report.results import SweepResults
from tests.lab.report.made_up_sweep import make_sweep

PLACE = ("pretrain", "test")


def test_the_front_is_what_no_other_beats() -> None:
    points = [(1.0, 70.0), (0.5, 60.0), (0.5, 55.0), (0.7, 60.0), (0.4, 50.0), (0.9, 70.0)]
    assert pareto(points) == [False, True, False, False, True, True]
    assert pareto([(1.0, 5.0), (1.0, 5.0)]) == [True, True]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_the_front_rises_with_cost_and_holds_the_best_and_the_cheapest(points: list[tuple[int, int]]) -> None:
    front = sorted({point for point, is_best in zip(points, pareto(points), strict=True) if is_best})
    assert all(one[0] < next_[0] and one[1] < next_[1] for one, next_ in pairwise(front))
    assert max(value for _, value in points) == front[-1][1]
    assert min(cost for cost, _ in points) == front[0][0]


def test_marks_of_many_arms_all_differ() -> None:
    assert len({(style["color"], style["marker"]) for style in map(mark, range(100))}) == 100


@pytest.mark.slow
def test_labels_do_not_run_into_each_other_though_all_arms_cost_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(plots, "rendered", lambda figure, kind: figures.append(figure) or b"")
    arms = {"none": 68.0, **{f"reducer{number}-0.5": 55.0 + number for number in range(11)}}
    costs = {name: 1.0 if name == "none" else 0.5 for name in arms}
    trade_offs(SweepResults(make_sweep(tmp_path, arms, costs=costs)), *PLACE, ["png"])
    (figure,) = figures
    figure.draw_without_rendering()
    for panel in figure.axes:
        boxes = {text.get_text(): Text.get_window_extent(text) for text in panel.texts}
        assert boxes.keys() == arms.keys()
        for name, box in boxes.items():
            others = [other for other, its in boxes.items() if other != name and box.overlaps(its)]
            assert not others, f"{name} runs into {others}"


def test_pictures_name_what_they_show(tmp_path: Path) -> None:
    results = SweepResults(make_sweep(tmp_path, {"none": 68.0, "a$b-0.5": 60.0}))
    drawn = trade_offs(results, *PLACE, ["svg"])["svg"].decode()
    for text in (
        "r_mean, test",
        "all of training, MACs, share of none",
        "inference as evaluated, MACs, share of none",
        "a$b-0.5",
    ):
        assert re.search(rf"<!-- {re.escape(text)}".replace("_", "."), drawn), text
    drawn = differences(results, *PLACE, ["svg"])["svg"].decode()
    for text in ("minus none: r_mean, test", "a$b-0.5"):
        assert re.search(rf"<!-- {re.escape(text)}", drawn), text
    assert "minus random" not in drawn
    drawn = curves(results, *PLACE, ["svg"])["svg"].decode()
    for text in ("r_mean, val", "training steps", "a$b-0.5"):
        assert re.search(rf"<!-- {re.escape(text)}", drawn), text
