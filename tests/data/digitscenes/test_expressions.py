import re
from collections.abc import Sequence

import pytest

from elip.data.digitscenes.draw import Picture, draw
from elip.data.digitscenes.expressions import detection_file, expressions, grounding_split
from elip.data.digitscenes.handwriting import Handwriting
from elip.data.digitscenes.scene import Scene, sample_scenes
from tests.data.digitscenes.reading import PLACE, read_facts, the_one


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


@pytest.fixture(scope="module")
def pictures(scenes: list[Scene], handwriting: Handwriting) -> list[Picture]:
    return [Picture(scene, draw(scene, 64, handwriting)[1]) for scene in scenes[:80]]


def test_an_expression_fits_its_digit_and_no_other(scenes: list[Scene]) -> None:
    for scene in scenes:
        for digit, texts in zip(scene.digits, expressions(scene), strict=True):
            assert all(the_one(scene, text) == digit for text in texts)


def test_each_digit_has_three_different_expressions(scenes: list[Scene]) -> None:
    assert all(len(set(texts)) == 3 for scene in scenes for texts in expressions(scene))


def test_places_are_told_only_where_colour_and_value_fall_short(scenes: list[Scene]) -> None:
    for scene in scenes:
        looks = [(digit.colour, digit.value) for digit in scene.digits]
        for look, texts in zip(looks, expressions(scene), strict=True):
            assert all(bool(re.search(PLACE, text)) == (looks.count(look) > 1) for text in texts)


def test_expressions_tell_colours_values_or_both(scenes: list[Scene]) -> None:
    told = {tuple(sorted(read_facts(text))) for scene in scenes for texts in expressions(scene) for text in texts}
    assert {("colour",), ("value",), ("colour", "value"), ("cell",)} <= told


def test_detections_cover_each_digit_and_add_two_boxes_of_paper(pictures: list[Picture]) -> None:
    detections = detection_file(pictures, 64)
    for picture in pictures:
        found = detections[str(picture.scene.image_id)]
        best = [max(iou(box, digit) for digit in picture.boxes) for box in found]
        assert len(found) == len(picture.boxes) + 2
        assert sum(overlap > 0.6 for overlap in best) == len(picture.boxes)
        assert sum(overlap <= 0.31 for overlap in best) == 2


def test_detections_lie_in_the_picture_and_are_a_little_off(pictures: list[Picture]) -> None:
    exact = 0
    for picture in pictures:
        for x, y, width, height in detection_file([picture], 64)[str(picture.scene.image_id)]:
            assert min(x, y) >= 0
            assert min(width, height) > 0
            assert max(x + width, y + height) <= 64.01
            exact += [x, y, width, height] in picture.boxes
    assert exact == 0


def test_test_pictures_are_divided_into_test_a_and_test_b(handwriting: Handwriting) -> None:
    splits = [grounding_split(scene) for scene in sample_scenes("test", 4, 0, handwriting)]
    assert sorted(splits) == ["testA", "testA", "testB", "testB"]
