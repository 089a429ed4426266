"""Which pictures there are to measure on, their classes and their captions."""

import shutil
from pathlib import Path

import pytest

from elip.data.images import ImageFolder
from elip.errors import DataError
from elip.lab.fidelity.picture_sets import PictureSet, pictures_of_folder, pictures_of_pairs
from tests.conftest import WriteJson


def moved(image_root: Path, places: dict[int, str]) -> Path:
    """Return a folder with some of the pictures at other places in it."""
    folder = image_root.parent / "sorted"
    for number, place in places.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(image_root / f"{number}.png", folder / place)
    return folder


def test_a_folder_of_pictures_has_no_classes(image_root: Path) -> None:
    (image_root / "notes.txt").write_text("no picture")
    found = pictures_of_folder(image_root, ImageFolder("elsewhere", background="albef"))
    assert found.paths == [f"{number}.png" for number in range(10)]
    assert found.classes is None
    assert found.captions is None
    assert found.images == ImageFolder(image_root, background="albef")


def test_each_subfolder_is_a_class_with_all_that_lies_below_it(image_root: Path) -> None:
    found = pictures_of_folder(moved(image_root, {0: "cat", 1: "dog", 2: "cat/wild"}), ImageFolder())
    assert found.paths == ["cat/0.png", "cat/wild/2.png", "dog/1.png"]
    assert found.classes == ["cat", "cat", "dog"]


@pytest.mark.parametrize("places", [{0: "cat", 1: "cat"}, {0: "cat", 1: "dog", 2: "."}], ids=["one", "beside"])
def test_one_subfolder_or_pictures_beside_subfolders_are_no_classes(image_root: Path, places: dict[int, str]) -> None:
    assert pictures_of_folder(moved(image_root, places), ImageFolder()).classes is None


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--images: there is no folder .*nowhere"):
        pictures_of_folder(tmp_path / "nowhere", ImageFolder())
    with pytest.raises(DataError, match=r"--images: there are no pictures in .*\.png"):
        pictures_of_folder(tmp_path, ImageFolder())


def test_fewer_pictures_are_spread_evenly_with_what_is_known_of_them() -> None:
    pictures = PictureSet(ImageFolder(), list("abcdef"), list("AABBCC"), [["1"], ["2"], ["3"], ["4"], ["5"], ["6"]])
    few = pictures.spread(3)
    assert (few.paths, few.classes, few.captions) == (["a", "c", "e"], ["A", "B", "C"], [["1"], ["3"], ["5"]])
    assert pictures.spread(None) == pictures.spread(100) == pictures


def test_captions_of_one_picture_are_joined(image_root: Path, write_json: WriteJson) -> None:
    items = [
        {"image": "0.png", "caption": ["a cat", "a pet"]},
        {"image": "1.png", "caption": "a dog"},
        {"image": f"{image_root}/0.png", "caption": "an animal"},
    ]
    found = pictures_of_pairs(write_json(items), ImageFolder(image_root))
    assert found.paths == ["0.png", "1.png"]
    assert found.captions == [["a cat", "a pet", "an animal"], ["a dog"]]
    assert found.classes is None


def test_pictures_may_have_no_captions_but_not_only_some(image_root: Path, write_json: WriteJson) -> None:
    assert pictures_of_pairs(write_json([{"image": "0.png"}]), ImageFolder(image_root)).captions is None
    some = write_json([{"image": "0.png", "caption": "a"}, {"image": "1.png"}, {"image": "2.png"}], "some.json")
    with pytest.raises(DataError, match=r"some\.json: 2 of 3 pictures have no caption, the first is 1\.png"):
        pictures_of_pairs(some, ImageFolder(image_root))


def test_a_file_without_items_is_refused(write_json: WriteJson) -> None:
    with pytest.raises(DataError, match=r"items\.json"):
        pictures_of_pairs(write_json([]), ImageFolder())
