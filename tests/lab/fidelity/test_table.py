"""Records, tables and pictures of what was measured without training, from scores made up by hand."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from elip.config.schema import ReducerConfig
from elip.efficiency.resources import Timing
from elip.efficiency.vision_cost import BlockTrace, VisionCost
from elip.errors import ConfigError
from elip.lab.drawing import format_of
from elip.lab.fidelity.measure import Arm, Fidelity, Measured
from elip.lab.fidelity.plot import draw
from elip.lab.fidelity.table import Record, tables, to_csv, to_records
from elip.reduction.reducer import NoReduction

PICTURES = 40
NOISE = np.random.default_rng(0).normal(size=PICTURES)


def measured(name: str, gmacs: float, budget: float, *cosines: np.ndarray, unranked: str = "") -> Measured:
    """Return a reducer whose pooled cosines are these, one row a draw, and whose patches have no place if it mixes."""
    cost = VisionCost(1e9 * gmacs, 0, 0, [BlockTrace(5, 4)], 0)
    modules = [NoReduction() for _ in cosines]
    arm = Arm(name, ReducerConfig(name=name), 1e9 * budget, cost, modules, unranked)
    scores = {"pooled_cosine": np.stack(cosines), "neighbours": 50 + 10 * np.stack(cosines)}
    if name != "sit":
        scores["patch_cosine"] = np.stack(cosines) / 2
    return Measured(arm, scores, Timing([0.2, 0.1], [gmacs, gmacs / 2]))


@pytest.fixture
def records() -> list[Record]:
    """At one budget tome is better than random, topk worse and evit no different; at another there is no random."""
    ones = np.ones(PICTURES)
    random = measured("random", 0.5, 0.5, 0.80 + 0.01 * NOISE, 0.82 + 0.01 * NOISE)
    arms = [
        random,
        measured("topk", 0.45, 0.5, 0.60 + 0.01 * NOISE),
        measured("evit", 0.48, 0.5, 0.81 + 0.01 * NOISE[::-1]),
        measured("tome", 0.49, 0.5, 0.95 + 0.01 * NOISE),
        measured("sit", 0.5, 0.5, 0.4 * ones, unranked="its parameters are not trained"),
        measured("tome", 0.3, 0.3, 0.9 + 0.02 * NOISE),
    ]
    return to_records(Fidelity(measured("dense", 1.0, 1.0, ones), arms), samples=500, seed=1)


def test_means_have_intervals_over_pictures(records: list[Record]) -> None:
    dense, _, topk, *_, last = records
    assert dense["metrics"]["pooled_cosine"] == {"mean": 1, "low": 1, "high": 1}
    assert topk["metrics"]["pooled_cosine"]["mean"] == pytest.approx(0.6 + 0.01 * NOISE.mean())
    for record, spread in ((topk, 0.01), (last, 0.02)):
        found = record["metrics"]["pooled_cosine"]
        expected = 2.02 * spread * NOISE.std(ddof=1) / PICTURES**0.5  # Student's half-width
        assert (found["high"] - found["low"]) / 2 == pytest.approx(expected, rel=0.1)
        assert found["low"] < found["mean"] < found["high"]


def test_differences_to_random_are_paired_by_picture_and_judged_in_words(records: list[Record]) -> None:
    verdicts = {
        one["label"]: one["against_random"]["pooled_cosine"]["verdict"] for one in records if one["against_random"]
    }
    assert verdicts == {"topk": "worse", "evit": "tie", "sit": "worse", "tome": "better"}
    tome = records[4]["against_random"]["pooled_cosine"]
    assert tome["mean"] == pytest.approx(0.95 - 0.81)
    # picture by picture both have the same noise: what is left are two draws of random, 0.02 apart
    assert tome["low"] < 0.14 - 0.005
    for record in (records[0], records[1], records[-1]):  # dense, random itself, a budget that random did not reach
        assert record["against_random"] == {}


def test_a_record_tells_cost_time_and_draws(records: list[Record]) -> None:
    tome = records[4]
    assert (tome["gmacs"], tome["ratio"], tome["budget_gmacs"], tome["tokens_out"]) == (0.49, 0.49, 0.5, 4)
    assert tome["time_ratio"] == pytest.approx(0.3675)
    assert tome["time_ratio_range"] == [0.245, 0.49]
    assert [one["draws"] for one in records] == [1, 2, 1, 1, 1, 1, 1]
    assert records[0]["budget_gmacs"] is None


def test_csv_has_a_line_a_reducer_and_columns_for_each_metric(records: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(records))))
    assert [row["reducer"] for row in rows] == ["dense", "random", "topk", "evit", "tome", "sit", "tome"]
    topk, sit = rows[2], rows[5]
    assert float(topk["pooled_cosine_low"]) < float(topk["pooled_cosine"]) < float(topk["pooled_cosine_high"])
    assert topk["pooled_cosine_verdict"] == "worse"
    assert float(topk["pooled_cosine_difference"]) == pytest.approx(-0.21)
    assert (sit["patch_cosine"], sit["unranked"]) == ("", "its parameters are not trained")
    assert rows[0]["pooled_cosine_difference"] == ""


def test_tables_rank_by_budget_with_dense_on_top_and_the_untrained_apart(records: list[Record]) -> None:
    found = tables(records)
    assert [table.title for table in found] == [
        "At most 0.50 GMACs, 0.50 of dense",
        "Difference to random at 0.50 GMACs, 0.50 of dense",
        "At most 0.30 GMACs, 0.30 of dense",
        "Not ranked",
    ]
    first, against, second, apart = (table.rows for table in found)
    assert [row[0] for row in first] == ["dense", "tome", "evit", "random", "topk"]
    assert [row[0] for row in against] == ["tome", "evit", "topk"]
    assert [row[0] for row in second] == ["dense", "tome"]
    assert found[0].header[:5] == ["reducer", "GMACs", "ratio", "time ratio", "pooled cosine"]
    assert first[0][1:5] == ["1.00", "1.00", "0.75", "1.000 [1.000, 1.000]"]
    assert against[0][1].startswith("+0.140 [+")
    assert [row[1].split()[-1] for row in against] == ["better", "tie", "worse"]
    assert apart[0][0] == "sit"
    assert apart[0][-1] == "its parameters are not trained"
    assert apart[0][found[3].header.index("patch cosine")] == "-"


@pytest.mark.parametrize(("kind", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_drawn_in_each_format(records: list[Record], kind: str, head: bytes) -> None:
    assert draw(records, "a $model$", kind).startswith(head)


def test_what_is_not_ranked_is_not_in_the_picture_and_the_rest_is(records: list[Record]) -> None:
    picture = draw(records, "", "png")
    assert draw([one for one in records if one["reducer"] != "sit"], "", "png") == picture
    for name in ("random", "tome"):
        assert draw([one for one in records if one["reducer"] != name], "", "png") != picture


def test_a_picture_of_another_kind_is_refused() -> None:
    assert format_of(Path("a/b.PNG")) == "png"
    with pytest.raises(ConfigError, match=r"--plot: a/b\.jpg: the name must end in \.png, \.svg, \.pdf"):
        format_of(Path("a/b.jpg"))
