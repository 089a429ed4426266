"""tools/fidelity.py: what it prints and writes, and what it says to mistakes."""

import csv
import json
from pathlib import Path

import pytest

from elip.config import config_to_dict
from elip.weights.files import write_weights
from tests.lab.fidelity.small_vit import ELIP, NAME, RANDOM, SIT, TOME, TOPK, class_folders, weights_file
from tests.tasks.small import small_task
from tools import fidelity

QUICK = ["--k", "3", "--votes", "3", "--draws", "2", "--rounds", "1", "--samples", "200", "--device", "cpu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def vit(weights: Path) -> list[str]:
    return ["--vit", NAME, "--image-size", "64", "--weights", str(weights), "--reducer", RANDOM, *QUICK]


def test_tables_and_files_tell_the_same(
    vit: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "markdown", "png")}
    written = [f"--{name}={path}" for name, path in files.items() if name != "png"]
    asked = ["--reducer", TOME, "--reducer", ELIP, "--reducer", SIT, "--target-share", "0.8,0.3"]
    assert (
        fidelity.main([*vit, "--images", str(folder), "--limit", "12", *asked, *written, f"--plot={files['png']}"]) == 0
    )
    out, found = capsys.readouterr().out, json.loads(files["json"].read_text())
    assert found["about"] in out
    assert found["about"].endswith("64 px; 12 pictures of 3 classes of " + folder.name)
    assert [(row["reducer"], row["draws"]) for row in found["rows"]] == [
        ("none", 1),
        ("random", 2),
        ("tome", 1),
        ("sit", 1),
    ]
    tome = found["rows"][2]
    assert tome["gmacs"] <= tome["budget_gmacs"] == pytest.approx(0.8 * found["rows"][0]["gmacs"])
    assert set(tome["metrics"]) == {"pooled_cosine", "patch_cosine", "neighbours", "own_bank", "dense_bank"}
    assert set(tome["against_random"]["own_bank"]) == {"mean", "low", "high", "verdict"}
    shown = f"{tome['metrics']['pooled_cosine']['mean']:.3f} [{tome['metrics']['pooled_cosine']['low']:.3f}, "
    for text in (out, files["markdown"].read_text()):
        assert shown in text
        assert "Not ranked" in text
        assert "is left out: it needs a text" in text
        assert text.count("is out of reach for reducer") == 3  # random, tome and sit at 0.3
        assert '--reducer \'{"name": "tome", "r": ' in text
    rows = list(csv.DictReader(files["csv"].open()))
    assert [row["reducer"] for row in rows] == ["none", "random", "tome", "sit"]
    assert float(rows[2]["pooled_cosine"]) == tome["metrics"]["pooled_cosine"]["mean"]
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_the_same_command_writes_the_same_figures(
    vit: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*vit, "--images", str(folder), "--reducer", TOPK, "--rounds", "0", "--json", "-"]
    assert fidelity.main(command) == fidelity.main(command) == 0
    once, again = capsys.readouterr().out.split("}\n{")
    assert json.loads(once + "}") == json.loads("{" + again)
    assert json.loads(once + "}")["rows"][1]["time_ratio"] is None


def test_pairs_without_a_text_encoder_give_all_but_recall(
    vit: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{"image": str(path), "caption": path.stem} for path in sorted(folder.rglob("*.png"))]
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(pairs))
    assert fidelity.main([*vit, "--data", str(file), "--reducer", TOME, "--rounds", "0"]) == 0
    out = capsys.readouterr().out
    assert "A ViT alone reads no texts: there is no recall." in out
    assert "15 pictures of pairs.json" in out
    assert "time ratio" not in out
    assert "found, R@1" not in out


def test_a_run_is_measured_with_recall_and_captions_that_decide(
    tiny: list[str], digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = small_task("pretrain", tiny)
    run = tmp_path / "mine"
    run.mkdir()
    write_weights(
        run / "best.pt", task.state_dict(), "elip", {"config": config_to_dict(task.config), "step": 3, "epoch": 1}
    )
    asked = ["--reducer", "elip", "--reducer", TOPK, "--reducer", RANDOM, "--json", "-"]
    assert fidelity.main(["--run", str(run), "--data", f"{digits}/retrieval_val.json", *asked, *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["about"] == "pretrain of mine/best.pt; 6 pictures of retrieval_val.json"
    by_name = {row["reducer"]: row for row in found["rows"]}
    assert by_name["elip"]["label"].startswith("elip begin=[1, 2]")  # the parameters of the run
    assert by_name["elip"]["metrics"]["pooled_cosine"]["mean"] < 1
    assert "txt_r1" not in by_name["elip"]["metrics"]
    for name in ("none", "random", "topk"):
        recalls = {name for name in by_name[name]["metrics"] if "_r" in name}
        assert recalls == {f"{side}_r{at}" for side in ("txt", "img") for at in (1, 5, 10)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", ""], "--weights: name a checkpoint, or timm"),
        (["--target-share", "0.5,1.5"], "--target-share: expected shares between 0 and 1 with commas between"),
        (["--target-gmacs", "much"], "--target-gmacs: expected numbers above 0 with commas between, got 'much'"),
        (["--draws", "0"], "--draws: expected a number above 0, got 0"),
        (["--rounds", "-1"], "--rounds: expected a whole number from 0"),
        (["--image-root", "."], "--image-root goes with --data"),
        (["--plot", "picture.jpg"], "--plot: picture.jpg: the name must end in"),
        (["--csv", "-", "--json", "-"], "only one of --json, --csv and --markdown"),
        (["--reducer", "tomb"], "tomb"),
        (["--limit", "3"], "3 pictures are too few for 3 neighbours"),
        (["--reducer", "{name: topk, begin: [9], keep_ratio: [0.5]}"], "block 9 does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_one_line(
    vit: list[str], folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert fidelity.main([*vit, "--images", str(folder), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
