"""Resuming on data that changed meanwhile."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import evaluate, train, visualize


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


def test_a_vocabulary_that_changed_is_refused_and_told_by_evaluation_and_drawing(
    digits: Path,
    config: Path,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer, run = tmp_path / "tokenizer", tmp_path / "mine"
    shutil.copytree(digits / "tokenizer", tokenizer)
    arguments = [str(config), *tiny, f"output_dir={run}", f"model.text.tokenizer={tokenizer}", "data.val=[]"]
    assert train.main([*arguments, "train.max_steps=1"]) == 0
    image = str(digits / "images/test/000000.jpg")
    commands = (
        lambda: evaluate.main([str(run), "--out", str(tmp_path / "out")]),
        lambda: visualize.main([str(run), "--pair", image, "a red seven", "--out", str(tmp_path / "kept.png")]),
        lambda: train.main([*arguments, f"output_dir={tmp_path / 'next'}", "train.max_steps=1", "--init", str(run)]),
    )
    told = "the vocabulary is not the one that"
    assert commands[0]() == 0
    assert told not in caplog.text
    words = (tokenizer / "vocab.txt").read_text().splitlines()
    (tokenizer / "vocab.txt").write_text("\n".join([*words[:-2], words[-1], words[-2]]) + "\n")
    for command in commands:
        caplog.clear()
        assert command() == 0
        assert f"{told} {run}" in caplog.text
    assert train.main([*arguments, "train.max_steps=2", "--resume"]) == 2
    assert told in capsys.readouterr().err
