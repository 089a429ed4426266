"""Texts with numbered pictures to train on, and the two views of a retrieval test file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from elip.data.annotations import load_annotations
from elip.data.datasets import collate_samples
from elip.data.images import ImageFolder
from elip.data.retrieval import RetrievalEvalItem, RetrievalEvalSet
from elip.data.transforms import EvalTransform
from elip.errors import DataError
from tests.data.conftest import WriteJson

MakeSet = Callable[[list[dict[str, Any]]], RetrievalEvalSet]


@pytest.fixture
def make_set(write_json: WriteJson, image_root: Path) -> MakeSet:
    def make(items: list[dict[str, Any]]) -> RetrievalEvalSet:
        annotations = load_annotations([write_json(items, "test.json")], RetrievalEvalItem)
        return RetrievalEvalSet(annotations, ImageFolder(image_root), EvalTransform(8), max_words=3)

    return make


ITEMS = [
    {"image": "4.png", "caption": ["A cat.", "One cat on a mat"]},
    {"image": "1.png", "caption": ["A dog!"]},
    {"image": "7.png", "caption": ["X", "Y", "Z"]},
]


def test_texts_and_pictures_know_each_other(make_set: MakeSet) -> None:
    views = make_set(ITEMS)
    assert views.text_to_image == [0, 0, 1, 2, 2, 2]
    assert views.image_to_texts == [[0, 1], [2], [3, 4, 5]]
    assert (len(views.images), len(views.texts)) == (3, 6)


def test_texts_are_cleaned_and_cut(make_set: MakeSet) -> None:
    texts = make_set(ITEMS).texts
    assert [texts[i]["caption"] for i in range(6)] == ["a cat", "one cat on", "a dog", "x", "y", "z"]
    assert texts[3]["index"] == 3


def test_pictures_are_those_of_the_items_in_their_order(make_set: MakeSet, image_root: Path) -> None:
    loader = DataLoader(make_set(ITEMS).images, batch_size=3, collate_fn=collate_samples)
    batch = next(iter(loader))
    assert batch["index"].tolist() == [0, 1, 2]
    for tensor, name in zip(batch["image"], ("4.png", "1.png", "7.png"), strict=True):
        assert torch.equal(tensor, EvalTransform(8)(Image.open(image_root / name)))


@pytest.mark.parametrize("path", ["4.png", "./4.png", "sub/../4.png"])
def test_a_picture_that_comes_twice_is_refused_naming_both_items(make_set: MakeSet, path: str) -> None:
    with pytest.raises(
        DataError, match=r"test\.json item 3: field 'image': .*4\.png is in .*test\.json item 0 already"
    ):
        make_set([*ITEMS, {"image": path, "caption": ["a"]}])


def test_a_broken_picture_is_never_passed_over(make_set: MakeSet) -> None:
    views = make_set([*ITEMS, {"image": "44.png", "caption": ["a"]}])
    with pytest.raises(DataError, match=r"test\.json item 3: field 'image': .*44\.png: no such file"):
        views.images[3]


def test_an_empty_caption_is_refused_at_once(make_set: MakeSet) -> None:
    with pytest.raises(DataError, match=r"test\.json item 0: field 'caption' is empty after cleaning: '\.\.\.'"):
        make_set([{"image": "4.png", "caption": ["a cat", "..."]}])
    with pytest.raises(DataError, match=r"test\.json item 0: field 'caption' is an empty list"):
        make_set([{"image": "4.png", "caption": []}])


def test_a_caption_must_be_a_list(make_set: MakeSet) -> None:
    with pytest.raises(DataError, match=r"test\.json item 0: field 'caption' must be a list of texts, got 'a cat'"):
        make_set([{"image": "4.png", "caption": "a cat"}])
