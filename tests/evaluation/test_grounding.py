"""Ranking boxes by a map."""

import pytest
import torch

from elip.evaluation.grounding import box_scores


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
