"""Scenes and one small data set on disk for all tests of DigitScenes."""

from pathlib import Path
from typing import Any

import pytest

from elip.data.digitscenes import build
from elip.data.digitscenes.handwriting import Handwriting, load_handwriting
from elip.data.digitscenes.scene import Scene, sample_scenes

SIZES: dict[str, Any] = {"num_train": 12, "num_val": 4, "num_test": 5}


@pytest.fixture(scope="session")
def handwriting() -> Handwriting:
    return load_handwriting()


@pytest.fixture(scope="session")
def scenes(handwriting: Handwriting) -> list[Scene]:
    """300 training scenes of seed 0."""
    return list(sample_scenes("train", 300, 0, handwriting))


@pytest.fixture(scope="session", params=[1, 2])
def cluttered(request: pytest.FixtureRequest, handwriting: Handwriting) -> list[Scene]:
    """The first 60 of the same scenes with clutter."""
    return list(sample_scenes("train", 60, 0, handwriting, clutter=request.param))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished data set of SIZES, 64 px, seed 0; not to be changed."""
    return build(tmp_path_factory.mktemp("digitscenes") / "set", **SIZES)
