"""Checks of what a reducer computes: how strong it is, whether it repeats itself, gradients, precision."""

from collections.abc import Iterator
from operator import itemgetter

import torch
from torch import Tensor

from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, Watch
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import VisionOutput
from elip.testing.trial import (
    ReducerTrial,
    expect,
    images,
    made_up,
    made_up_text,
    record_visits,
    tiny_vit,
    with_teacher,
)
from elip.undisturbed import undisturbed

SAME = 1e-6
"""Differences up to this are rounding errors."""


@torch.no_grad()
def keep_all_is_identity(trial: ReducerTrial) -> None:
    """At strength 0 the encoder gives what it gives without a reducer, to 1e-6; soft reducers keep the number."""
    encoder = tiny_vit()
    reducer, image = trial.at_strength(encoder, 0.0), images(2, encoder)
    whole, output = trial.run(encoder, None, image), trial.run(encoder, reducer, image, watch=Watch(source=True))
    left, arrived = output.tokens.num_tokens, whole.tokens.num_tokens
    expect(left == arrived, f"at strength 0 (at_strength) {left} of {arrived} patch tokens are left")
    if trial.cls.soft:
        return
    gap = (output.embeds - whole.embeds).abs().max().item()
    expect(
        gap <= SAME,
        f"keeping all tokens, the result is {gap:.2g} off that without a reducer: give the tokens back as they are "
        "where none is to go",
    )


@torch.no_grad()
def strength_scales(trial: ReducerTrial) -> None:
    """`at_strength` 1 is the reducer as it is, and the stronger, the fewer tokens are left."""
    encoder = tiny_vit()
    image, plain = images(2, encoder), trial.reducer(encoder)
    same = trial.at_strength(encoder, 1.0)
    gap = _gap(trial.run(encoder, plain, image), trial.run(encoder, same, image))
    expect(gap <= SAME, f"at_strength(params, 1) is another reduction than params: results are {gap:.2g} apart")
    left = []
    for strength in (0.0, 0.5, 1.0):
        tokens = trial.run(encoder, trial.at_strength(encoder, strength), image).tokens
        left.append(tokens.num_tokens if tokens.mask is None else tokens.mask.sum(1).float().mean().item())
    expect(left[0] >= left[1] >= left[2], f"at strengths 0, 0.5 and 1 there are {left} tokens left, which should fall")


@torch.no_grad()
def evaluation_is_deterministic(trial: ReducerTrial) -> None:
    """The same images give the same result, whatever was drawn or passed before; no pass changes the reducer."""
    encoder = tiny_vit()
    reducer, image = trial.reducer(encoder), images(3, encoder)
    before = {key: value.clone() for key, value in reducer.state_dict().items()}
    first = trial.run(encoder, reducer, image)
    with undisturbed(seed=99):
        trial.run(encoder, reducer, image.flip(0, 2)[:2])
        gap = _gap(first, trial.run(encoder, reducer, image))
    expect(gap == 0, f"the same images in evaluation give results {gap:.2g} apart")
    for key, value in reducer.state_dict().items():
        expect(torch.equal(value, before[key]), f"a pass in evaluation changes {key}; keep its state in context.state")


@torch.no_grad()
def images_are_independent(trial: ReducerTrial) -> None:
    """What an image gives does not depend on its neighbours in the batch, nor on its place there."""
    encoder = tiny_vit().double()  # rounding, which differs between batch sizes, decides no choice in double precision
    reducer, image = trial.reducer(encoder), images(4, encoder)
    guide = Guide(made_up_text(4, encoder))
    together = _by_image(trial.run(encoder, reducer, image, guide))
    turned = _by_image(trial.run(encoder, reducer, image.flip(0), guide.map(lambda t: t.flip(0))))
    for place, (mine, among_others) in enumerate(zip(together, reversed(list(turned)), strict=True)):
        here = slice(place, place + 1)
        alone = next(_by_image(trial.run(encoder, reducer, image[here], guide.map(itemgetter(here)))))
        for other in (alone, among_others):
            same = mine.shape == other.shape and torch.allclose(mine, other, atol=SAME)
            expect(same, f"what image {place} gives depends on the images beside it")


