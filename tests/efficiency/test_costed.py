"""Pictures of a data set, from a folder or an annotation file."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from elip.data.images import ImageFolder
from elip.data.transforms import EvalTransform
from elip.efficiency.costed import Pictures, find_pictures
from elip.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures, each brighter than the one before, in a subfolder; and something else."""
    (tmp_path / "set/deep").mkdir(parents=True)
    for index in range(10):
        Image.new("L", (20, 10), 20 * index).save(tmp_path / f"set/deep/{index}.png")
    (tmp_path / "set/readme.txt").write_text("no picture")
    return tmp_path / "set"


def brightness(pictures: Pictures) -> list[int]:
    """Return the number of each picture, by how bright it is."""
    black = EvalTransform(8)(Image.new("RGB", (8, 8)))
    step = EvalTransform(8)(Image.new("RGB", (8, 8), (20, 20, 20))) - black
    return [round(((picture - black) / step).mean().item()) for picture in pictures]


def test_a_folder_is_searched_for_pictures_in_order(folder: Path) -> None:
    pictures = find_pictures(folder, None, 99, EvalTransform(8))
    assert brightness(pictures) == [*range(10)]
    assert pictures[0].shape == (3, 8, 8)
    assert torch.equal(pictures[2:4][1], pictures[3])


def test_a_few_are_evenly_spread(folder: Path) -> None:
    assert brightness(find_pictures(folder, None, 4, EvalTransform(8))) == [0, 2, 5, 7]


def test_an_annotation_file_names_pictures_from_its_own_folder_or_another(folder: Path, tmp_path: Path) -> None:
    items = [{"image": f"deep/{index}.png", "caption": ["?"]} for index in (7, 3)]
    beside, elsewhere = folder / "items.json", tmp_path / "items.json"
    for path in (beside, elsewhere):
        path.write_text(json.dumps(items))
    assert brightness(find_pictures(beside, None, 99, EvalTransform(8))) == [7, 3]
    assert brightness(find_pictures(elsewhere, ImageFolder(folder), 99, EvalTransform(8))) == [7, 3]


def test_a_place_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"no pictures in {tmp_path} .*\.jpg"):
        find_pictures(tmp_path, None, 9, EvalTransform(8))
    with pytest.raises(DataError, match=r"nowhere\.json"):
        find_pictures(tmp_path / "nowhere.json", None, 9, EvalTransform(8))


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"image": "gone.png"}\n')
    pictures = find_pictures(tmp_path / "items.jsonl", None, 9, EvalTransform(8))
    with pytest.raises(DataError, match=r"gone\.png"):
        pictures[0]
