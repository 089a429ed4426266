"""Masking words and predicting them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elip.objectives.mlm import IGNORE, mask_tokens, mlm_loss, places_to_predict

PAD, CLS, MASK, WORDS = 0, 1, 3, 1000
SETTINGS = {"pad_id": PAD, "cls_id": CLS, "mask_id": MASK, "vocab_size": WORDS}


def texts(rows: int = 200, length: int = 50) -> torch.Tensor:
    ids = torch.randint(10, WORDS, (rows, length))
    ids[:, 0] = CLS
    ids[:, -5:] = PAD
    return ids


@given(st.floats(0, 1), st.integers(0, 100))
def test_labels_are_the_words_that_stood_there_and_never_pad_or_cls(probability: float, seed: int) -> None:
    torch.manual_seed(seed)
    ids = texts(rows=4)
    masked = mask_tokens(ids, probability=probability, **SETTINGS)
    predicted = masked.labels != IGNORE
    assert torch.equal(masked.labels[predicted], ids[predicted])
    assert not predicted[:, 0].any()
    assert not predicted[:, -5:].any()
    assert torch.equal(masked.ids[~predicted], ids[~predicted])


@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 100))
def test_places_to_predict_are_all_that_are_labelled_in_order(rows: int, length: int, seed: int) -> None:
    labels = torch.randint(0, 3, (rows, length), generator=torch.Generator().manual_seed(seed)) - 1
    labels = torch.where(labels < 0, IGNORE, labels)
    places, real = places_to_predict(labels)
    per_text = (labels != IGNORE).sum(dim=1)
    assert places.shape == (rows, max(1, int(per_text.max())))
    assert torch.equal(labels.gather(1, places).flatten()[real], labels[labels != IGNORE])


def test_the_shares_are_those_of_bert() -> None:
    torch.manual_seed(0)
    ids = texts()
    masked = mask_tokens(ids, probability=0.15, **SETTINGS)
    predicted = masked.labels != IGNORE
    assert predicted[:, 1:-5].float().mean().item() == pytest.approx(0.15, abs=0.01)
    became = masked.ids[predicted]
    assert (became == MASK).float().mean().item() == pytest.approx(0.8, abs=0.04)
    assert (became == ids[predicted]).float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary_with_or_without_a_teacher() -> None:
    logits, labels = torch.zeros(3, 8), torch.tensor([1, 2, 3])
    assert mlm_loss(logits, labels, None, alpha=0.4).item() == pytest.approx(math.log(8))
    assert mlm_loss(logits, labels, torch.randn(3, 8), alpha=0.4).item() == pytest.approx(math.log(8), rel=1e-5)


def test_alpha_one_follows_the_teacher_alone() -> None:
    teacher = torch.tensor([[50.0, 0.0]])
    logits = torch.tensor([[50.0, 0.0]])
    wrong = torch.tensor([1])
    assert mlm_loss(logits, wrong, teacher, alpha=1.0).item() == pytest.approx(0, abs=1e-6)
    assert mlm_loss(logits, wrong, teacher, alpha=0.0).item() == pytest.approx(50)


def test_nothing_to_predict_is_a_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, 8, requires_grad=True)
    loss = mlm_loss(logits, torch.zeros(0, dtype=torch.long), torch.zeros(0, 8), alpha=0.4)
    loss.backward()
    assert loss.item() == 0
