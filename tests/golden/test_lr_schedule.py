"""The learning rate is the one that ALBEF's training loop sets."""

import json
from pathlib import Path

import pytest
import torch

from elip.config.schema import OptimConfig
from elip.engine.optim import LearningRate

INTERVAL = 100  # as in the key warmup_steps_of_100_iterations


@pytest.mark.parametrize("name", ["pretrain", "short_epoch", "shorter_than_warmup"])
def test_rate_at_every_recorded_iteration(golden_albef: Path, name: str) -> None:
    recorded = json.loads((golden_albef / "lr_schedule.json").read_text())[name]
    config = OptimConfig(
        lr=recorded["lr"],
        min_lr=recorded["min_lr"],
        warmup_lr=recorded["warmup_lr"],
        warmup_steps=recorded["warmup_steps_of_100_iterations"] * INTERVAL,
        warmup_interval=INTERVAL,
    )
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    epochs, per_epoch = recorded["epochs"], recorded["iterations_per_epoch"]
    rate = LearningRate(optimizer, config, epochs, per_epoch, epochs * per_epoch)
    expected = {int(step): lr for step, lr in recorded["lr_at_iteration"].items()}
    assert {step: rate.apply(step) for step in expected} == pytest.approx(expected, rel=1e-12)
