"""ToMe beside the authors' implementation: the matching on given tensors, and the whole ViT."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from elip.reduction.guide import Watch
from elip.reduction.merging import bipartite_matching, merge_mean, sum_by_group
from elip.reduction.schedule import RemovalSchedule
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS
from tests.golden.vit import assert_same_pass, load_reference, small_vit, stream


def cases(folder: Path) -> list[tuple[str, str, int, int]]:
    """Return (inputs, outputs, prefix tokens, r) of each case in the file, from its names."""
    names = {name.rpartition(".")[0] for name in load_reference(folder / "tome_matching.safetensors").tensors}
    found = [name.split(".") for name in sorted(names) if name.count(".") == 2]
    return [(n, f"{n}.{kind}.{r}", int(kind == "cls"), int(r[1:])) for n, kind, r in found]


def membership(group: Tensor, num_groups: int) -> Tensor:
    return torch.nn.functional.one_hot(group, num_groups).mT.float()


def test_the_matching_agrees(golden_reducers: Path) -> None:
    tensors = load_reference(golden_reducers / "tome_matching.safetensors").tensors
    found = cases(golden_reducers)
    assert found
    for inputs, outputs, num_prefix, r in found:
        metric, x, size = (tensors[f"{inputs}.{name}"][:, num_prefix:] for name in ("metric", "x", "size"))
        expected = {
            name.removeprefix(f"{outputs}."): tensor[:, num_prefix:]
            for name, tensor in tensors.items()
            if name.startswith(f"{outputs}.")
        }
        num_tokens = x.shape[1]
        left = num_tokens - min(r, num_tokens // 2)
        group = bipartite_matching(metric, r, num_prefix).group
        ones = Tokens.start(x, (1, num_tokens), track_source=True)
        sized = Tokens(x, (1, num_tokens), size=size.squeeze(-1))
        mean, weighted = merge_mean(ones, group, left), merge_mean(sized, group, left)
        assert torch.equal(membership(group, left), expected["source"][..., num_prefix:])
        torch.testing.assert_close(mean.x, expected["mean"])
        torch.testing.assert_close(mean.x, expected["wavg_nosize"])
        torch.testing.assert_close(mean.sizes.unsqueeze(-1), expected["nosize_size"])
        torch.testing.assert_close(weighted.x, expected["wavg"])
        torch.testing.assert_close(weighted.sizes.unsqueeze(-1), expected["wavg_size"])
        torch.testing.assert_close(sum_by_group(x, group, left), expected["sum"])
        torch.testing.assert_close(mean.restore().squeeze(1), expected["unmerge"])


def runs(folder: Path) -> list[tuple[str, str]]:
    """Return (schedule, run) of each pass in the file."""
    names = load_reference(folder / "tome_vit.safetensors").tensors
    found = [name.removesuffix(".logits").split(".") for name in names if name.endswith(".logits")]
    return [(schedule, kind) for schedule, kind in found]


def test_the_whole_vit_agrees_under_every_schedule(golden_reducers: Path) -> None:
    reference, encoder = load_reference(golden_reducers / "tome_vit.safetensors"), small_vit(golden_reducers)
    found = runs(golden_reducers)
    assert found
    for schedule, kind in found:
        reducer = REDUCERS.build(
            "tome", encoder.info(), r=reference.settings["schedules"][schedule], proportional=kind == "prop"
        )
        expected = reference.run(f"{schedule}.{kind}.").tensors | {"image": reference.tensors["image"]}
        assert_same_pass(encoder, reducer, expected)
        output, _ = stream(encoder, expected["image"], reducer, Watch(source=True))
        last = encoder.depth - 1
        torch.testing.assert_close(output.tokens.sizes.unsqueeze(-1), expected[f"size.block{last}"][:, 1:])
        assert torch.equal(membership(output.tokens.source, output.tokens.num_tokens), expected["source"][:, 1:, 1:])


@pytest.mark.parametrize(("name", "slope"), [("const", 0.0), ("decr", -1.0), ("schedule.incr", 1.0)])
def test_schedules_over_depth_agree(golden_reducers: Path, name: str, slope: float) -> None:
    tensors = load_reference(golden_reducers / "tome_vit.safetensors").tensors
    expected = tensors[f"{name}.r"].tolist()
    mean = tensors["const.r"].tolist()[0]
    encoder = replace(small_vit(golden_reducers).info(), depth=len(expected))
    schedule = RemovalSchedule(encoder, r={"mean": mean, "slope": slope})
    assert schedule.per_block == expected
    half = RemovalSchedule(encoder, r={"mean": mean, "slope": -0.5})
    assert half.per_block == tensors["schedule.half_decr.r"].tolist()
