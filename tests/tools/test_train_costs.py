"""GMACs in the log of tools/train.py."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elip.efficiency.run_cost import RunningCost
from tools import evaluate, flops, train


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if '"train"' in line]


def test_a_run_logs_what_its_images_cost_and_is_not_changed_by_it(
    config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(config), *tiny, "data.val=[]", "data.test=[]"]
    assert train.main(arguments) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunningCost, "__init__", lambda self, task: None)
        patch.setattr(RunningCost, "figures", lambda self: {})
        assert train.main([*arguments, f"output_dir={tmp_path}/uncounted"]) == 0
    counted, uncounted = entries(tmp_path / "run"), entries(tmp_path / "uncounted")
    for with_figures, without in zip(counted, uncounted, strict=True):
        assert all(with_figures[key] == value for key, value in without.items() if key.startswith(("loss", "grad")))

    assert flops.main(["--config", str(config), *tiny, "--json", "-"]) == 0
    dense, own = json.loads(capsys.readouterr().out)
    figures = {key: value for key, value in counted[-1].items() if key.startswith("gmacs/")}
    assert figures == pytest.approx(
        {
            "gmacs/vision": own["vision_gmacs"],
            "gmacs/vision_ratio": own["vision_gmacs"] / dense["vision_gmacs"],
            "gmacs/train_step": own["train_step_gmacs"],
            "gmacs/train_step_ratio": own["train_step_gmacs"] / dense["train_step_gmacs"],
            "gmacs/train_mean": own["train_mean_gmacs"],
            "gmacs/train_mean_ratio": own["train_mean_gmacs"] / dense["train_step_gmacs"],
        }
    )
    scalars = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload().Tags()["scalars"]
    assert {f"train/{name}" for name in figures} <= {*scalars}


def test_each_evaluation_says_by_which_weights_and_at_what_cost(
    config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def about(split: str) -> dict:
        return json.loads((tmp_path / f"run/eval/{split}/about.json").read_text())

    assert train.main([str(config), *tiny, "train.epochs=1"]) == 0  # ELIP, and images are searched without a text
    assert evaluate.main([str(tmp_path / "run")]) == 0
    reduced = "eval.reducer={name: random, begin: [1], keep_ratio: [0.25]}"
    in_training, by_best = about("val"), about("test")
    assert "reducer in this evaluation: none (elip needs a text" in capsys.readouterr().out
    assert evaluate.main([str(tmp_path / "run"), reduced]) == 0
    by_other_reducer = about("test")

    assert (in_training["checkpoint"], in_training["step"]) == ("weights in training", 3)
    assert (by_best["checkpoint"], by_best["step"], by_best["overrides"]) == ("best.pt", 3, [])
    assert by_best["headline"] == "r_mean"
    logged = entries(tmp_path / "run")[-1]
    for figures in (in_training, by_best):
        assert figures["reducer"] == "none"
        assert figures["vision_gmacs"] == figures["vision_gmacs_dense"]
        assert figures["vision_gmacs"] == pytest.approx(logged["gmacs/vision"] / logged["gmacs/vision_ratio"])
    assert by_other_reducer["overrides"] == [reduced]
    assert by_other_reducer["reducer"].startswith("random")
    assert by_other_reducer["vision_gmacs"] < 0.7 * by_other_reducer["vision_gmacs_dense"]
