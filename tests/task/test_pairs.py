"""Pairs of pictures and texts to train on, and the pictures and texts of a retrieval test file."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from elip.data.annotations import load_annotations
from elip.data.datasets import EvalDataset, PictureLoader, collate_samples
from elip.data.ids import image_number
from elip.data.images import ImageFolder
from elip.data.transforms import EvalTransform
from elip.errors import DataError
from elip.task.pairs import (
    Captioned,
    CaptionedItem,
    Pair,
    draw_caption,
    image_sample,
    pair_sample,
    pair_texts,
    read_captioned,
    texts_of,
)
from tests.conftest import WriteJson

MakeSet = Callable[[list[dict[str, Any]]], EvalDataset[Captioned]]


@pytest.fixture
def make_set(write_json: WriteJson, image_root: Path) -> MakeSet:
    def make(items: list[dict[str, Any]]) -> EvalDataset[Captioned]:
        annotations = load_annotations([write_json(items, "test.json")], CaptionedItem)
        examples = read_captioned(annotations, image_root, max_words=3)
        return EvalDataset(examples, image_sample, ImageFolder(image_root), EvalTransform(8), annotations.where)

    return make


ITEMS = [
    {"image": "4.png", "caption": ["A cat.", "One cat on a mat"]},
    {"image": "1.png", "caption": ["A dog!"]},
    {"image": "7.png", "caption": ["X", "Y", "Z"]},
]


def test_texts_and_pictures_know_each_other(make_set: MakeSet) -> None:
    texts = texts_of(make_set(ITEMS).examples)
    assert texts.text_to_image == [0, 0, 1, 2, 2, 2]
    assert texts.image_to_texts == [[0, 1], [2], [3, 4, 5]]


def test_texts_are_cleaned_and_cut(make_set: MakeSet) -> None:
    texts = texts_of(make_set(ITEMS).examples)
    assert texts.captions == ["a cat", "one cat on", "a dog", "x", "y", "z"]


def test_pictures_are_those_of_the_items_in_their_order(make_set: MakeSet, image_root: Path) -> None:
    loader = DataLoader(make_set(ITEMS), batch_size=3, collate_fn=collate_samples)
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
    images = make_set([*ITEMS, {"image": "44.png", "caption": ["a"]}])
    with pytest.raises(DataError, match=r"test\.json item 3: field 'image': .*44\.png: no such file"):
        images[3]


def test_an_empty_caption_is_refused_at_once(make_set: MakeSet) -> None:
    with pytest.raises(DataError, match=r"test\.json item 0: field 'caption' is empty after cleaning: '\.\.\.'"):
        make_set([{"image": "4.png", "caption": ["a cat", "..."]}])
    with pytest.raises(DataError, match=r"test\.json item 0: field 'caption' is an empty list"):
        make_set([{"image": "4.png", "caption": []}])


def test_a_caption_must_be_a_list(make_set: MakeSet) -> None:
    with pytest.raises(DataError, match=r"test\.json item 0: field 'caption' must be a list of texts, got 'a cat'"):
        make_set([{"image": "4.png", "caption": "a cat"}])


PLAIN = PictureLoader(lambda name, _field: Image.new("RGB", (2, 2), int(name)), lambda image: torch.tensor(image.size))


def sample(pair: Pair, **options: Any) -> dict[str, Any]:
    return pair_sample(pair, PLAIN, random.Random(0), read=lambda item: item, max_words=2, **options)


def test_a_pair_gives_its_picture_and_clean_caption() -> None:
    assert sample(Pair("3", "A red, old CAT"))["caption"] == "a red"
    assert sample(Pair("3", "A cat")).keys() == {"image", "caption"}


def test_all_captions_of_a_pair_are_its_texts() -> None:
    assert pair_texts(Pair("3", "A cat!"), read=lambda item: item, max_words=9) == ["a cat"]
    assert pair_texts(Pair("3", ["A cat!", "Two"]), read=lambda item: item, max_words=9) == ["a cat", "two"]


def test_an_id_is_that_of_the_item_or_the_path_of_its_picture_in_one_spelling() -> None:
    given, paths = sample(Pair("3", "a", "x7"), root="r"), [sample(Pair("3", "a"), root=root) for root in ("r", "r/")]
    assert given["image_id"] == image_number("x7")
    assert paths[0]["image_id"] == paths[1]["image_id"] == image_number("r/3")


@pytest.mark.parametrize("caption", ["", []])
def test_a_pair_without_caption_is_refused_by_its_field(caption: Any) -> None:
    with pytest.raises(DataError, match=rf"field 'text' is empty: {re.escape(repr(caption))}"):
        draw_caption(Pair("3", caption, field="text"), random.Random(0), 30)
    with pytest.raises(DataError, match="field 'text' is empty after cleaning: '!'"):
        draw_caption(Pair("3", ["!"], field="text"), random.Random(0), 30)
