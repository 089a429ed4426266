"""The pictures of a split as files."""

from pathlib import Path
from typing import NamedTuple

from elip.data.digitscenes.draw import Box, draw
from elip.data.digitscenes.handwriting import Handwriting
from elip.data.digitscenes.scene import Scene, sample_scenes


class Picture(NamedTuple):
    """A scene that has been drawn."""

    scene: Scene
    boxes: list[Box]
    """One for each of `scene.digits`."""


def write_pictures(root: Path, split: str, num: int, size: int, seed: int, handwriting: Handwriting) -> list[Picture]:
    """Return the pictures of a split after writing them below `root` as JPEG files without chroma subsampling."""
    (root / split).mkdir(parents=True, exist_ok=True)
    pictures = []
    for scene in sample_scenes(split, num, seed, handwriting):
        image, boxes = draw(scene, size, handwriting)
        image.save(root / scene.file, quality=95, subsampling=0)
        pictures.append(Picture(scene, boxes))
    return pictures
