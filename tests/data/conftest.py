"""A cache folder for each test, and whether random numbers were drawn."""

import pickle
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from elip.data.images import View
from elip.data.transforms import TrainTransform


class WholePicture(TrainTransform):
    """A training transform that changes nothing: what evaluation sees."""

    def view(self, rng: random.Random) -> View:
        return View(lambda width, height: (0, 0, width, height), self.image_size)

    def finish(self, square: Image.Image, rng: random.Random) -> Tensor:
        return self.normalize(square)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that `ELIP_CACHE` names."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ELIP_CACHE", str(folder))
    return folder


@pytest.fixture
def random_states() -> Callable[[], bytes]:
    """Tells the states of all global random generators; equal results mean that none was used in between."""
    return lambda: pickle.dumps((random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()))
