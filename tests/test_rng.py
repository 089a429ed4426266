"""The random state of a process: all generators, saved and put back."""

import random
from pathlib import Path

import numpy as np
import torch

from elip.rng import derived_seed, drawing_apart, rng_state, seed_everything, set_rng_state


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.standard_normal()), torch.rand(1).item()]


def test_all_generators_come_back_to_a_saved_state(tmp_path: Path) -> None:
    seed_everything(7)
    draws()
    torch.save(rng_state(), tmp_path / "state.pt")
    expected = draws()
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == expected


def test_what_is_drawn_apart_follows_from_its_seed_and_moves_nothing() -> None:
    seed_everything(7)
    expected = draws()
    seed_everything(7)
    with drawing_apart(3):
        first = draws()
    assert draws() == expected
    assert torch.initial_seed() == 7
    with drawing_apart(3):
        assert draws() == first != expected


def test_derived_seeds_depend_on_each_number_and_its_place() -> None:
    assert derived_seed(1, 2) == derived_seed(1, 2)
    assert len({derived_seed(*numbers) for numbers in ((1, 2), (2, 1), (1, 2, 0, 3), (1,), (2**62, 5), (1, 3))}) == 6
    assert derived_seed(1, 2, 0) == derived_seed(1, 2)
