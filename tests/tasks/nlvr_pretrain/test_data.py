"""Pairs of pictures that text assignment is checked on."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from elip.data.annotations import load_annotations
from elip.data.datasets import EvalDataset
from elip.data.images import ImageFolder
from elip.data.transforms import EvalTransform
from elip.errors import DataError
from elip.task.labelled import Labelled
from elip.task.pairs import CaptionedItem
from tasks.nlvr_pretrain.data import assignment_set
from tasks.nlvr_pretrain.objective import CHOICES
from tests.conftest import WriteJson

MakeSet = Callable[[int], EvalDataset[Labelled]]


@pytest.fixture
def make_set(write_json: WriteJson, image_root: Path) -> MakeSet:
    def make(num_pictures: int) -> EvalDataset[Labelled]:
        items = [{"image": f"{i}.png", "caption": [f"{i} a", f"{i} b", f"{i} c"]} for i in range(num_pictures)]
        annotations = load_annotations([write_json(items)], CaptionedItem)
        return assignment_set(annotations, ImageFolder(image_root), EvalTransform(8), max_words=30)

    return make


@pytest.mark.parametrize("num_pictures", [3, 10])
def test_a_caption_meets_two_different_pictures_and_the_label_says_which_is_its_own(
    make_set: MakeSet, num_pictures: int
) -> None:
    data = make_set(num_pictures)
    assert len(data) == 3 * num_pictures
    for example in data.examples:
        own = f"{example.text[0]}.png"
        left, right = example.images
        assert left != right
        assert CHOICES[example.label] == {left: "left", right: "right"}.get(own, "neither")


def test_each_choice_is_right_for_a_third_of_the_captions(make_set: MakeSet) -> None:
    assert Counter(example.label for example in make_set(5).examples) == {0: 5, 1: 5, 2: 5}


def test_the_pairs_are_the_same_each_time(make_set: MakeSet) -> None:
    assert make_set(10).examples == make_set(10).examples


def test_a_broken_picture_is_named_with_its_own_item_not_with_the_captions(make_set: MakeSet, image_root: Path) -> None:
    data = make_set(5)
    (image_root / "4.png").unlink()
    meets = next(i for i, one in enumerate(data.examples) if "4.png" in one.images and not one.text.startswith("4"))
    with pytest.raises(DataError, match=r"items\.json item 4: field 'image': .*4\.png: no such file"):
        data[meets]


def test_samples_hold_both_pictures(make_set: MakeSet, image_root: Path) -> None:
    data = make_set(4)
    sample = data[5]
    for picture, name in zip(sample["image"], data.examples[5].images, strict=True):
        with Image.open(image_root / name) as image:
            assert (picture == EvalTransform(8)(image.convert("RGB"))).all()


def test_fewer_than_three_pictures_are_refused(make_set: MakeSet) -> None:
    with pytest.raises(DataError, match=r"items\.json: text assignment.*only 2 in all; give a file of at least 3"):
        make_set(2)
