"""Resuming on data that changed meanwhile."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import train


def reworded(items: list[dict]) -> list[dict]:
    return [{**items[0], "caption": "something else"}, *items[1:]]


def one_more(items: list[dict]) -> list[dict]:
    return [*items, items[0]]  # as many steps an epoch as before


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (reworded, 0, "pairs.json holds other items than it did when"),
        (one_more, 2, "pairs.json has 25 items, but it had 24 when"),
    ],
)
def test_training_data_that_changed_are_told_or_refused(
    change: Callable[[list[dict]], list[dict]],
    code: int,
    said: str,
    digits: Path,
    config: Path,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    items = json.loads((digits / "pretrain_train.json").read_text())
    pairs = tmp_path / "pairs.json"
    pairs.write_text(json.dumps(items))
    arguments = [str(config), *tiny, f"data.train=[{pairs}]", "data.val=[]"]
    assert train.main([*arguments, "train.max_steps=1"]) == 0
    pairs.write_text(json.dumps(change(items)))
    caplog.clear()
    assert train.main([*arguments, "train.max_steps=2", "--resume"]) == code
    assert said in caplog.text + capsys.readouterr().err
