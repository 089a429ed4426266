"""tools/evaluate.py: what it writes, what can be changed, and what it says to mistakes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import tiny_run
from tools import evaluate, train, visualize

from .conftest import Command

RECALLS = {f"{side}_r{k}" for side in ("txt", "img") for k in (1, 5, 10)}


@pytest.fixture(scope="module")
def trained(digits: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run under ELIP."""
    folder = tmp_path_factory.mktemp("trained")
    assert train.main([str(config), *tiny_run(digits, folder), "train.epochs=1"]) == 0
    return folder / "run"


def metrics_in(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def predictions_in(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_command_leaves_metrics_predictions_and_sheets(trained: Path, tmp_path: Path, command: Command) -> None:
    done = command("evaluate", trained, "--split", "val", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = metrics_in(tmp_path)
    assert metrics.keys() >= {*RECALLS, "r_mean"}
    assert all(0 <= metrics[name] <= 100 for name in RECALLS)
    assert [item["image"] for item in predictions_in(tmp_path)] == [f"val/{i:06d}.jpg" for i in range(6)]
    sheets = [Image.open(path) for path in tmp_path.glob("*.png")]
    assert sheets
    assert all(len(set(sheet.convert("L").tobytes())) > 10 for sheet in sheets)
    assert f"{metrics['r_mean']:.2f}" in done.stdout
    assert str(tmp_path) in done.stdout


@pytest.mark.slow
def test_a_mistake_is_one_line_without_a_traceback_and_code_2(trained: Path, tmp_path: Path, command: Command) -> None:
    cut = tmp_path / "checkpoint-00000003.pt"
    cut.write_bytes((trained / cut.name).read_bytes()[:5000])
    done = command("evaluate", cut)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {cut} is cut short or damaged")
    assert done.stderr.count("\n") == 1


def test_results_go_to_the_run_by_default_and_are_those_of_training(trained: Path) -> None:
    assert evaluate.main([str(trained), "--split", "val"]) == 0
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    (logged,) = [entry["metrics"] for entry in log if entry["event"] == "eval"]
    assert metrics_in(trained / "eval/val") == logged


def test_the_test_split_is_the_default_if_there_is_one(trained: Path, tmp_path: Path) -> None:
    assert evaluate.main([str(trained), "--out", str(tmp_path / "both")]) == 0
    assert evaluate.main([str(trained), "--out", str(tmp_path / "val"), "data.test=[]"]) == 0
    for folder, split in (("both", "test"), ("val", "val")):
        assert {item["image"].split("/")[0] for item in predictions_in(tmp_path / folder)} == {split}


def test_a_run_is_evaluated_by_its_best_checkpoint_else_its_last(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copy(trained / "best.pt", tmp_path)
    shutil.copy(trained / "checkpoint-00000003.pt", tmp_path)
    for expected in ("best.pt", "checkpoint-00000003.pt"):
        assert evaluate.main([str(tmp_path), "--split", "val", "--out", str(tmp_path / "out")]) == 0
        assert f"{tmp_path / expected}, val:" in capsys.readouterr().out
        (tmp_path / expected).unlink()


def test_the_reducer_can_be_another_than_in_training(trained: Path, tmp_path: Path) -> None:
    reducers = {
        "all": "eval.reducer.name=none",
        "quarter": "eval.reducer={name: random, begin: [1], keep_ratio: [0.25]}",
        "other-quarter": "eval.reducer={name: random, begin: [1], keep_ratio: [0.25], seed: 1}",
    }
    sheets = {}
    for name, override in reducers.items():
        assert evaluate.main([str(trained), "--split", "val", "--out", str(tmp_path / name), override]) == 0
        sheets[name] = [sheet.read_bytes() for sheet in (tmp_path / name).glob("kept_patches.png")]
    assert sheets.pop("all") == []  # nothing was dropped that could be shown
    (quarter,), (other,) = sheets.values()
    assert quarter != other


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--split", "train"], ["--split train: this config has data for val, test only"]),
        (["data.val=[]", "data.test=[]"], ["this config names no evaluation data"]),
        (["eval.reducer.name=nonne"], ["unknown reducer 'nonne'. Did you mean 'none'?"]),
        (["reducer.keep_ratios=[0.5]"], ["reducer 'elip' has no parameter 'keep_ratios'. Did you mean 'keep_ratio'?"]),
        (["eval.reducerr=none"], ["eval.reducerr: unknown key. Did you mean 'reducer'?"]),
        (["model.vision.options.depth=4"], ["holds another architecture than this config builds", "blocks.3"]),
        (["model.vision.options.mlp_ratio=4"], ["of another shape", "blocks.0.mlp.fc1.weight [64, 32], not [128, 32]"]),
        (["output_dir=/dev/null/run"], ["cannot write /dev/null/run"]),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], messages: list[str], trained: Path, capsys: pytest.CaptureFixture
) -> None:
    assert_one_line([str(trained), *arguments], messages, capsys)


def test_a_missing_checkpoint_is_named_with_those_that_are_there(trained: Path, capsys: pytest.CaptureFixture) -> None:
    missing = trained / "checkpoint-00000009.pt"
    expected = f"there is no checkpoint {missing}. In that folder are: checkpoint-00000003.pt"
    assert_one_line([str(missing)], [expected], capsys)


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert_one_line([str(tmp_path)], [f"there is no checkpoint in {tmp_path}. Name the output_dir"], capsys)


@pytest.mark.parametrize("length", [0, 10, 5000, -1])
def test_a_checkpoint_cut_short_is_told_in_one_line(
    length: int, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cut = tmp_path / "checkpoint-00000003.pt"
    cut.write_bytes((trained / cut.name).read_bytes()[:length])
    assert_one_line([str(cut)], [f"{cut} is cut short or damaged"], capsys)


def test_weights_without_the_config_of_their_run_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    assert_one_line([str(tmp_path / "other.pt")], ["other.pt", "--config"], capsys)


def with_config(trained: Path, folder: Path, **values: object) -> Path:
    """Return a copy of the best checkpoint, in a folder of its own, that says otherwise in its config."""
    contents = torch.load(trained / "best.pt", weights_only=True)
    contents["config"].update(values)
    folder.mkdir()
    torch.save(contents, folder / "best.pt")
    return folder / "best.pt"


def test_a_copied_run_is_evaluated_into_its_own_folder(trained: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    copy = with_config(trained, tmp_path / "copy", output_dir=str(elsewhere))
    assert evaluate.main([str(copy.parent), "--split", "val"]) == 0
    assert metrics_in(copy.parent / "eval/val")
    assert not elsewhere.exists(), "the folder that the checkpoint names is not even made"
    assert evaluate.main([str(copy), "--split", "val", "--out", str(tmp_path / "out")]) == 0
    assert metrics_in(tmp_path / "out")
    assert evaluate.main([str(copy), "--split", "val", f"output_dir={elsewhere}"]) == 0
    assert metrics_in(elsewhere / "eval/val")


def test_weights_are_evaluated_beside_themselves_under_a_config_too(
    trained: Path, config: Path, digits: Path, tmp_path: Path
) -> None:
    copy = with_config(trained, tmp_path / "copy")
    assert evaluate.main([str(copy), "--config", str(config), *tiny_run(digits, tmp_path)[:-1], "--split", "val"]) == 0
    assert metrics_in(copy.parent / "eval/val")


def test_pretrained_weights_that_a_checkpoint_replaces_are_not_looked_for(trained: Path, tmp_path: Path) -> None:
    model = torch.load(trained / "best.pt", weights_only=True)["config"]["model"]
    model["vision"]["weights"] = str(tmp_path / "gone.pth")
    copy = with_config(trained, tmp_path / "copy", model=model)
    assert evaluate.main([str(copy), "--split", "val"]) == 0


@pytest.mark.parametrize("allow", ["--plugins {}", "plugins=[{}]"])
def test_a_plugin_that_only_a_checkpoint_names_is_not_imported(
    allow: str, trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plugin, ran = tmp_path / "mine.py", tmp_path / "ran"
    plugin.write_text(f"open({str(ran)!r}, 'w').close()")
    copy = with_config(trained, tmp_path / "copy", plugins=[str(plugin)])
    picture = ["--pair", str(digits / "images/test/000000.jpg"), "a seven", "--out", str(tmp_path / "kept.png")]
    for command, arguments in ((evaluate, ["--split", "val"]), (visualize, picture)):
        assert command.main([str(copy), *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {copy}: plugins: the run used the plug-in {plugin}")
        assert f"If you trust it, add: --plugins {plugin}" in said
        assert said.count("\n") == 1
        assert not ran.exists()
    assert evaluate.main([str(copy), "--split", "val", *allow.format(plugin).split()]) == 0
    assert ran.exists()


def assert_one_line(arguments: list[str], messages: list[str], capsys: pytest.CaptureFixture) -> None:
    assert evaluate.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    for message in messages:
        assert message in said
