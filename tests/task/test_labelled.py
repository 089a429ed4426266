"""Labelled texts with one picture or several, for training and evaluation."""

import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typing_extensions import TypedDict

from elip.data.annotations import Annotations, load_annotations
from elip.data.cleaning import usable_caption
from elip.data.datasets import EvalDataset, SampleKey, TrainDataset, read_examples
from elip.data.images import ImageFolder
from elip.data.transforms import EvalTransform, TrainTransform
from elip.errors import DataError
from elip.task.labelled import Labelled, labelled_sample, read_and_sample, read_text
from tests.conftest import WriteJson

ITEMS: list[dict[str, Any]] = [
    {"pictures": ["1.png", "2.png"], "text": "A  cat!", "label": "yes"},
    {"pictures": ["3.png"], "text": "a dog", "label": "no"},
]


class Item(TypedDict):
    pictures: list[str]
    text: str
    label: str


def read(item: Item) -> Labelled:
    text = usable_caption(item["text"], 30, "text")
    return Labelled(tuple(item["pictures"]), text, ("no", "yes").index(item["label"]), field="pictures")


Load = Callable[[list[dict[str, Any]]], Annotations[Item]]


@pytest.fixture
def load(write_json: WriteJson) -> Load:
    return lambda items: load_annotations([write_json(items)], Item)


def train_set(annotations: Annotations[Item], root: Path, skip_broken: bool = False) -> TrainDataset[Item]:
    make_sample, texts = partial(read_and_sample, read=read), partial(read_text, read=read)
    images, transform = ImageFolder(root), TrainTransform(8)
    return TrainDataset(annotations, make_sample, images, transform, seed=0, texts=texts, skip_broken=skip_broken)


def eval_set(annotations: Annotations[Item], root: Path) -> EvalDataset[Labelled]:
    examples = read_examples(annotations, read)
    return EvalDataset(examples, labelled_sample, ImageFolder(root), EvalTransform(8), annotations.where)


def test_one_picture_is_a_picture_and_several_are_stacked(load: Load, image_root: Path) -> None:
    training, evaluation = train_set(load(ITEMS), image_root), eval_set(load(ITEMS), image_root)
    for samples in ([training[SampleKey(0, i)] for i in range(2)], [evaluation[i] for i in range(2)]):
        assert [sample["image"].shape for sample in samples] == [(2, 3, 8, 8), (3, 8, 8)]
        assert [(sample["caption"], sample["label"]) for sample in samples] == [("a cat", 1), ("a dog", 0)]


def test_evaluation_shows_the_pictures_in_order_and_whole(load: Load, image_root: Path) -> None:
    shown = eval_set(load(ITEMS), image_root)[0]["image"]
    for picture, name in zip(shown, ("1.png", "2.png"), strict=True):
        with Image.open(image_root / name) as image:
            assert torch.equal(picture, EvalTransform(8)(image.convert("RGB")))


def test_each_picture_of_a_training_sample_has_a_crop_of_its_own_and_each_epoch_another(
    load: Load, image_root: Path
) -> None:
    twice = train_set(load([{**ITEMS[0], "pictures": ["1.png", "1.png"]}]), image_root)
    first = twice[SampleKey(0, 0)]["image"]
    assert not torch.equal(*first)
    assert torch.equal(first, twice[SampleKey(0, 0)]["image"])
    assert not torch.equal(first, twice[SampleKey(1, 0)]["image"])


def test_reading_all_names_the_item_that_is_broken(load: Load) -> None:
    with pytest.raises(DataError, match=r"items\.json item 1: field 'text' is empty after cleaning: '!'"):
        read_examples(load([ITEMS[0], {**ITEMS[1], "text": "!"}]), read)


def test_a_missing_picture_is_named_with_item_and_field(load: Load, image_root: Path) -> None:
    annotations = load([ITEMS[1], {**ITEMS[0], "pictures": ["1.png", "11.png"]}])
    message = rf"items\.json item 1: field 'pictures': {re.escape(str(image_root))}/11\.png: no such file"
    with pytest.raises(DataError, match=message):
        eval_set(annotations, image_root)[1]
    with pytest.raises(DataError, match=message):
        train_set(annotations, image_root)[SampleKey(0, 1)]


def test_training_may_pass_over_a_broken_item_and_says_so(load: Load, image_root: Path) -> None:
    annotations = load([ITEMS[0], {**ITEMS[1], "pictures": ["gone.png"]}])
    sample = train_set(annotations, image_root, skip_broken=True)[SampleKey(0, 1)]
    assert sample["caption"] == "a cat"
    assert "gone.png" in sample["skipped"][0]


def test_sets_can_be_sent_to_another_process(load: Load, image_root: Path) -> None:
    for dataset, key in ((train_set(load(ITEMS), image_root), SampleKey(0, 0)), (eval_set(load(ITEMS), image_root), 0)):
        again = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(again[key]["image"], dataset[key]["image"])
