"""Grad-CAM with fewer tokens: maps on the whole grid, nothing where patches are gone. Numbers are in tests/golden."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from elip.models.grad_cam import contrast_map, matching_map
from elip.reduction.guide import Watch
from tests.tasks.small import small_run, small_task, training_batch, without_reducer

MAPS = [(matching_map, 1), (contrast_map, 2)]


def maps(digits: Path, tiny: list[str], reducer: str, function: Callable[..., Tensor], place: int) -> tuple:
    overrides = [*without_reducer(small_run("retrieval", digits, tiny)), f"reducer={reducer}"]
    task = small_task("retrieval", overrides).eval()
    batch = training_batch(task, 4)
    with torch.no_grad():
        found = function(task.model, batch["image"], batch["ids"], batch["mask"], place)
        kept = task.model.albef.encode_image(batch["image"], watch=Watch(source=True)).tokens
    return found, kept, task


@pytest.mark.parametrize(("function", "place"), MAPS)
def test_a_dropped_patch_has_no_heat(
    digits: Path, tiny: list[str], function: Callable[..., Tensor], place: int
) -> None:
    reducer = "{name: topk, begin: [1], keep_ratio: 0.5}"
    found, tokens, task = maps(digits, tiny, reducer, function, place)
    assert found.shape == (4, *tokens.grid)
    dropped = (tokens.source < 0).view_as(found)
    assert dropped.any()
    assert (found[dropped] == 0).all()
    assert (found >= 0).all()
    assert (found[~dropped] > 0).any()
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in task.parameters())


@pytest.mark.parametrize(("function", "place"), MAPS)
def test_the_patches_of_a_merged_token_share_its_heat(
    digits: Path, tiny: list[str], function: Callable[..., Tensor], place: int
) -> None:
    found, tokens, _ = maps(digits, tiny, "{name: pool, begin: [1], keep_ratio: 0.25}", function, place)
    source, heat = tokens.source, found.flatten(1)
    for token in range(tokens.num_tokens):
        members = heat[0][source[0] == token]
        assert (members == members[0]).all()


@pytest.mark.parametrize(("function", "place"), MAPS)
def test_a_text_of_its_own_gives_a_map_of_its_own(
    digits: Path, tiny: list[str], function: Callable[..., Tensor], place: int
) -> None:
    task = small_task("retrieval", [*without_reducer(small_run("retrieval", digits, tiny)), "reducer=none"]).eval()
    batch = training_batch(task, 4)
    image = batch["image"][:1].expand(4, -1, -1, -1)
    found = function(task.model, image, batch["ids"], batch["mask"], place)
    assert not torch.allclose(found[0], found[1])


def test_a_layer_without_cross_attention_is_refused(digits: Path, tiny: list[str]) -> None:
    with pytest.raises(ValueError, match="layer 0 is no fusion layer; those are 1 to 1"):
        maps(digits, tiny, "none", matching_map, 0)
