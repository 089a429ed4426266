import hashlib
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from elip.data.digitscenes import Settings, build, is_built
from elip.data.digitscenes.dataset import FORMAT
from elip.data.digitscenes.draw import draw
from elip.data.digitscenes.handwriting import Handwriting
from elip.data.digitscenes.scene import sample_scenes
from elip.errors import DataError
from tests.data.digitscenes.conftest import SIZES

SMALL: dict[str, Any] = {"num_train": 2, "num_val": 2, "num_test": 2}


def digests(folder: Path) -> dict[str, str]:
    """Return a digest of every file below a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def keys(items: list[dict[str, Any]]) -> set[frozenset[str]]:
    return {frozenset(item) for item in items}


def test_two_builds_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert digests(build(tmp_path / "again", **SIZES)) == digests(folder)


def test_a_smaller_set_is_the_beginning_of_a_larger_one(folder: Path, tmp_path: Path) -> None:
    small = build(tmp_path / "small", **SMALL)
    large = digests(folder)
    assert all(large[name] == digest for name, digest in digests(small).items() if name.endswith((".jpg", "vocab.txt")))
    for name in ("pretrain_train", "retrieval_val", "vqa_train", "ve_test", "nlvr_train", "grounding_train"):
        items = load(small, name)
        assert load(folder, name)[: len(items)] == items


def test_another_seed_gives_other_pictures_and_texts(folder: Path, tmp_path: Path) -> None:
    one, other = digests(folder), digests(build(tmp_path / "other", **SIZES, seed=1))
    assert one["images/val/000000.jpg"] != other["images/val/000000.jpg"]
    assert one["ve_val.json"] != other["ve_val.json"]
    assert one["tokenizer/vocab.txt"] == other["tokenizer/vocab.txt"]


def test_pictures_are_rgb_jpeg_files_of_full_colour_resolution(folder: Path) -> None:
    for split, num in (("train", 12), ("val", 4), ("test", 5)):
        files = sorted((folder / "images" / split).iterdir())
        assert [file.name for file in files] == [f"{index:06d}.jpg" for index in range(num)]
        for file in files:
            with Image.open(file) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
                assert all(layer[1:3] == (1, 1) for layer in vars(image)["layer"])


def test_files_hold_the_drawn_pictures_almost_unchanged(folder: Path, handwriting: Handwriting) -> None:
    for scene in sample_scenes("test", 5, 0, handwriting):
        drawn, _ = draw(scene, 64, handwriting)
        with Image.open(folder / "images" / scene.file) as stored:
            difference = np.asarray(stored, dtype=float) - np.asarray(drawn, dtype=float)
        assert np.abs(difference).mean() < 2.5


def test_texts_do_not_depend_on_the_image_size(folder: Path, tmp_path: Path) -> None:
    small = build(tmp_path / "small", **SIZES, image_size=32)
    with Image.open(small / "images/train/000003.jpg") as image:
        assert image.size == (32, 32)
    for name in ("pretrain_train", "vqa_test", "ve_val", "nlvr_train", "grounding_refs"):
        assert load(small, name) == load(folder, name)
    assert {image["width"] for image in load(small, "grounding_instances")["images"]} == {32}


def test_every_image_named_in_an_annotation_exists(folder: Path) -> None:
    named = set()
    for file in folder.glob("*_*.json"):
        content = json.loads(file.read_text())
        for item in content["images"] if isinstance(content, dict) and "images" in content else content:
            if isinstance(item, dict):
                names = item.get("images", [item.get("image", item.get("file_name"))])
                named |= {name + ".jpg" * file.name.startswith("ve_") for name in names}
    on_disk = {str(file.relative_to(folder / "images")) for file in (folder / "images").rglob("*.jpg")}
    assert named == on_disk


def test_pretraining_items_have_a_list_of_captions(folder: Path) -> None:
    items = load(folder, "pretrain_train")
    assert len(items) == 12
    assert keys(items) == {frozenset({"image", "caption"})}
    assert all(len(item["caption"]) == 5 for item in items)


def test_retrieval_trains_on_single_captions_and_tests_on_lists(folder: Path) -> None:
    items = load(folder, "retrieval_train")
    assert keys(items) == {frozenset({"image", "caption", "image_id"})}
    assert len(items) == 5 * 12
    assert {(item["image_id"], item["image"]) for item in items} == {(i, f"train/{i:06d}.jpg") for i in range(12)}
    assert all(isinstance(item["caption"], str) for item in items)
    for split, num in (("val", 4), ("test", 5)):
        tests = load(folder, f"retrieval_{split}")
        assert keys(tests) == {frozenset({"image", "caption"})}
        assert [len(item["caption"]) for item in tests] == [5] * num


def test_vqa_trains_on_both_kinds_of_items(folder: Path) -> None:
    items = load(folder, "vqa_train")
    assert keys(items) == {frozenset({"dataset", "image", "question", "answer"})}
    lists = [item["answer"] for item in items if item["dataset"] == "vqa"]
    texts = [item["answer"] for item in items if item["dataset"] == "vg"]
    assert all(len(answers) == 10 for answers in lists)
    assert set(texts) <= set(load(folder, "vqa_answer_list"))
    assert (len(lists), len(texts)) == (36, 12)


def test_vqa_test_items_have_ids_of_their_own_and_ten_answers(folder: Path) -> None:
    items = load(folder, "vqa_val") + load(folder, "vqa_test")
    assert keys(items) == {frozenset({"question_id", "image", "question", "answer"})}
    assert len({item["question_id"] for item in items}) == len(items) == 4 * (4 + 5)
    assert all(len(item["answer"]) == 10 for item in items)


@pytest.mark.parametrize(("split", "num"), [("train", 12), ("val", 4), ("test", 5)])
def test_entailment_items_are_balanced(folder: Path, split: str, num: int) -> None:
    items = load(folder, f"ve_{split}")
    assert keys(items) == {frozenset({"image", "sentence", "label"})}
    labels = [item["label"] for item in items]
    assert {name: labels.count(name) for name in set(labels)} == {
        "entailment": num,
        "neutral": num,
        "contradiction": num,
    }


@pytest.mark.parametrize(("split", "num"), [("train", 12), ("val", 4), ("test", 5)])
def test_two_image_items_are_balanced(folder: Path, split: str, num: int) -> None:
    items = load(folder, f"nlvr_{split}")
    assert keys(items) == {frozenset({"images", "sentence", "label"})}
    labels = [item["label"] for item in items]
    assert labels.count("True") == labels.count("False") == 2 * (num - 1)
    assert all(len(set(item["images"])) == 2 for item in items)


def test_grounding_items_point_to_references_of_their_picture_and_split(folder: Path) -> None:
    assert keys(load(folder, "grounding_train")) == {frozenset({"image", "text"})}
    references = {reference["ref_id"]: reference for reference in load(folder, "grounding_refs")}
    for split in ("val", "testA", "testB"):
        items = load(folder, f"grounding_{split}")
        assert keys(items) == {frozenset({"image", "text", "ref_id"})}
        for item in items:
            reference = references[item["ref_id"]]
            assert (reference["split"], reference["file_name"]) == (split, item["image"])
            assert item["text"] in [sentence["sent"] for sentence in reference["sentences"]]


def test_references_annotations_images_and_detections_belong_together(folder: Path) -> None:
    references, instances = load(folder, "grounding_refs"), load(folder, "grounding_instances")
    detections = load(folder, "grounding_detections")
    images = {image["id"]: image for image in instances["images"]}
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    assert keys(references) == {frozenset({"ref_id", "ann_id", "image_id", "split", "file_name", "sentences"})}
    assert keys(instances["images"]) == {frozenset({"id", "file_name", "height", "width"})}
    assert keys(instances["annotations"]) == {frozenset({"id", "image_id", "bbox", "category_id"})}
    assert len(references) == len(annotations) == len({reference["ref_id"] for reference in references})
    assert set(detections) == {str(number) for number in images}
    assert len(images) == 12 + 4 + 5
    for reference in references:
        assert annotations[reference["ann_id"]]["image_id"] == reference["image_id"]
        assert images[reference["image_id"]]["file_name"] == reference["file_name"]


def test_meta_tells_settings_and_counts_and_that_all_is_there(folder: Path) -> None:
    meta = load(folder, "meta")
    assert meta["finished"] is True
    assert meta["settings"] == {**SIZES, "image_size": 64, "seed": 0, "format": FORMAT}
    assert meta["items"]["retrieval_train.json"] == 60
    assert set(meta["items"]) < {file.name for file in folder.glob("*.json")}


def test_a_finished_set_of_the_same_settings_is_left_alone(tmp_path: Path) -> None:
    build(tmp_path, **SMALL)
    (tmp_path / "ve_val.json").write_text("changed")
    assert is_built(tmp_path, Settings(**SMALL))
    build(tmp_path, **SMALL)
    assert (tmp_path / "ve_val.json").read_text() == "changed"


def test_force_makes_the_same_set_again(tmp_path: Path) -> None:
    build(tmp_path, **SMALL)
    (tmp_path / "ve_val.json").write_text("changed")
    build(tmp_path, **SMALL, force=True)
    assert len(load(tmp_path, "ve_val")) == 6


def test_other_settings_are_refused_and_told(tmp_path: Path) -> None:
    build(tmp_path, **SMALL)
    before = digests(tmp_path)
    with pytest.raises(DataError, match=r"other settings \(num_val: 2 there, 3 asked for\).*--force"):
        build(tmp_path, **{**SMALL, "num_val": 3})
    assert digests(tmp_path) == before


@pytest.mark.parametrize("there", [0, 1])
def test_other_clutter_is_other_settings(there: int, tmp_path: Path) -> None:
    build(tmp_path, **SMALL, clutter=there)
    with pytest.raises(DataError, match=rf"\(clutter: {there} there, {1 - there} asked for\)"):
        build(tmp_path, **SMALL, clutter=1 - there)
    assert is_built(tmp_path, Settings(**SMALL, clutter=there))


def test_meta_tells_of_clutter_where_there_is_any(tmp_path: Path) -> None:
    assert load(build(tmp_path, **SMALL, clutter=2), "meta")["settings"]["clutter"] == 2


def test_a_set_without_clutter_stays_what_it_was(folder: Path, handwriting: Handwriting) -> None:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.json")):
        digest.update(file.read_bytes())
    for scene in sample_scenes("train", 12, 0, handwriting):  # before Pillow's JPEG encoder, which may change
        digest.update(draw(scene, 64, handwriting)[0].tobytes())
    assert digest.hexdigest() == "84ef20c1b1c48309980434a5b7e140ddea838f0cf29e8b277a6b67e43b6a958f"


def test_force_replaces_a_larger_set_without_leaving_its_pictures(tmp_path: Path) -> None:
    build(tmp_path / "set", **{**SMALL, "num_val": 3})
    build(tmp_path / "set", **SMALL, force=True)
    assert digests(tmp_path / "set") == digests(build(tmp_path / "fresh", **SMALL))


def test_a_set_that_was_interrupted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("elip.data.digitscenes.dataset.write_tokenizer", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "set", **{**SMALL, "num_train": 3})
    assert load(tmp_path / "set", "meta")["finished"] is False
    build(tmp_path / "set", **SMALL)
    assert digests(tmp_path / "set") == digests(build(tmp_path / "fresh", **SMALL))


def test_a_set_that_failed_at_its_first_file_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "meta.json.01234567.part").write_text("{")
    assert is_built(build(tmp_path, **SMALL), Settings(**SMALL))


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_other_things_is_never_touched(tmp_path: Path, force: bool) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="no DigitScenes folder: choose a new or an empty folder"):
        build(tmp_path, **SMALL, force=force)
    assert digests(tmp_path).keys() == {"images/holiday.jpg"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train": 1}, "num_train must be between 2 and 1000000, got 1"),
        ({"num_test": 10_000_000}, "num_test must be between 2 and 1000000, got 10000000"),
        ({"image_size": 31}, "image_size must be between 32 and 4096, got 31"),
        ({"image_size": 63, "clutter": 1}, "image_size must be between 64 and 4096, got 63"),
        ({"clutter": 3}, "clutter must be between 0 and 2, got 3"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_made(
    change: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        build(tmp_path / "set", **{**SMALL, **change})
    assert not (tmp_path / "set").exists()
