"""Grounding's data: what a text refers to, over three files, and each way in which they can be wrong."""

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elip.data.annotations import load_annotations
from elip.data.datasets import EvalDataset
from elip.data.images import ImageFolder
from elip.data.transforms import EvalTransform
from elip.errors import DataError
from tasks.grounding.data import Expression, GroundingEvalItem, GroundingItem, RefData, Target, grounding_set
from tests.conftest import WriteJson

ITEM = {"image": "a.png", "text": "The red one.", "ref_id": 7}
REF = {"ref_id": 7, "ann_id": 3, "image_id": 5, "split": "testA"}
INSTANCES: dict[str, list[Any]] = {
    "images": [{"id": 5, "height": 20, "width": 30}],
    "annotations": [{"id": 3, "bbox": [1, 2, 3, 4]}],
}
DETECTIONS = {"5": [[1, 2, 3, 4], [9, 9, 5, 5]]}


def make(tmp_path: Path, write_json: WriteJson, **changes: Any) -> EvalDataset[Expression]:
    """Return the set of one text, some of its files changed."""
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    given = {"items": [ITEM], "refs": [REF], "instances": INSTANCES, "detections": DETECTIONS, **changes}
    paths = {name: write_json(json.dumps(content), f"{name}.json") for name, content in given.items()}
    annotations = load_annotations([paths.pop("items")], GroundingEvalItem)
    return grounding_set(annotations, RefData(**paths), ImageFolder(tmp_path), EvalTransform(16))


def test_a_text_comes_with_its_picture_and_all_that_scores_it(tmp_path: Path, write_json: WriteJson) -> None:
    data = make(tmp_path, write_json)
    assert len(data) == 1
    assert data[0]["caption"] == "the red one"
    assert data[0]["image"].shape == (3, 16, 16)
    (target,) = targets_of(data)
    assert target == ("testA", (20, 30), [1, 2, 3, 4], [[1, 2, 3, 4], [9, 9, 5, 5]])


def targets_of(data: EvalDataset[Expression]) -> list[Target]:
    return [example.target for example in data.examples]


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
        (
            {"detections": {"5": [[1, 2, "x", 4]]}},
            r"entry '5' must be a list of lists, got \[\[1, 2.* \[0\]\[2\] must be a number, not 'x'",
        ),
        ({"detections": {"5": [[1, 2, 3, 4], [1, 2, 3]]}}, r"a box in picture 5 must be a list of 4 numbers"),
        ({"instances": {**INSTANCES, "annotations": [{"id": 3, "bbox": [1, 2, 3]}]}}, "must be a list of 4 numbers"),
        (
            {"detections": {"5": [[-9, 0, 9, 9], [30, 0, 5, 5]]}},
            r"no box in picture 5 has an area on its 30 x 20 pixels",
        ),
        ({"refs": [REF, {**REF, "ann_id": 4}]}, r"refs.json: reference 7 comes twice, as .*'ann_id': 3.*'ann_id': 4"),
        (
            {"instances": {**INSTANCES, "images": [*INSTANCES["images"], {"id": 5, "height": 30, "width": 20}]}},
            r"instances.json: picture 5 comes twice, as \(20, 30\) and as \(30, 20\)",
        ),
        (
            {"instances": {**INSTANCES, "annotations": [*INSTANCES["annotations"], {"id": 3, "bbox": [1, 2, 3, 5]}]}},
            r"instances.json: annotation 3 comes twice",
        ),
        (
            {"instances": {**INSTANCES, "annotations": [{"id": 3, "bbox": [1, 2, 3, 4], "image_id": 6}]}},
            r"refs.json: reference 7 is in picture 5, but its annotation 3 in picture 6 by .*instances.json",
        ),
        (
            {"instances": {**INSTANCES, "images": [{"id": 5, "height": 0, "width": 30}]}},
            r"instances.json: picture 5 cannot be of 30 x 0 pixels",
        ),
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
    (target,) = targets_of(make(tmp_path, write_json, detections={"5": [[1, 2, 3, 4, 0.9, 17]]}))
    assert target.detections == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    "box", [[30, 0, 5, 5], [-5, 0, 5, 5], [1, 2, 0, 4], [9, 2, -3, 4], [nan, 2, 3, 4], [1, 2, 3, inf]]
)
def test_a_true_box_without_area_on_its_picture_is_refused(tmp_path: Path, write_json: WriteJson, box: Any) -> None:
    message = r"item 0: field 'ref_id': .*instances.json: the box of annotation 3, which reference 7 means, has no area"
    with pytest.raises(DataError, match=message):
        make(tmp_path, write_json, instances={**INSTANCES, "annotations": [{"id": 3, "bbox": box}]})


def test_boxes_are_cut_at_the_edges_of_their_picture(tmp_path: Path, write_json: WriteJson) -> None:
    instances = {**INSTANCES, "annotations": [{"id": 3, "bbox": [-1, -2, 3, 4]}]}
    data = make(tmp_path, write_json, instances=instances, detections={"5": [[25, 15, 10, 10]]})
    (target,) = targets_of(data)
    assert (target.box, target.detections) == ([0, 0, 2, 2], [[25, 15, 5, 5]])


def test_detections_without_area_are_passed_over_and_counted_once_a_picture(
    tmp_path: Path, write_json: WriteJson, caplog: pytest.LogCaptureFixture
) -> None:
    detections = {"5": [[40, 0, 5, 5], [1, 2, 3, 4], [nan, 0, 1, 1], [3, 3, 0, 0]]}
    data = make(tmp_path, write_json, items=[ITEM, ITEM], detections=detections)
    assert [target.detections for target in targets_of(data)] == [[[1, 2, 3, 4]]] * 2
    (message,) = caplog.messages
    assert "detections.json: 3 boxes are passed over, as they have no area on their pictures" in message
    assert message.endswith("first is [40.0, 0.0, 5.0, 5.0] (left, top, width, height) in picture 5 of 30 x 20 pixels")


def test_an_id_may_come_again_where_it_says_the_same(tmp_path: Path, write_json: WriteJson) -> None:
    assert len(make(tmp_path, write_json, refs=[REF, {**REF, "sentences": ["a"]}])) == 1


@pytest.mark.parametrize("size", [(30, 20), (15, 10), (60, 41), (300, 200)])
def test_a_scaled_copy_of_the_picture_will_do(tmp_path: Path, write_json: WriteJson, size: tuple[int, int]) -> None:
    data = make(tmp_path, write_json)
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert data[0]["image"].shape == (3, 16, 16)


def test_a_picture_of_another_form_than_its_boxes_are_meant_for_is_refused(
    tmp_path: Path, write_json: WriteJson
) -> None:
    data = make(tmp_path, write_json)
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    message = (
        r"items.json item 0: field 'image': a.png is 20 x 30 pixels, but the boxes of reference 7 are on .*30 x 20"
    )
    with pytest.raises(DataError, match=message):
        data[0]


def test_a_training_item_needs_no_reference(write_json: WriteJson) -> None:
    assert len(load_annotations([write_json([{"image": "a.png", "text": "x"}])], GroundingItem)) == 1
    with pytest.raises(DataError, match="'text'"):
        load_annotations([write_json([{"image": "a.png"}], "other.json")], GroundingItem)
