"""Sheets: what stands where, and which examples are chosen."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elip.sheets import Box, Example, best_and_worst, cover_dropped, examples_sheet, kept_patches_sheet

RED, GREEN, BLUE = (torch.tensor([float(c == k) for k in range(3)]) for c in range(3))


def plain(colour: Tensor) -> Tensor:
    """An image [3, 24, 24] of one colour."""
    return (255 * colour).to(torch.uint8)[:, None, None].expand(3, 24, 24)


def share_of(sheet: np.ndarray, colour: Tensor) -> float:
    """Return the share of the sheet's pixels that are nearly of that colour."""
    return float((np.abs(sheet / 255 - colour.numpy()).max(axis=-1) < 0.05).mean())


def example(kept: Tensor | None = None, heat: Tensor | None = None, boxes: tuple[Box, ...] = ()) -> Example:
    return Example(plain(RED)[None], "best", ["a text", "prediction: x"], kept, heat, boxes)


def test_dropped_patches_are_covered_and_kept_ones_untouched() -> None:
    image = torch.rand(1, 3, 8, 8)
    kept = torch.tensor([[[True, False], [False, True]]])
    covered = cover_dropped(image, kept)
    assert torch.equal(covered[..., :4, :4], image[..., :4, :4])
    assert torch.equal(covered[..., 4:, 4:], image[..., 4:, 4:])
    assert (covered[..., :4, 4:] - 0.75).abs().max() < 0.12


def test_the_images_of_an_example_stand_beside_each_other() -> None:
    pair = Example(torch.stack([plain(RED), plain(BLUE)]), "best", ["a text"])
    sheet = examples_sheet([pair], names=("left", "right"))
    red, blue = (np.abs(sheet / 255 - colour.numpy()).max(axis=-1) < 0.05 for colour in (RED, BLUE))
    assert red.any(axis=0).nonzero()[0].max() < blue.any(axis=0).nonzero()[0].min()
    assert red.sum() == pytest.approx(blue.sum(), rel=0.05)


def test_examples_stand_below_each_other() -> None:
    one, two = examples_sheet([example()]), examples_sheet([example()] * 2)
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] > 1.7 * one.shape[0]
    assert two.dtype == np.uint8


def test_kept_patches_take_a_tile_of_their_own_with_only_these_uncovered() -> None:
    kept = torch.zeros(1, 2, 2, dtype=torch.bool)
    kept[0, 0, 0] = True
    without, sheet = examples_sheet([example()]), examples_sheet([example(kept)])
    tile = share_of(without, RED) * without[..., 0].size
    assert share_of(sheet, RED) * sheet[..., 0].size == pytest.approx(1.25 * tile, rel=0.1)


def test_a_heat_map_takes_a_tile_of_its_own_and_is_hottest_where_it_is_largest() -> None:
    heat = torch.zeros(1, 4, 4)
    heat[0, :, 3] = 1
    without, sheet = examples_sheet([example()]), examples_sheet([example(heat=heat)])
    assert sheet.shape[1] > without.shape[1] * 1.3
    cold = np.abs(sheet / 255 - np.array([0.5, 0, 0.25])).max(axis=-1) < 0.06  # half red, half the map's dark blue
    assert 0 < cold.mean() < 0.3


def test_a_box_is_drawn_at_its_place() -> None:
    box = Box(0.5, 0.0, 1.0, 1.0, colour="lime")
    sheet = examples_sheet([example(boxes=(box,))])
    lime = np.abs(sheet / 255 - GREEN.numpy()).max(axis=-1) < 0.3
    red = np.abs(sheet / 255 - RED.numpy()).max(axis=-1) < 0.05
    columns = red.any(axis=0).nonzero()[0]
    middle = (columns.min() + columns.max()) / 2
    assert lime.any()
    assert lime.any(axis=0).nonzero()[0].min() == pytest.approx(middle, abs=3)


@pytest.mark.parametrize("text", ["costs $5 or $6", "100% a_b^c {x} \\frac", ""])
def test_any_text_is_written_as_it_is(text: str) -> None:
    one = Example(plain(RED)[None], text, [text], boxes=[Box(0, 0, 1, 1, label=text)])
    assert examples_sheet([one]).ndim == 3
    assert kept_patches_sheet(plain(RED)[None], [text], {1: torch.ones(1, 2, 2, dtype=torch.bool)}).ndim == 3


def test_of_many_reductions_four_are_shown() -> None:
    kept = {block: torch.ones(1, 2, 2, dtype=torch.bool) for block in range(12)}
    widths = [kept_patches_sheet(plain(RED)[None], ["a"], dict(list(kept.items())[:n])).shape[1] for n in (4, 12)]
    assert widths[0] == widths[1]


def test_best_and_worst_of_hand_made_scores() -> None:
    assert best_and_worst(torch.tensor([0.1, 0.9, 0.5, 0.7, 0.2]), 4) == ([1, 3], [0, 4])
    assert best_and_worst(torch.tensor([0.1, 0.9, 0.5]), 8) == ([1, 2], [0])
    assert best_and_worst(torch.tensor([0.1]), 0) == ([], [])


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(0, 15))
def test_best_and_worst_share_no_item_and_are_ordered(scores: list[float], count: int) -> None:
    quality = torch.tensor(scores)
    best, worst = best_and_worst(quality, count)
    assert len({*best, *worst}) == len(best) + len(worst) == min(count, len(scores))
    assert quality[best].tolist() == sorted(quality[best].tolist(), reverse=True)
    assert quality[worst].tolist() == sorted(quality[worst].tolist())
    if best and worst:
        assert quality[best].min() >= quality[worst].max()
