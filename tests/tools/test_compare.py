"""tools/compare.py: what runs came to, by which weights and at what cost, side by side."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elip.config import load_config
from elip.config.loading import save_config
from tests.conftest import PROJECT
from tools.compare import main

DENSE = 0.02
"""GMACs of an image with all tokens kept."""


def make_run(
    folder: Path,
    task: str,
    metrics: dict[str, float],
    split: str = "test",
    about: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Leave what a finished run leaves."""
    overrides = [f"{key}={value}" for key, value in config.items()]
    folder.mkdir(parents=True)
    save_config(load_config(PROJECT / f"configs/demo/{task}.yaml", overrides), folder / "config.yaml")
    leave_evaluation(folder, split, metrics, about or {})
    steps = [
        {"event": "train", "images_per_second": speed, "gmacs/vision": 0.01, "gmacs/train_step": 0.5}
        for speed in (100, 300, 200)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return folder


def leave_evaluation(run: Path, split: str, metrics: dict[str, float], about: dict[str, Any]) -> None:
    """Leave what an evaluation leaves; about: what differs from one by best.pt with all tokens."""
    default = {"checkpoint": "best.pt", "step": 300, "reducer": "none", "note": None, "vision_gmacs": DENSE}
    folder = run / "eval" / split
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "chance.json").write_text(json.dumps(dict.fromkeys(metrics, 33.3)))
    (folder / "about.json").write_text(json.dumps({**default, "vision_gmacs_dense": DENSE, **about}))


