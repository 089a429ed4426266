"""Recall: by hand, against guessing, and where scores tie."""

import pytest
import torch

from elip.task.recall import chance_recalls, margin, ranks, recalls, right_ranks


def test_recall_counts_images_whose_nearest_own_text_is_early_enough() -> None:
    i2t = torch.tensor([[0.9, 0.8, 0.1, 0.0], [0.9, 0.1, 0.2, 0.3]])
    t2i = i2t.T
    metrics = recalls(*right_ranks(i2t, t2i, image_to_texts=[[0, 1], [2, 3]], text_to_image=[0, 0, 1, 1]))
    assert metrics["txt_r1"] == 50.0  # the second image puts text 0 first
    assert metrics["img_r1"] == 75.0  # text 0 scores the same with both, and the later place goes first
    assert metrics["txt_r5"] == metrics["img_r10"] == 100.0
    assert metrics["r_mean"] == pytest.approx((metrics["txt_r_mean"] + metrics["img_r_mean"]) / 2)


def test_of_equal_scores_the_later_place_goes_first() -> None:
    assert ranks(torch.tensor([1.0, 1.0, 0.5, 1.0]), [0, 1, 3, 2]) == [2, 1, 0, 3]


def test_chance_is_what_random_scores_reach_on_average() -> None:
    torch.manual_seed(0)
    image_to_texts = [[0, 1, 2], [3], [4, 5], [6], *[[i] for i in range(7, 20)]]
    text_to_image = [image for image, texts in enumerate(image_to_texts) for _ in texts]
    chance = chance_recalls([len(texts) for texts in image_to_texts])
    runs = []
    for _ in range(400):
        scores = torch.rand(len(image_to_texts), len(text_to_image))
        runs.append(recalls(*right_ranks(scores, scores.T, image_to_texts, text_to_image)))
    for name, expected in chance.items():
        assert sum(run[name] for run in runs) / len(runs) == pytest.approx(expected, abs=1.5), name


def test_the_margin_of_an_image_is_that_of_its_best_text_over_the_best_of_the_others() -> None:
    i2t = torch.tensor([[3.0, 5.0, 1.0, 2.0], [9.0, 0.0, 4.0, 6.0], [0.0, 7.0, -100.0, -100.0]])
    assert margin(i2t, [[0, 1], [2], [2, 3]]).tolist() == [3.0, -5.0, -107.0]
    assert margin(torch.tensor([[1.0, 2.0]]), [[0, 1]]).tolist() == [float("inf")]
