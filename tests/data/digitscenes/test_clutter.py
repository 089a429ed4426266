import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elip.data.digitscenes import build
from elip.data.digitscenes.captions import captions
from elip.data.digitscenes.clutter import LEVELS, Shape, sample_shapes
from elip.data.digitscenes.draw import INKS, Picture, draw
from elip.data.digitscenes.expressions import detection_file
from elip.data.digitscenes.handwriting import Handwriting
from elip.data.digitscenes.scene import Scene, sample_scenes
from tests.data.digitscenes.conftest import SIZES
from tests.data.digitscenes.test_captions import read_caption
from tests.data.digitscenes.test_draw import inked
from tests.data.digitscenes.test_expressions import iou

FORMS = ("disc", "ring", "half", "square", "frame", "triangle", "cross", "bar")
ONLY_BOXES = {"meta.json", "grounding_instances.json", "grounding_detections.json"}


def shape(form: str = "disc", centre: tuple[float, float] = (0.5, 0.5), radius: float = 0.25) -> Shape:
    return Shape(form, (130, 130, 130), centre, radius, (0.8, 0.6))


def test_clutter_changes_pictures_and_boxes_and_no_text(folder: Path, tmp_path: Path) -> None:
    cluttered = build(tmp_path / "set", **SIZES, clutter=1)
    for file in sorted(folder.glob("*.json")):
        assert ((cluttered / file.name).read_bytes() == file.read_bytes()) == (file.name not in ONLY_BOXES), file.name
    for file in sorted((folder / "images").rglob("*.jpg")):
        assert (cluttered / file.relative_to(folder)).read_bytes() != file.read_bytes()


def test_what_a_scene_shows_is_the_same_with_clutter(scenes: list[Scene], cluttered: list[Scene]) -> None:
    for plain, scene in zip(scenes, cluttered, strict=False):
        assert scene.background == plain.background
        assert [replace(digit, size=1) for digit in scene.digits] == [replace(digit, size=1) for digit in plain.digits]
        assert all(read_caption(text) == scene.content for text in captions(scene))


def test_each_level_has_more_shapes_and_smaller_digits_than_the_one_before(handwriting: Handwriting) -> None:
    shown = [list(sample_scenes("val", 40, 0, handwriting, clutter=level)) for level in range(len(LEVELS))]
    assert not any(scene.shapes for scene in shown[0])
    for less, more in pairwise(shown):
        assert max(len(scene.shapes) for scene in less) < min(len(scene.shapes) for scene in more)
        assert min(d.size for scene in less for d in scene.digits) > max(d.size for scene in more for d in scene.digits)


def test_shapes_do_not_depend_on_how_many_pictures_there_are(cluttered: list[Scene], handwriting: Handwriting) -> None:
    level = next(level for level, clutter in enumerate(LEVELS) if len(cluttered[0].shapes) in range(*clutter[0]))
    assert list(sample_scenes("train", 5, 0, handwriting, clutter=level)) == cluttered[:5]
    assert cluttered[0].shapes != cluttered[1].shapes


@pytest.mark.parametrize("size", [64, 96, 100])
def test_boxes_with_clutter_hold_all_ink_and_fit_it_in_the_cell(
    size: int, cluttered: list[Scene], handwriting: Handwriting
) -> None:
    for scene in cluttered[:30]:
        ink, boxes = inked(scene, size, handwriting)
        for digit, (x, y, width, height) in zip(scene.digits, boxes, strict=True):
            assert digit.column * size // 3 <= x <= x + width <= (digit.column + 1) * size // 3
            assert digit.row * size // 3 <= y <= y + height <= (digit.row + 1) * size // 3
            inside = ink[y : y + height, x : x + width]
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            inside[:] = False
        assert not ink.any()


def test_ink_can_be_told_from_shapes_and_has_the_colour_of_the_scene(
    cluttered: list[Scene], handwriting: Handwriting
) -> None:
    names, colours = list(INKS), np.array(list(INKS.values()), dtype=float)
    for scene in cluttered:
        printed, _ = draw(replace(scene, digits=()), 96, handwriting)
        assert np.linalg.norm(np.asarray(printed, dtype=float)[:, :, None] - colours, axis=3).min() > 80
        image, boxes = draw(scene, 96, handwriting)
        for digit, (x, y, width, height) in zip(scene.digits, boxes, strict=True):
            spot = np.asarray(image, dtype=float)[y : y + height, x : x + width].reshape(-1, 1, 3)
            pure, which = np.nonzero(np.abs(spot - colours).max(axis=2) < 12)
            assert len(pure) >= 12
            assert {names[index] for index in which} == {digit.colour}


