"""tools/compare.py: what runs came to, side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from elip.config import load_config
from elip.config.loading import save_config
from tests.conftest import PROJECT
from tools.compare import main


def make_run(folder: Path, task: str, metrics: dict[str, float], split: str = "test", **config: Any) -> Path:
    """Leave what a finished run leaves."""
    overrides = [f"{key}={value}" for key, value in config.items()]
    (folder / "eval" / split).mkdir(parents=True)
    save_config(load_config(PROJECT / f"configs/demo/{task}.yaml", overrides), folder / "config.yaml")
    (folder / "eval" / split / "metrics.json").write_text(json.dumps(metrics))
    (folder / "eval" / split / "chance.json").write_text(json.dumps(dict.fromkeys(metrics, 33.3)))
    steps = [{"event": "train", "images_per_second": speed, "gmacs/vision": 0.02} for speed in (100, 300, 200)]
    (folder / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return folder


def test_runs_are_compared_by_their_tasks_headline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "a", "ve", {"accuracy": 70.0})
    second = make_run(tmp_path / "b", "ve", {"accuracy": 60.5}, reducer="random")
    assert main([str(first), str(second), "--json", "-"]) == 0
    a, b = json.loads(capsys.readouterr().out)
    assert (a["run"], a["task"], a["metric"], a["value"], a["chance"]) == ("a", "ve", "accuracy", 70.0, 33.3)
    assert (a["gmacs"], a["images_per_second"]) == (0.02, 200)
    assert b["reducer"].startswith("random")


def test_folders_of_runs_make_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "scratch" / "ve", "ve", {"accuracy": 40.0})
    make_run(tmp_path / "tuned" / "ve", "ve", {"accuracy": 80.0})
    make_run(tmp_path / "tuned" / "nlvr", "nlvr", {"accuracy": 75.0})
    columns = [f"--column=no pre-training={tmp_path / 'scratch'}", f"--column=ours={tmp_path / 'tuned'}"]
    assert main([*columns, "--markdown", "-"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows[0] == ["task", "metric", "chance", "no pre-training", "ours"]
    assert rows[2:] == [
        ["nlvr", "accuracy, test", "33.30", "-", "75.00"],
        ["ve", "accuracy, test", "33.30", "40.00", "80.00"],
    ]


def test_test_is_taken_before_val_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", "ve", {"accuracy": 70.0})
    (run / "eval" / "val").mkdir()
    (run / "eval" / "val" / "metrics.json").write_text('{"accuracy": 1.0}')
    for arguments, expected in ([], 70.0), (["--split", "val"], 1.0):
        assert main([str(run), *arguments, "--json", "-"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["value"] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name runs to compare"),
        (["nowhere"], "nowhere is no run: it has no config.yaml"),
        (["--column", "ours"], "expected NAME=FOLDER, got 'ours'"),
        (["--column", "ours=nowhere"], "there is no run in nowhere"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_metric_or_split_that_is_not_there_is_told_with_what_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a", "ve", {"accuracy": 70.0})
    assert main([str(run), "--metric", "r_mean"]) == 2
    assert "test has no metric 'r_mean'; it has accuracy" in capsys.readouterr().err
    assert main([str(run), "--split", "val"]) == 2
    assert "val was not evaluated, but test" in capsys.readouterr().err
