"""Small data sets on disk, and a cache folder for each test."""

import json
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

WriteJson = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that `ELIP_CACHE` names."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ELIP_CACHE", str(folder))
    return folder


@pytest.fixture
def write_json(tmp_path: Path) -> WriteJson:
    """Writes items as a JSON list, or as JSON-lines if the name ends in .jsonl; a text is written as it is."""

    def write(content: Sequence[Any] | str, name: str = "items.json") -> Path:
        path = tmp_path / name
        if isinstance(content, str):
            text = content
        elif path.suffix == ".jsonl":
            text = "".join(json.dumps(item) + "\n" for item in content)
        else:
            text = json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """A folder with pictures 0.png ... 9.png of 12 x 10 coloured noise, each different."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def random_states() -> Callable[[], bytes]:
    """Tells the states of all global random generators; equal results mean that none was used in between."""
    return lambda: pickle.dumps((random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()))