def test_most_of_a_picture_is_not_in_the_box_of_a_digit(cluttered: list[Scene], handwriting: Handwriting) -> None:
    boxes = [draw(scene, 96, handwriting)[1] for scene in cluttered]
    covered = [sum(width * height for *_, width, height in found) / 96**2 for found in boxes]
    assert max(covered) < 0.2
    assert min(height for found in boxes for *_, height in found) >= 12


def test_detections_with_clutter_cover_each_digit_alone(cluttered: list[Scene], handwriting: Handwriting) -> None:
    for scene in cluttered:
        picture = Picture(scene, draw(scene, 96, handwriting)[1])
        found = detection_file([picture], 96)[str(scene.image_id)]
        best = [max(iou(box, digit) for digit in picture.boxes) for box in found]
        assert sum(overlap > 0.5 for overlap in best) == len(picture.boxes)
        assert sum(overlap <= 0.31 for overlap in best) == 2


def test_shapes_lie_below_ink_and_later_ones_over_earlier_ones(handwriting: Handwriting) -> None:
    scene = next(sample_scenes("train", 1, 0, handwriting))
    under, over = shape("square", radius=0.9), replace(shape(radius=0.2), tone=(95, 120, 150))
    image, boxes = draw(replace(scene, shapes=(under, over)), 96, handwriting)
    pixels = np.asarray(image)
    assert tuple(pixels[48, 70]) == under.tone
    bare, _ = draw(replace(scene, shapes=(under, over), digits=()), 96, handwriting)
    assert tuple(np.asarray(bare)[48, 48]) == over.tone
    for digit, (x, y, width, height) in zip(scene.digits, boxes, strict=True):
        assert (pixels[y : y + height, x : x + width] == INKS[digit.colour]).all(axis=2).any()


@pytest.mark.parametrize(
    ("form", "area"),
    [("disc", math.pi), ("ring", math.pi / 2), ("half", math.pi / 2), ("square", 1.96), ("bar", 1.9 * 0.5)],
)
def test_a_shape_covers_as_much_as_its_form(form: str, area: float) -> None:
    rows, columns, cover = shape(form).cover(96, 4)
    assert cover.shape == (rows.stop - rows.start, columns.stop - columns.start)
    assert 0 <= cover.min() < cover.max() == 1
    assert cover.sum() == pytest.approx(area * 24**2, rel=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_a_shape_lies_in_its_circle_and_is_cut_by_the_picture(form: str) -> None:
    rows, columns, cover = shape(form, centre=(0.1, 0.95)).cover(100, 4)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (70, 100, 0, 36)
    far = np.hypot(np.arange(0, 36)[None] + 0.5 - 10, np.arange(70, 100)[:, None] + 0.5 - 95) > 25 + 1
    assert far.any()
    assert not cover[far].any()
    assert cover.any()


def test_all_forms_and_tones_are_drawn_by_lot(cluttered: list[Scene]) -> None:
    shapes = [shape for scene in cluttered for shape in scene.shapes]
    assert {shape.form for shape in shapes} == set(FORMS)
    assert len({shape.tone for shape in shapes}) == 6
    assert sample_shapes(0, cluttered[0].rng("any")) == ()


def test_cluttered_pictures_on_disk_are_those_that_were_drawn(tmp_path: Path, handwriting: Handwriting) -> None:
    folder = build(tmp_path, num_train=2, num_val=2, num_test=2, image_size=96, clutter=2)
    for scene in sample_scenes("test", 2, 0, handwriting, clutter=2):
        drawn, _ = draw(scene, 96, handwriting)
        with Image.open(folder / "images" / scene.file) as stored:
            assert np.abs(np.asarray(stored, dtype=float) - np.asarray(drawn, dtype=float)).mean() < 3
