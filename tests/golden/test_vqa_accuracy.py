"""The official accuracy of answers."""

import json
from pathlib import Path

import pytest

from tasks.vqa.accuracy import vqa_accuracy


def test_accuracy_of_every_recorded_prediction(golden_albef: Path) -> None:
    cases = json.loads((golden_albef / "vqa_accuracy.json").read_text())
    found = [vqa_accuracy(case["prediction"], case["answers"]) for case in cases]
    assert found == pytest.approx([case["accuracy"] for case in cases])
    assert {case["accuracy"] for case in cases} >= {0.0, 30.0, 60.0, 90.0, 100.0}
