"""GMACs in the log of tools/train.py."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elip.efficiency.running import RunningCost
from tools import flops, train


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
        }
    )
    scalars = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload().Tags()["scalars"]
    assert {f"train/{name}" for name in figures} <= {*scalars}
