"""Hard negatives and the matching loss."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elip.objectives import itm
from elip.objectives.itm import draw_lots, itm_loss, sample_negatives, warn_of_one_image


@given(st.integers(2, 8), st.integers(0, 1000))
def test_a_negative_is_never_the_row_itself(batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    drawn = sample_negatives(10 * torch.randn(batch, batch), 10 * torch.randn(batch, batch))
    rows = torch.arange(batch)
    assert (drawn.image != rows).all()
    assert (drawn.text != rows).all()
    assert drawn.valid.all()


def test_negatives_never_come_from_the_same_image() -> None:
    ids = torch.tensor([3, 3, 5, 7])
    same = ids[:, None] == ids[None]
    for _ in range(20):
        drawn = sample_negatives(torch.zeros(4, 4), torch.zeros(4, 4), same)
        assert (ids[drawn.image] != ids).all()
        assert (ids[drawn.text] != ids).all()


def test_the_most_similar_wrong_pair_is_drawn_by_far_the_most_often() -> None:
    torch.manual_seed(0)
    sim_t2i = torch.tensor([[9.0, 8.0, 0.0], [0.0, 9.0, 8.0], [8.0, 0.0, 9.0]])
    drawn = torch.stack([sample_negatives(sim_t2i.T, sim_t2i).image for _ in range(50)])
    assert (drawn == torch.tensor([1, 2, 0])).float().mean() > 0.95


def test_a_row_whose_negatives_all_round_to_zero_still_gets_one() -> None:
    sim = torch.full((3, 3), -1e4)
    sim.fill_diagonal_(0.0)
    drawn = sample_negatives(sim, sim)
    assert (drawn.image != torch.arange(3)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_similarities_that_are_not_finite_can_be_drawn_from(value: float) -> None:
    same = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=torch.bool)
    for spoilt in (torch.full((3, 3), value), torch.zeros(3, 3).index_fill(1, torch.tensor([1]), value)):
        for _ in range(10):
            drawn = sample_negatives(spoilt, spoilt, same)
            assert not same[torch.arange(3), drawn.image].any()
            assert not same[torch.arange(3), drawn.text].any()


def test_what_is_finite_is_drawn_as_by_the_softmax_alone() -> None:
    torch.manual_seed(0)
    similarity = torch.tensor([[5.0, 1.0, 0.0, 2.0]] * 4).log_softmax(dim=1)
    draws = torch.stack([sample_negatives(similarity, similarity).text for _ in range(4000)])
    for row in range(4):
        share = draws[:, row].bincount(minlength=4) / len(draws)
        expected = similarity[row].exp().index_fill(0, torch.tensor([row]), 0)
        torch.testing.assert_close(share, expected / expected.sum(), atol=0.03, rtol=0)


def test_the_same_lots_draw_the_same_whatever_was_drawn_meanwhile() -> None:
    lots = draw_lots(6, torch.device("cpu"))
    similarity = torch.randn(6, 6)
    first = sample_negatives(similarity, similarity, lots=lots)
    torch.rand(3)
    again = sample_negatives(similarity, similarity, lots=lots)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.text, again.text)
    assert not torch.equal(first.image, first.text)  # two draws, not one


def test_a_sure_and_right_match_costs_nothing_and_an_unsure_one_log_two() -> None:
    sure, valid = torch.tensor([[-50.0, 50.0]]), torch.tensor([True])
    wrong = torch.tensor([[50.0, -50.0]]).repeat(2, 1)
    assert itm_loss(sure, wrong, valid).item() == pytest.approx(0)
    assert itm_loss(torch.zeros(1, 2), torch.zeros(2, 2), valid).item() == pytest.approx(math.log(2))


def test_rows_without_a_negative_are_left_out() -> None:
    same = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 1]], dtype=torch.bool)
    drawn = sample_negatives(torch.zeros(3, 3), torch.zeros(3, 3), same)
    assert drawn.valid.tolist() == [True, False, True]
    logits = torch.zeros(9, 2)
    logits[[1, 4, 7]] = 100.0 * torch.tensor([1.0, -1.0])  # absurd logits in the row that must not count
    assert itm_loss(logits[:3], logits[3:], drawn.valid).item() == pytest.approx(math.log(2))


def test_a_batch_of_one_image_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(itm, "_warned", set())
    warn_of_one_image(torch.tensor([3, 3, 4]))
    assert not caplog.text
    for _ in range(2):
        warn_of_one_image(torch.tensor([3, 3, 3]))
    assert caplog.text.count("left out of ITM") == 1


def test_a_batch_without_any_negative_gives_a_zero_that_can_be_differentiated() -> None:
    logits = torch.zeros(3, 2, requires_grad=True)
    loss = itm_loss(logits[:1], logits[1:], torch.tensor([False]))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()
