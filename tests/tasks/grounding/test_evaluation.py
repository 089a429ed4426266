"""Ranking boxes by a map."""

from math import inf

import pytest
import torch

from tasks.grounding.evaluation import box_scores


def test_a_box_scores_what_is_in_it_over_the_root_of_its_area() -> None:
    heat = torch.ones(8, 8)
    scores = box_scores(heat, (8, 8), [[0, 0, 4, 4], [2, 2, 2, 2]])
    assert scores == pytest.approx([16 / 4, 4 / 2])


def test_the_box_around_what_is_hot_comes_first_whatever_the_shape_of_the_picture() -> None:
    heat = torch.zeros(4, 4)
    heat[0, 3] = 1.0  # top right
    boxes = [[0, 0, 10, 10], [60, 0, 20, 10], [60, 30, 20, 10], [0, 0, 80, 40]]
    scores = box_scores(heat, (40, 80), boxes)
    assert max(range(4), key=scores.__getitem__) == 1


def test_a_box_counts_as_far_as_it_is_on_the_picture() -> None:
    heat = torch.arange(64.0).view(8, 8)
    reaching_over = box_scores(heat, (8, 8), [[-3, -2, 5, 6], [6, 5, 9, 9]])
    assert reaching_over == pytest.approx(box_scores(heat, (8, 8), [[0, 0, 2, 4], [6, 5, 2, 3]]))


def test_a_box_beside_the_picture_never_comes_first() -> None:
    assert box_scores(-torch.ones(4, 4), (4, 4), [[9, 0, 2, 2], [-2, 0, 2, 2], [0, 0, 1, 1]]) == [-inf, -inf, -1]


def test_a_box_thinner_than_a_pixel_counts_as_that_pixel() -> None:
    heat = torch.zeros(4, 4)
    heat[1, 2] = 3.0
    assert box_scores(heat, (4, 4), [[2.2, 1.3, 0.1, 0.1], [3.9, 3.9, 0.1, 0.1]]) == pytest.approx([3, 0])
