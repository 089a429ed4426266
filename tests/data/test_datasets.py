"""Training samples and batches."""

import pickle
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from elip.data.annotations import load_annotations
from elip.data.datasets import (
    EvalDataset,
    PictureLoader,
    Sample,
    SampleKey,
    TrainDataset,
    collate_samples,
    read_examples,
    sample_rng,
)
from elip.data.images import ImageFolder
from elip.data.shards import PairItem
from elip.data.transforms import EvalTransform, TrainTransform
from elip.errors import DataError
from elip.task.pairs import pair_sample, pair_texts, read_pair
from tests.conftest import WriteJson
from tests.data.conftest import WholePicture

SIZE = 8
MakeDataset = Callable[..., TrainDataset[PairItem]]


@pytest.fixture
def make_dataset(write_json: WriteJson, image_root: Path) -> MakeDataset:
    """Builds a training set of pairs from items, under augmentation."""

    def make(
        items: list[dict[str, Any]], seed: int = 0, max_words: int = 30, skip_broken: bool = False
    ) -> TrainDataset[PairItem]:
        return TrainDataset(
            load_annotations([write_json(items)], PairItem),
            partial(pair_sample, read=read_pair, max_words=max_words),
            ImageFolder(image_root),
            TrainTransform(SIZE),
            seed,
            texts=partial(pair_texts, read=read_pair, max_words=max_words),
            skip_broken=skip_broken,
        )

    return make


@pytest.fixture
def items() -> list[dict[str, Any]]:
    """Ten sound items with three captions each."""
    return [{"image": f"{i}.png", "caption": [f"One: {i}", f"Two: {i}", f"Three: {i}"]} for i in range(10)]


def assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


