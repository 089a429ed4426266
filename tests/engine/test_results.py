"""The files that an evaluation leaves."""

import json
from pathlib import Path

from elip.engine.results import write_result
from elip.task import EvalResult


def test_nothing_of_an_earlier_evaluation_stands_beside_the_figures(tmp_path: Path) -> None:
    full = EvalResult({"accuracy": 50.0}, predictions=[{"image": "a.jpg"}], chance={"accuracy": 33.3})
    write_result(full, tmp_path / "val", {"checkpoint": "best.pt", "step": 7})
    assert json.loads((tmp_path / "val/about.json").read_text()) == {"checkpoint": "best.pt", "step": 7}
    assert {path.name for path in (tmp_path / "val").iterdir()} == {
        "about.json",
        "metrics.json",
        "chance.json",
        "predictions.jsonl",
    }
    write_result(EvalResult({"accuracy": 60.0}), tmp_path / "val")
    assert [path.name for path in (tmp_path / "val").iterdir()] == ["metrics.json"]
