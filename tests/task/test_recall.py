"""Recall: by hand, against guessing, and where scores tie; and the matching that re-ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig

from elip.models.text import TextEncoder
from elip.task import recall
from elip.task.recall import chance_recalls, margin, match_texts, ranks, recalls, right_ranks

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "initializer_range": 0.3,
}


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


@torch.no_grad()
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=9),
    at_once=st.integers(1, 4),
    fusion_layer=st.integers(0, 2),
    masked=st.booleans(),
)
def test_texts_matched_in_the_order_of_their_lengths_score_as_each_does_alone(
    lengths: list[int], at_once: int, fusion_layer: int, masked: bool
) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(BertConfig(**SMALL), fusion_layer, image_width=6).eval()
    head = torch.nn.Linear(8, 2)
    ids = torch.randint(1, 20, (len(lengths), 6))
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    kv = encoder.project(torch.randn(1, 5, 6), torch.arange(5)[None] < 3 if masked else None)
    attended = encoder.attend_alone(encoder.encode(ids, mask), mask)
    alone = []
    for row, length in zip(ids, lengths, strict=True):
        whole = torch.ones(1, length)
        text = encoder.encode(row[None, :length], whole)
        alone.append(head(encoder.fuse(text, whole, kv)[:, 0])[0, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall, "TEXTS_AT_ONCE", at_once)
        scores = match_texts(encoder, head, attended, mask, kv)
    torch.testing.assert_close(scores, torch.stack(alone), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_no_text_is_computed_beyond_the_longest_of_those_it_goes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(BertConfig(**SMALL), fusion_layer=1, image_width=6).eval()
    mask = torch.arange(6) < torch.tensor([5, 2, 6, 1])[:, None]
    shapes = []
    first = encoder.fusion_layers[0].crossattention.self.query
    first.register_forward_hook(lambda _m, args, _o: shapes.append(tuple(args[0].shape[:2])))
    monkeypatch.setattr(recall, "TEXTS_AT_ONCE", 2)
    attended = encoder.attend_alone(torch.randn(4, 6, 8), mask)
    match_texts(encoder, torch.nn.Linear(8, 2), attended, mask, encoder.project(torch.randn(1, 5, 6)))
    assert shapes == [(2, 2), (2, 6)]
