"""Grounding's data: what a text refers to, over three files, and each way in which they can be wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elip.data.annotations import load_annotations
from elip.data.grounding import GroundingEvalItem, GroundingEvalSet, GroundingItem, RefData
from elip.data.images import ImageFolder
from elip.data.transforms import EvalTransform
from elip.errors import DataError
from tests.data.conftest import WriteJson

ITEM = {"image": "a.png", "text": "The red one.", "ref_id": 7}
REF = {"ref_id": 7, "ann_id": 3, "image_id": 5, "split": "testA"}
INSTANCES = {
    "images": [{"id": 5, "height": 20, "width": 30}],
    "annotations": [{"id": 3, "bbox": [1, 2, 3, 4]}],
}
DETECTIONS = {"5": [[1, 2, 3, 4], [9, 9, 5, 5]]}


def make(tmp_path: Path, write_json: WriteJson, **changes: Any) -> GroundingEvalSet:
    """Return the set of one text, some of its files changed."""
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    given = {"items": [ITEM], "refs": [REF], "instances": INSTANCES, "detections": DETECTIONS, **changes}
    paths = {name: write_json(json.dumps(content), f"{name}.json") for name, content in given.items()}
    annotations = load_annotations([paths.pop("items")], GroundingEvalItem)
    return GroundingEvalSet(annotations, RefData(**paths), ImageFolder(tmp_path), EvalTransform(16))


def test_a_text_comes_with_its_picture_and_all_that_scores_it(tmp_path: Path, write_json: WriteJson) -> None:
    data = make(tmp_path, write_json)
    assert len(data) == 1
    assert data[0]["caption"] == "the red one"
    assert data[0]["image"].shape == (3, 16, 16)
    (target,) = data.targets
    assert target == ("testA", (20, 30), [1, 2, 3, 4], [[1, 2, 3, 4], [9, 9, 5, 5]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": [{**ITEM, "ref_id": 8}]}, r"items.json item 0: field 'ref_id': .*refs.json has no reference 8"),
        ({"items": [{"image": "a.png", "text": "x"}]}, r"item 0: .*'ref_id'.*missing|item 0: .*missing.*'ref_id'"),
        ({"items": [{**ITEM, "text": "!"}]}, r"item 0: field 'text'"),
        ({"items": [{**ITEM, "image": 3}]}, r"item 0: field 'image' must be text, got 3"),
        ({"refs": [{**REF, "ann_id": 4}]}, r"instances.json has no annotation 4"),
        ({"refs": [{**REF, "image_id": 6}]}, r"detections.json has no picture 6"),
        ({"refs": [{"ref_id": 7}]}, r"refs.json.*ann_id"),
        ({"detections": {"5": []}}, r"detections.json has no box in picture 5"),
        ({"detections": {"5": [[1, 2, 3]]}}, r"detections.json: a box in picture 5 must be a list of 4 numbers"),
        ({"detections": {"5": [[1, 2, "x", 4]]}}, r"detections.json: entry '5' must be a list of lists, got \[\[1, 2"),
        ({"detections": {"5": "none"}}, r"detections.json: entry '5' must be a list of lists, got 'none'"),
        ({"instances": {**INSTANCES, "annotations": [{"id": 3}]}}, r"'annotations' item 0: field 'bbox' is missing"),
        ({"instances": {**INSTANCES, "images": ["a"]}}, r"field 'images' item 0: must be an object {...}, got 'a'"),
        ({"detections": {"6": [[1, 2, 3, 4]]}}, r"detections.json has no picture 5"),
        ({"instances": {**INSTANCES, "images": []}}, r"instances.json has no picture 5"),
        ({"instances": {"images": []}}, r"instances.json.*annotations"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(
    tmp_path: Path, write_json: WriteJson, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path, write_json, **changes)


def test_what_a_detector_says_beside_a_box_is_passed_over(tmp_path: Path, write_json: WriteJson) -> None:
    (target,) = make(tmp_path, write_json, detections={"5": [[1, 2, 3, 4, 0.9, 17]]}).targets
    assert target.detections == [[1, 2, 3, 4]]


def test_a_training_item_needs_no_reference(write_json: WriteJson) -> None:
    assert len(load_annotations([write_json([{"image": "a.png", "text": "x"}])], GroundingItem)) == 1
    with pytest.raises(DataError, match="'text'"):
        load_annotations([write_json([{"image": "a.png"}], "other.json")], GroundingItem)