def records(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert main([*map(str, arguments), "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_each_figure_comes_with_the_weights_and_the_cost_it_was_taken_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_run(tmp_path / "a", "ve", {"accuracy": 70.0}, about={"vision_gmacs": 0.012, "reducer": "elip x=1"})
    second = make_run(tmp_path / "b", "ve", {"accuracy": 60.5}, reducer="random")
    a, b = records(capsys, first, second)
    assert (a["run"], a["task"], a["metric"], a["value"], a["chance"]) == ("a", "ve", "accuracy", 70.0, 33.3)
    assert (a["checkpoint"], a["step"]) == ("best.pt", 300)
    assert (a["eval_reducer"], a["eval_gmacs"], a["eval_gmacs_dense"]) == ("elip x=1", 0.012, DENSE)
    assert (a["train_gmacs"], a["train_step_gmacs"], a["images_per_second"]) == (0.01, 0.5, 200)
    assert b["train_reducer"].startswith("random")
    assert b["eval_reducer"] == "none"
    header, row, _ = printed(capsys, first, second).splitlines()[1:4]
    cells = dict(zip(re.split(r"\s{2,}", header), re.split(r"\s{2,}", row), strict=True))
    assert cells["weights"] == "best.pt, step 300"
    assert cells["reducer in evaluation"] == "elip x=1"
    assert (cells["GMACs in evaluation"], cells["ratio"]) == ("0.0120", "0.6000")
    assert cells["GMACs in training"] == "0.0100"


def test_a_reducer_that_was_not_in_force_in_the_evaluation_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "elip needs a text, and images are encoded without one: all tokens are kept"
    run = make_run(tmp_path / "searched", "pretrain", {"r_mean": 50.0}, about={"note": note})
    said = printed(capsys, run)
    assert f"searched: {note}." in said
    assert re.search(r" 0\.0200 +1\.00 .* none +elip begin", said)


def test_weights_of_two_kinds_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = make_run(tmp_path / "last", "ve", {"accuracy": 70.0}, about={"checkpoint": "weights in training"})
    best = make_run(tmp_path / "best", "ve", {"accuracy": 70.0})
    said = printed(capsys, last, best)
    assert "in training, step 300" in said
    assert "Weights differ in kind: in training for last; best.pt for best." in said
    assert "differ" not in printed(capsys, best)


def test_figures_of_a_split_that_all_have_are_compared_and_others_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, val = (
        make_run(tmp_path / "both", "ve", {"accuracy": 70.0}),
        make_run(tmp_path / "val", "ve", {"accuracy": 1.0}, "val"),
    )
    leave_evaluation(both, "val", {"accuracy": 60.0}, {})
    assert [one["split"] for one in records(capsys, both)] == ["test"]
    assert [(one["split"], one["value"]) for one in records(capsys, both, val)] == [("val", 60.0), ("val", 1.0)]
    assert [one["value"] for one in records(capsys, both, "--split", "val")] == [60.0]
    other = make_run(tmp_path / "other", "ve", {"accuracy": 70.0})
    assert "Splits differ: val for val; test for other." in printed(capsys, val, other)


def test_an_evaluation_that_says_nothing_of_itself_is_not_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "old", "ve", {"accuracy": 70.0})
    (run / "eval/test/about.json").unlink()
    (record,) = records(capsys, run)
    assert (record["checkpoint"], record["eval_reducer"], record["eval_gmacs"]) == (None, None, None)
    said = printed(capsys, run)
    assert len(re.findall(r"  not recorded", said)) == 3  # weights, reducer, cost
    assert "old: the weights and the cost of an evaluation are not recorded; evaluate again" in said


def test_what_was_changed_for_an_evaluation_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", "ve", {"accuracy": 70.0}, about={"overrides": ["data.test=[other.json]"]})
    assert "a: evaluated with data.test=[other.json]." in printed(capsys, run)


def test_folders_of_runs_make_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "scratch" / "ve", "ve", {"accuracy": 40.0})
    make_run(tmp_path / "tuned" / "ve", "ve", {"accuracy": 80.0})
    make_run(tmp_path / "tuned" / "nlvr", "nlvr", {"accuracy": 75.0})
    columns = [f"--column=no pre-training={tmp_path / 'scratch'}", f"--column=ours={tmp_path / 'tuned'}"]
    assert main([*columns, "--markdown", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0] == ["task", "metric", "chance", "no pre-training", "ours"]
    assert rows[2:4] == [
        ["nlvr", "accuracy, test", "33.30", "-", "75.00"],
        ["ve", "accuracy, test", "33.30", "40.00", "80.00"],
    ]
    assert [row[0] for row in rows[6:]] == ["no pre-training/ve", "ours/nlvr", "ours/ve"]  # how each was taken


def test_a_figure_of_another_split_is_marked_in_its_cell_and_a_broken_run_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a" / "ve", "ve", {"accuracy": 40.0})
    make_run(tmp_path / "b" / "ve", "ve", {"accuracy": 80.0}, "val")
    broken = make_run(tmp_path / "b" / "vqa", "vqa", {"accuracy": 80.0}) / "eval/test/metrics.json"
    broken.write_text('{"accuracy": 8')
    columns = [f"--column=a={tmp_path / 'a'}", f"--column=b={tmp_path / 'b'}"]
    said = printed(capsys, *columns)
    assert re.search(r"ve +accuracy, test +33.30 +40.00 +80.00 \(val\)\n", said)
    assert f"left out: {broken} is damaged" in said


def test_csv_holds_all_that_is_known_of_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / "x" / name, "ve", {"accuracy": 70.0}) for name in ("a", "b")]
    assert main([*map(str, runs), "--csv", str(tmp_path / "runs.csv")]) == 0
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["value"], row["eval_gmacs"], row["step"]) for row in rows] == [
        ("a", "70.0", "0.02", "300"),
        ("b", "70.0", "0.02", "300"),
    ]
    assert main([f"--column=one={tmp_path / 'x'}", "--csv", "-"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("one,b,ve,test,accuracy,70.0")


def test_a_plot_shows_each_run_and_names_those_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = {"a": 0.02, "b $x^{$ dollars": 0.012, "old": None}
    runs = [make_run(tmp_path / name, "ve", {"accuracy": 70.0}, about={"vision_gmacs": c}) for name, c in costs.items()]
    for ending in ("png", "svg"):
        assert main([*map(str, runs), "--plot", str(tmp_path / f"plot.{ending}")]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert (
        errors[0]
        == "--plot: old has no mark over `image encoder in evaluation, GMACs an image`: that cost is not recorded"
    )
    with Image.open(tmp_path / "plot.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
    drawn = (tmp_path / "plot.svg").read_text()
    for text in ("old: ", "training step, forward and backward", "accuracy, test (by chance 33.3)"):
        assert f"<!-- {text}" in drawn


def test_marks_of_many_runs_all_differ() -> None:
    from tools.scatter import _style

    styles = [(style["color"], style["marker"]) for style in map(_style, range(100))]
    assert len({*styles}) == 100


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / name / "ve", "ve", {"accuracy": 70.0}) for name in ("a", "b")]
    assert [one["run"] for one in records(capsys, *runs)] == [str(run) for run in runs]


def test_lines_of_the_log_that_are_no_entries_are_passed_over_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a", "ve", {"accuracy": 70.0})
    with (run / "log.jsonl").open("ab") as log:
        log.write(b'\xff\xfe\n[]\n{"event": "train", "gmacs/vision": "much"}\n{"event": "train", "gmacs/vis')
    assert records(capsys, run)[0]["train_gmacs"] == 0.01
    assert f"{run / 'log.jsonl'}: 3 lines are no entries of a log" in printed(capsys, run)


def test_a_plug_in_that_a_run_names_is_not_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", "ve", {"accuracy": 70.0})
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n")
    config = (run / "config.yaml").read_text().replace("plugins: []", f"plugins: [{tmp_path}/mine.py]")
    (run / "config.yaml").write_text(config.replace("name: ve", "name: mine"))
    assert main([str(run)]) == 2
    assert "which metric counts for task 'mine' is not known here; name one with --metric: accuracy" in (
        capsys.readouterr().err
    )
    assert records(capsys, run, "--metric", "accuracy")[0]["task"] == "mine"
    leave_evaluation(run, "val", {"accuracy": 70.0, "f1": 40.0}, {"headline": "f1"})
    assert records(capsys, run, "--split", "val")[0]["value"] == 40.0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", "task: {name: [}", "this is not YAML"),
        ("config.yaml", "reducer: 3", "it names no task"),
        ("config.yaml", "task: ve\nreducer: [1]", "expected a name with parameters"),
        ("eval/test/metrics.json", "", "is damaged"),
        ("eval/test/metrics.json", "[1]", "is damaged (it holds no object)"),
        ("eval/test/metrics.json", '{"accuracy": NaN}', "accuracy is nan, not a number"),
        ("eval/test/metrics.json", '{"accuracy": null}', "accuracy is no number"),
        ("eval/test/metrics.json", "[" * 100_000, "is damaged"),
        ("eval/test/metrics.json", b"\xff\xfe", "is damaged"),
        ("eval/test/chance.json", '{"accuracy": "high"}', "accuracy is 'high', not a number"),
        ("eval/test/about.json", '{"vision_gmacs": true}', "vision_gmacs is True, not a number"),
        ("eval/test/about.json", '{"checkpoint": 3}', "checkpoint is 3, not text"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    file: str, content: str | bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a", "ve", {"accuracy": 70.0})
    (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main([str(run)]) == 2
    said = capsys.readouterr().err
    assert str(run / file) in said
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name runs to compare"),
        (["nowhere"], "nowhere is no run: it has no config.yaml"),
        (["--column", "ours"], "expected NAME=FOLDER, got 'ours'"),
        (["--column", "ours=nowhere"], "there is no run in nowhere"),
        (["nowhere", "--csv", "-", "--json", "-"], "only one of --json, --csv and --markdown"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_metric_or_split_that_is_not_there_is_told_with_what_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a", "ve", {"accuracy": 70.0})
    for arguments, message in (
        (["--metric", "r_mean"], "test has no metric 'r_mean'; it has accuracy"),
        (["--split", "val"], "val was not evaluated, but test"),
        (["--plot", "plot.tiff"], "--plot: plot.tiff: the name must end in .png, .svg, .pdf"),
        (["--plot", f"{tmp_path}/none/plot.png"], f"cannot write {tmp_path}/none/plot.png: No such file or directory"),
    ):
        assert main([str(run), *arguments]) == 2
        assert message in capsys.readouterr().err
