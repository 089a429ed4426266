"""Tar shards that tests of tasks train on."""

import io
import json
import tarfile
from pathlib import Path

import pytest

SHARDS, PAIRS_EACH = 4, 6


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="session")
def shards(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the training pairs in pairs-00.tar ... pairs-03.tar; each caption ends with its pair's number."""
    folder = tmp_path_factory.mktemp("shards")
    items = json.loads((digits / "pretrain_train.json").read_text())
    assert len(items) == SHARDS * PAIRS_EACH
    for shard in range(SHARDS):
        with tarfile.open(folder / f"pairs-{shard:02d}.tar", "w") as tar:
            for number in range(shard * PAIRS_EACH, (shard + 1) * PAIRS_EACH):
                image = digits / "images" / items[number]["image"]
                add(tar, f"{number:04d}{image.suffix}", image.read_bytes())
                add(tar, f"{number:04d}.txt", f"A red seven {number}".encode())
    return folder
