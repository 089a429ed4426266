"""The random state of a process: all generators, saved and put back."""

import random
from pathlib import Path

import numpy as np
import torch

from elip.rng import rng_state, seed_everything, set_rng_state


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.standard_normal()), torch.rand(1).item()]


def test_all_generators_come_back_to_a_saved_state(tmp_path: Path) -> None:
    seed_everything(7)
    draws()
    torch.save(rng_state(), tmp_path / "state.pt")
    expected = draws()
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == expected
