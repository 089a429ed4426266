from dataclasses import replace

import numpy as np
import pytest

from elip.data.digitscenes.draw import INKS, draw
from elip.data.digitscenes.handwriting import Handwriting
from elip.data.digitscenes.scene import Scene


def inked(scene: Scene, size: int, handwriting: Handwriting) -> tuple[np.ndarray, list[list[int]]]:
    """Return where the picture differs from its bare paper (H, W), and the boxes."""
    image, boxes = draw(scene, size, handwriting)
    paper, _ = draw(replace(scene, digits=()), size, handwriting)
    difference = np.asarray(image, dtype=int) - np.asarray(paper, dtype=int)
    return np.abs(difference).max(axis=2) > 8, boxes


@pytest.mark.parametrize("size", [32, 50, 64, 224])
def test_boxes_hold_all_ink_and_fit_it(size: int, scenes: list[Scene], handwriting: Handwriting) -> None:
    for scene in scenes[:40]:
        ink, boxes = inked(scene, size, handwriting)
        for x, y, width, height in boxes:
            inside = ink[y : y + height, x : x + width]
            assert inside.shape == (height, width)
            edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
            assert all(edge.any() for edge in edges)
            inside[:] = False
        assert not ink.any()


@pytest.mark.parametrize("size", [32, 64, 100])
def test_each_box_lies_in_the_cell_of_its_digit(size: int, scenes: list[Scene], handwriting: Handwriting) -> None:
    for scene in scenes[:100]:
        _, boxes = draw(scene, size, handwriting)
        for digit, (x, y, width, height) in zip(scene.digits, boxes, strict=True):
            row, column = divmod(digit.cell, 3)
            assert column * size // 3 <= x <= x + width <= (column + 1) * size // 3
            assert row * size // 3 <= y <= y + height <= (row + 1) * size // 3


def test_ink_has_the_colour_that_the_scene_says(scenes: list[Scene], handwriting: Handwriting) -> None:
    names, colours = list(INKS), np.array(list(INKS.values()))
    for scene in scenes[:100]:
        image, boxes = draw(scene, 64, handwriting)
        pixels = np.asarray(image, dtype=int)
        for digit, (x, y, width, height) in zip(scene.digits, boxes, strict=True):
            spot = pixels[y : y + height, x : x + width].reshape(-1, 1, 3)
            distance = np.abs(spot - colours).max(axis=2)
            pure, which = np.nonzero(distance < 12)
            assert len(pure) >= 20
            assert {names[index] for index in which} == {digit.colour}


def test_paper_never_comes_near_an_ink(scenes: list[Scene], handwriting: Handwriting) -> None:
    colours = np.array(list(INKS.values()))
    for scene in scenes[:100]:
        paper, _ = draw(replace(scene, digits=()), 64, handwriting)
        distance = np.linalg.norm(np.asarray(paper, dtype=float)[:, :, None] - colours, axis=3)
        assert distance.min() > 90


def test_inks_are_far_from_each_other() -> None:
    colours = np.array(list(INKS.values()), dtype=float)
    distance = np.linalg.norm(colours[:, None] - colours, axis=2)
    assert distance[~np.eye(len(colours), dtype=bool)].min() > 120


def test_paper_has_texture(scenes: list[Scene], handwriting: Handwriting) -> None:
    for scene in scenes[:50]:
        paper, _ = draw(replace(scene, digits=()), 64, handwriting)
        assert np.asarray(paper.convert("L"), dtype=float).std() > 3


def test_the_same_scene_gives_the_same_pixels(scenes: list[Scene], handwriting: Handwriting) -> None:
    one, other = (draw(scenes[7], 64, handwriting)[0].tobytes() for _ in range(2))
    assert one == other