def test_a_sample_holds_image_clean_caption_and_index(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([{"image": "3.png", "caption": "A Cat, asleep!"}])
    sample = dataset[SampleKey(0, 0)]
    assert (sample["image"].shape, sample["image"].dtype) == ((3, SIZE, SIZE), torch.float32)
    assert (sample["caption"], sample["index"], sample["skipped"]) == ("a cat asleep", 0, [])
    assert len(dataset) == 1


def test_captions_are_cut_to_max_words(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([{"image": "3.png", "caption": "one two three"}], max_words=2)
    assert dataset[SampleKey(0, 0)]["caption"] == "one two"


def test_an_absolute_path_needs_no_image_root(make_dataset: MakeDataset, image_root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "elsewhere.png")
    make_dataset([{"image": str(tmp_path / "elsewhere.png"), "caption": "a"}])[SampleKey(0, 0)]


def test_a_visit_gives_the_same_sample_whatever_was_visited_before(
    make_dataset: MakeDataset, items: list[dict[str, Any]]
) -> None:
    one, other = make_dataset(items), make_dataset(items)
    for index in range(9, -1, -1):
        other[SampleKey(2, index)]
    for index in range(10):
        assert_same(one[SampleKey(1, index)], other[SampleKey(1, index)])


def test_each_epoch_and_seed_sees_an_item_differently(make_dataset: MakeDataset, items: list[dict[str, Any]]) -> None:
    dataset, reseeded = make_dataset(items), make_dataset(items, seed=1)
    first, later, other = dataset[SampleKey(0, 0)], dataset[SampleKey(1, 0)], reseeded[SampleKey(0, 0)]
    assert not torch.equal(first["image"], later["image"])
    assert not torch.equal(first["image"], other["image"])


def test_items_with_the_same_picture_are_augmented_differently(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([{"image": "3.png", "caption": "a"}] * 2)
    assert not torch.equal(dataset[SampleKey(0, 0)]["image"], dataset[SampleKey(0, 1)]["image"])


def test_every_caption_of_a_list_is_drawn_at_some_visit(make_dataset: MakeDataset, items: list[dict[str, Any]]) -> None:
    dataset = make_dataset(items)
    drawn = {dataset[SampleKey(epoch, 4)]["caption"] for epoch in range(30)}
    assert drawn == {"one 4", "two 4", "three 4"}


def test_samples_do_not_depend_on_the_number_of_loader_processes(
    make_dataset: MakeDataset, items: list[dict[str, Any]]
) -> None:
    items[4]["image"] = "missing.png"
    keys = [SampleKey(epoch, index) for epoch in range(2) for index in (3, 1, 4, 9, 5, 0)]

    def batches(num_workers: int) -> list[dict[str, Any]]:
        dataset = make_dataset(items, skip_broken=True)
        return list(
            DataLoader(dataset, batch_size=3, sampler=keys, num_workers=num_workers, collate_fn=collate_samples)
        )

    alone, shared = batches(0), batches(2)
    assert len(alone) == len(shared) == 4
    for one, other in zip(alone, shared, strict=True):
        assert_same(one, other)


def test_loading_leaves_the_global_random_states_alone(
    make_dataset: MakeDataset, items: list[dict[str, Any]], random_states: Callable[[], bytes]
) -> None:
    dataset = make_dataset(items)
    before = random_states()
    for index in range(10):
        dataset[SampleKey(0, index)]
    assert random_states() == before


def test_a_data_set_is_small_to_hand_over(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([{"image": "3.png", "caption": "a cat"}] * 5000)
    handed_over = pickle.dumps(dataset)
    assert len(handed_over) < 2000
    assert_same(pickle.loads(handed_over)[SampleKey(0, 7)], dataset[SampleKey(0, 7)])


def break_missing(image_root: Path) -> dict[str, Any]:
    return {"image": "33.png", "caption": "a cat"}


def break_truncated(image_root: Path) -> dict[str, Any]:
    path = image_root / "3.png"
    path.write_bytes(path.read_bytes()[:150])
    return {"image": "3.png", "caption": "a cat"}


def break_format(image_root: Path) -> dict[str, Any]:
    (image_root / "3.png").write_text("<html>")
    return {"image": "3.png", "caption": "a cat"}


def break_caption(image_root: Path) -> dict[str, Any]:
    return {"image": "3.png", "caption": ["?!"]}


def break_captions(image_root: Path) -> dict[str, Any]:
    return {"image": "3.png", "caption": []}


BREAKS = [
    (break_missing, r"items\.json item 1: field 'image': .*33\.png: no such file in .*Did you mean '3\.png'"),
    (break_truncated, r"items\.json item 1: field 'image': .*3\.png: the image is cut short or damaged"),
    (break_format, r"items\.json item 1: field 'image': .*3\.png: not an image"),
    (break_caption, r"items\.json item 1: field 'caption' is empty after cleaning: '\?!'"),
    (break_captions, r"items\.json item 1: field 'caption' is empty: \[\]"),
]


@pytest.mark.parametrize(("make_broken", "message"), BREAKS)
def test_a_broken_item_stops_training_with_file_item_and_field(
    make_dataset: MakeDataset, image_root: Path, make_broken: Callable[[Path], dict[str, Any]], message: str
) -> None:
    dataset = make_dataset([{"image": "0.png", "caption": "a dog"}, make_broken(image_root)])
    dataset[SampleKey(0, 0)]
    with pytest.raises(DataError, match=message):
        dataset[SampleKey(0, 1)]


@pytest.mark.parametrize(("make_broken", "message"), BREAKS)
def test_a_broken_item_is_stood_in_for_and_reported_where_that_is_allowed(
    make_dataset: MakeDataset, image_root: Path, make_broken: Callable[[Path], dict[str, Any]], message: str
) -> None:
    items = [{"image": "0.png", "caption": "a dog"}, make_broken(image_root), {"image": "1.png", "caption": "a dog"}]
    dataset = make_dataset(items, skip_broken=True)
    sample = dataset[SampleKey(0, 1)]
    assert sample["caption"] == "a dog"
    assert sample["index"] in (0, 2)
    assert sample["skipped"]
    with pytest.raises(DataError, match=message):
        raise DataError(sample["skipped"][0])
    assert_same(sample, dataset[SampleKey(0, 1)])


def test_a_broken_item_is_stood_in_for_by_different_items_at_different_visits(
    make_dataset: MakeDataset, items: list[dict[str, Any]]
) -> None:
    items[0]["image"] = "missing.png"
    dataset = make_dataset(items, skip_broken=True)
    assert len({dataset[SampleKey(epoch, 0)]["index"] for epoch in range(10)}) > 2


def test_a_set_of_broken_items_stops_in_spite_of_skipping(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([{"image": f"missing{i}.png", "caption": "a"} for i in range(3)], skip_broken=True)
    with pytest.raises(DataError, match=r"20 items drawn one after the other are broken; the last: .*missing\d\.png"):
        dataset[SampleKey(0, 0)]


def test_a_task_states_its_own_samples_in_one_function(write_json: WriteJson, image_root: Path) -> None:
    def two_views(item: PairItem, pictures: PictureLoader, rng: random.Random) -> Sample:
        return {"left": pictures.load(item["image"]), "right": pictures.load(item["image"]), "drawn": rng.random()}

    annotations = load_annotations([write_json([{"image": "0.png", "caption": ""}])], PairItem)
    dataset = TrainDataset(annotations, two_views, ImageFolder(image_root), TrainTransform(SIZE), seed=0)
    sample = dataset[SampleKey(0, 0)]
    assert not torch.equal(sample["left"], sample["right"])
    assert sample.keys() == {"left", "right", "drawn", "index", "skipped"}
    assert list(dataset.sample_texts(9)) == []


def test_images_are_those_that_the_items_name(write_json: WriteJson, image_root: Path) -> None:
    def picture(item: PairItem, pictures: PictureLoader, _rng: random.Random) -> Sample:
        return {"image": pictures.load(item["image"])}

    items = [{"image": f"{i}.png", "caption": ""} for i in (5, 2)]
    annotations = load_annotations([write_json(items)], PairItem)
    dataset = TrainDataset(annotations, picture, ImageFolder(image_root), WholePicture(SIZE), seed=0)
    for index, name in enumerate(("5.png", "2.png")):
        assert torch.equal(dataset[SampleKey(0, index)]["image"], EvalTransform(SIZE)(Image.open(image_root / name)))


def test_a_loader_opens_pictures_as_they_are_beside_loading_its_view_of_them(
    write_json: WriteJson, image_root: Path
) -> None:
    def picture(item: PairItem, pictures: PictureLoader, _rng: random.Random) -> Sample:
        return {"image": pictures.load(item["image"]), "size": pictures.open(item["image"], "image").size}

    annotations = load_annotations([write_json([{"image": "5.png", "caption": ""}])], PairItem)
    sample = TrainDataset(annotations, picture, ImageFolder(image_root), TrainTransform(SIZE), 0)[SampleKey(0, 0)]
    assert (sample["image"].shape, sample["size"]) == ((3, SIZE, SIZE), (12, 10))


def shown(example: str, pictures: PictureLoader) -> Sample:
    return {"image": pictures.load(example, "picture"), "size": pictures.open(example, "picture").size}


def test_evaluation_shows_each_example_as_it_is(image_root: Path) -> None:
    dataset = EvalDataset(["5.png", "2.png"], shown, ImageFolder(image_root), EvalTransform(SIZE))
    assert len(dataset) == 2
    for index, name in enumerate(dataset.examples):
        sample = dataset[index]
        assert torch.equal(sample["image"], EvalTransform(SIZE)(Image.open(image_root / name)))
        assert (sample["size"], sample["index"]) == ((12, 10), index)
    assert_same(pickle.loads(pickle.dumps(dataset))[1], dataset[1])


def test_evaluation_passes_over_nothing_and_says_where_it_stopped(image_root: Path) -> None:
    dataset = EvalDataset(
        ["1.png", "11.png"], shown, ImageFolder(image_root), EvalTransform(SIZE), "file item {}".format
    )
    with pytest.raises(DataError, match=r"^file item 1: field 'picture': .*11\.png: no such file"):
        dataset[1]


def test_reading_all_examples_names_the_item_that_is_broken(write_json: WriteJson) -> None:
    def read(item: PairItem) -> str:
        if item["caption"] == "!":
            raise DataError("field 'caption' is loud")
        return item["image"]

    annotations = load_annotations([write_json([{"image": f"{i}.png", "caption": "?!"[i]} for i in (0, 1)])], PairItem)
    with pytest.raises(DataError, match=r"items\.json item 1: field 'caption' is loud"):
        read_examples(annotations, read)


@given(st.integers(), st.integers(0, 99), st.integers(0, 99))
def test_neighbouring_visits_draw_unrelated_numbers(seed: int, epoch: int, index: int) -> None:
    draws = {sample_rng(s, e, i).random() for s in (seed, seed + 1) for e in (epoch, epoch + 1) for i in (index, 100)}
    assert len(draws) == 8
    assert sample_rng(seed, epoch, index).random() in draws


def test_texts_are_sampled_over_the_whole_set_without_a_picture(make_dataset: MakeDataset) -> None:
    items = [{"image": "none.png", "caption": [f"No. {i}!", f"{i} again"] if i % 2 else "?!"} for i in range(100)]
    found = list(make_dataset(items).sample_texts(20))
    assert [one.text for one in found[:4]] == ["no 5", "5 again", "no 15", "15 again"]
    assert len(found) == 20  # every other one has no words, and is passed over
    assert found[-1].where.endswith("items.json item 95")


def test_a_batch_stacks_tensors_and_numbers_and_lists_the_rest() -> None:
    samples = [
        {"image": torch.full((2,), float(i)), "caption": f"c{i}", "index": i, "weight": i / 2, "skipped": ["x"] * i}
        for i in range(3)
    ]
    batch = collate_samples(samples)
    assert batch["image"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert batch["caption"] == ["c0", "c1", "c2"]
    assert (batch["index"].tolist(), batch["index"].dtype) == ([0, 1, 2], torch.long)
    assert batch["weight"].tolist() == [0, 0.5, 1]
    assert batch["skipped"] == ["x", "x", "x"]
