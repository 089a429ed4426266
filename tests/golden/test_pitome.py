"""PiToMe beside the authors' implementation: the step on given tensors, and the whole ViT."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from elip.models.vision import VisionEncoder
from elip.reduction.encoder import EncoderInfo
from elip.reduction.guide import Watch
from elip.reduction.reducer import AttentionFacts, ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS
from reducers.pitome import energy, energy_matching
from tests.golden.vit import TOKENS, Reference, assert_same_pass, load_reference, small_vit, stream


class Step(NamedTuple):
    """One case of the step alone, as its name tells it."""

    inputs: str
    num_prefix: int
    form: str
    keep_ratio: float
    margin: float

    @classmethod
    def parse(cls, name: str) -> "Step":
        inputs, kind, form, *numbers = name.split(".")
        ratio, margin = ".".join(numbers).removeprefix("q").split(".m")
        return cls(inputs, int(kind == "cls"), form, float(ratio), float(margin))


@pytest.fixture(scope="module")
def reference(golden_reducers: Path) -> Reference:
    return load_reference(golden_reducers / "pitome.safetensors")


def alike(metric: Tensor) -> Tensor:
    """Return the cosine of all pairs."""
    unit = F.normalize(metric, dim=-1)
    return unit @ unit.mT


def membership(group: Tensor, num_groups: int) -> Tensor:
    return F.one_hot(group, num_groups).mT.float()


def test_the_step_agrees_in_every_form(reference: Reference) -> None:
    cases = reference.settings["step_cases"]
    assert cases
    for name in cases:
        step, expected = Step.parse(name), reference.run(f"{name}.").tensors
        metric, x, size = (
            reference.tensors[f"{step.inputs}.{tensor}"][:, step.num_prefix :] for tensor in ("metric", "x", "size")
        )
        num_tokens, width = x.shape[1:]
        info = EncoderInfo(1, width, 1, (1, num_tokens), step.num_prefix, bool(step.num_prefix))
        reducer = REDUCERS.build(
            "pitome", info, keep_ratio=step.keep_ratio, form=step.form, margin=[step.margin], proportional=False
        )
        merged = reducer.after_attention(
            0,
            Tokens(x, (1, num_tokens), size=size.squeeze(-1)),
            AttentionFacts(keys=metric),
            ReductionContext(None, training=False),
        )
        left, skip = merged.num_tokens, step.num_prefix
        torch.testing.assert_close(merged.x, expected["wavg"][:, skip:], msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(merged.sizes.unsqueeze(-1), expected["wavg_size"][:, skip:]), name
        group = energy_matching(metric, num_tokens - left, step.margin, step.form).group
        assert torch.equal(membership(group, left), expected["source"][:, skip:, skip:]), name
        if "energy" in expected:
            torch.testing.assert_close(energy(alike(metric), step.margin, step.form), expected["energy"])


def build(encoder: VisionEncoder, reference: Reference, run: str) -> TokenReducer:
    """Return the reducer of a run; what the file says of each block holds where it merges."""
    said = reference.settings["runs"][run]
    begin = [block for block, ratio in enumerate(said["ratios"]) if ratio < 1]
    return REDUCERS.build(
        "pitome",
        encoder.info(),
        begin=begin,
        keep_ratio=[said["ratios"][block] for block in begin],
        form=[said["forms"][block] for block in begin],
        margin=[reference.settings["margins"][block] for block in begin],
        proportional=False,
    )


def test_the_whole_vit_agrees_in_every_run(golden_reducers: Path, reference: Reference) -> None:
    encoder, image = small_vit(golden_reducers), reference.tensors["image"]
    assert reference.settings["runs"]
    for run in reference.settings["runs"]:
        reducer, expected = build(encoder, reference, run), reference.run(f"{run}.").tensors
        assert_same_pass(encoder, reducer, expected | {"image": image})
        output, _ = stream(encoder, image, reducer, Watch(source=True))
        assert torch.equal(membership(output.tokens.source, output.tokens.num_tokens), expected["source"][:, 1:, 1:])


def test_sizes_and_energies_agree_block_by_block(golden_reducers: Path, reference: Reference) -> None:
    encoder, image = small_vit(golden_reducers), reference.tensors["image"]
    for run in reference.settings["runs"]:
        reducer, expected = build(encoder, reference, run), reference.run(f"{run}.").tensors
        seen = list(watched(encoder, reducer, image))
        energies = {name for name in expected if name.startswith("energy.")}
        assert energies == {f"energy.block{block}" for block, _, _ in seen}
        for block, keys, sizes in seen:
            energy_here = energy(alike(keys), reference.settings["margins"][block], reducer.forms[block])
            torch.testing.assert_close(energy_here, expected[f"energy.block{block}"], **TOKENS)
            if f"size.block{block}" in expected:
                assert torch.equal(sizes.unsqueeze(-1), expected[f"size.block{block}"][:, 1:])


def test_what_is_released_is_the_default(golden_reducers: Path, reference: Reference) -> None:
    encoder = small_vit(golden_reducers)
    ratios, first = reference.settings["runs"]["released"]["ratios"], reference.settings["margins"][0]
    reducer = REDUCERS.build("pitome", encoder.info(), keep_ratio=ratios, margin=first, proportional=False)
    expected = reference.run("released.").tensors | {"image": reference.tensors["image"]}
    assert_same_pass(encoder, reducer, expected)


def watched(encoder: VisionEncoder, reducer: TokenReducer, image: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Return block, keys that the reducer was handed, and sizes that it left, for each block that it merges in."""
    seen: list[tuple[int, Tensor, Tensor]] = []
    hook = reducer.after_attention

    def watch(block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext) -> Tokens:
        after = hook(block, tokens, attention, context)
        if after is not tokens:
            seen.append((block, attention.keys, after.sizes))
        return after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reducer, "after_attention", watch)
        stream(encoder, image, reducer)
    yield from seen