def gradients_reach_parameters(trial: ReducerTrial) -> None:
    """Gradients of training get through the tokens to each parameter, the reducer's and the encoder's."""
    encoder = tiny_vit()
    reducer, image = trial.reducer(encoder), images(3, encoder)
    _backward(trial, encoder, None, image)
    reached = {name for name, p in encoder.named_parameters() if _reached(p)}
    encoder.zero_grad()
    guide = with_teacher(encoder, reducer, image, Guide(made_up_text(len(image), encoder)))
    visits = record_visits(reducer)
    _backward(trial, encoder, reducer, image, guide)
    for visit in visits:
        expect(visit.after.x.requires_grad, f"block {visit.block}: no gradient gets through the patch tokens")
    cut = [name for name, p in encoder.named_parameters() if name in reached and not _reached(p)]
    cut += [f"{name} (the reducer's)" for name, p in reducer.named_parameters() if p.requires_grad and not _reached(p)]
    expect(not cut, f"no gradient gets to {', '.join(cut[:4])}{' and others' if len(cut) > 4 else ''}")


def half_precision_is_finite(trial: ReducerTrial) -> None:
    """No NaN nor infinity in float16 and bfloat16, nor under autocast, also for a picture of one colour."""
    for dtype in (torch.float16, torch.bfloat16):
        encoder = tiny_vit().to(dtype)
        with torch.no_grad():
            embeds = trial.run(encoder, trial.reducer(encoder), _with_blank(images(3, encoder))).embeds
        expect(embeds.dtype == dtype, f"tokens of {dtype} became {embeds.dtype}")
        expect(embeds.isfinite().all(), f"NaN or infinity in {dtype}")
    encoder = tiny_vit()
    reducer = trial.reducer(encoder)
    with torch.autocast("cpu", torch.bfloat16):
        _backward(trial, encoder, reducer, _with_blank(images(3, encoder)))
    for module in (encoder, reducer):
        for name, parameter in module.named_parameters():
            finite = parameter.grad is None or parameter.grad.isfinite().all()
            expect(finite, f"NaN or infinity in the gradient of {name} when training under autocast to bfloat16")


def _backward(
    trial: ReducerTrial, encoder: VisionEncoder, reducer: TokenReducer | None, image: Tensor, guide: Guide | None = None
) -> None:
    """Run one step of training up to the gradients, on a loss of all tokens and the reducer's own."""
    with undisturbed(seed=4):
        encoder.train()
        if reducer is not None:
            reducer.train()
        output = trial.run(encoder, reducer, image, guide)
    for name, loss in output.losses.items():
        expect(loss.dim() == 0 and loss.isfinite(), f"the loss {name!r} is not one finite number: {loss}")
        declared = name.startswith("loss_") and name.removeprefix("loss_") in trial.cls.losses
        expect(declared, f"the loss {name!r} is not among the class's losses: add its name, without loss_")
    weights = made_up(tuple(output.embeds.shape), seed=6)
    loss = (output.embeds * weights).sum() + sum(output.losses.values())
    loss.backward()


def _reached(parameter: Tensor) -> bool:
    grad = parameter.grad
    return grad is not None and bool(grad.isfinite().all()) and bool(grad.any())


def _with_blank(image: Tensor) -> Tensor:
    """Return the pictures, the first of them of one colour."""
    return torch.cat([torch.ones_like(image[:1]), image[1:]])


def _by_image(output: VisionOutput) -> Iterator[Tensor]:
    """Return prefix and patch tokens of each image, without the places that hold none."""
    mask = output.mask
    for place, embeds in enumerate(output.embeds):
        yield embeds if mask is None else embeds[mask[place]]


def _gap(one: VisionOutput, other: VisionOutput) -> float:
    """Return the largest difference between two results; infinite where the tokens left differ in number."""
    if one.embeds.shape != other.embeds.shape:
        return float("inf")
    return (one.embeds - other.embeds).abs().max().item()
