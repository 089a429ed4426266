"""The files that an evaluation leaves: figures, one line per item, pictures."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from elip.engine.files import write_atomically, writing
from elip.task import EvalResult


def write_result(result: EvalResult, folder: Path) -> None:
    """Write `metrics.json`, and what else the result holds but pictures, into `folder`, making it if need be."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / "metrics.json", json.dumps(result.metrics, indent=2) + "\n")
    if result.chance:
        _write_text(folder / "chance.json", json.dumps(result.chance, indent=2) + "\n")
    for name, content in result.files.items():
        _write_text(folder / name, json.dumps(content, ensure_ascii=False) + "\n")
    if result.predictions:
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in result.predictions)
        _write_text(folder / "predictions.jsonl", lines)


def write_pictures(pictures: Mapping[str, np.ndarray], folder: Path, prefix: str = "") -> None:
    """Write each picture as `folder`/`prefix`NAME.png, making the folder if need be.

    Shape:
        pictures: [H, W, 3] uint8 each
    """
    with writing(folder):
        for name, picture in pictures.items():
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{prefix}{name.replace('/', '-')}.png")


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
