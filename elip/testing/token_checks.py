"""Checks of which tokens a reducer leaves: how many, which, in what order, and what each stands for."""

import torch
from torch import Tensor

from elip.errors import ElipError
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, Watch
from elip.reduction.reducer import TokenReducer
from elip.reduction.schedule import KeepSchedule, RemovalSchedule
from elip.reduction.tokens import Tokens
from elip.testing.trial import (
    ReducerTrial,
    Visit,
    expect,
    images,
    made_up_text,
    record_visits,
    tiny_vit,
    transparent_vit,
)

GRIDS = (14, 16, 24)
"""Rows and columns of patches that make 197, 257 and 577 tokens with CLS."""
NOTHING = 1e-9
"""Shares of a patch in a token up to this are rounding errors of double precision."""


@torch.no_grad()
def prefix_survives(trial: ReducerTrial) -> None:
    """CLS and registers are as many as before, and no hook writes to them."""
    for registers in (0, 4):
        encoder = tiny_vit(reg_tokens=registers)
        reducer = trial.reducer(encoder)
        visits = record_visits(reducer)
        output = trial.run(encoder, reducer, images(2, encoder))
        for visit in visits:
            expect(visit.prefix_kept, f"block {visit.block}: the prefix tokens in context.prefix are to read only")
            _check_form(visit)
        prefix = output.embeds.shape[1] - output.tokens.num_tokens
        expect(prefix == 1 + registers, f"{1 + registers} prefix tokens went in and {prefix} came out")


@torch.no_grad()
def counts_follow_schedule(trial: ReducerTrial) -> None:
    """Each block leaves as many tokens as the reducer's schedule says, during its warm-up, too."""
    encoder = tiny_vit()
    reducer = trial.reducer(encoder)
    _check_counts(trial, encoder, reducer, 1.0)
    if "warmup" in trial.takes and reducer.schedule is not None:
        warming = trial.reducer(encoder, warmup={"start": 0.0, "end": 1.0, "shape": "linear"})
        expect(
            warming.schedule is not None and warming.schedule.warmup is not None,
            "the parameter warmup does not reach the schedule",
        )
        for progress in (0.0, 0.5):
            _check_counts(trial, encoder, warming, progress)


@torch.no_grad()
def works_at_any_grid(trial: ReducerTrial) -> None:
    """197, 257 and 577 tokens go through, and numbers follow the schedule there, too."""
    for grid in GRIDS:
        encoder = tiny_vit(grid)
        reducer = trial.reducer(encoder)
        visits = record_visits(reducer)
        output = trial.run(encoder, reducer, images(1, encoder))
        expect(bool(output.embeds.isfinite().all()), f"{grid * grid + 1} tokens: NaN or infinity in the output")
        _follow(reducer, visits)


@torch.no_grad()
def class_token_or_refusal(trial: ReducerTrial) -> None:
    """A ViT without a class token is reduced, too, or refused by the constructor with an ElipError that says so."""
    encoder = tiny_vit(class_token=False, global_pool="avg")
    try:
        reducer = trial.reducer(encoder)
        visits = record_visits(reducer)
        trial.run(encoder, reducer, images(2, encoder))
    except ElipError as error:
        expect("class token" in str(error), f"refuses a ViT without a class token, but does not say so: {error}")
    except Exception as error:
        raise AssertionError(
            f"fails on a ViT without a class token with {type(error).__name__}: {error}; "
            "refuse it in the constructor with elip.reduction.require_class_token"
        ) from error
    else:
        _follow(reducer, visits)


@torch.no_grad()
def sizes_count_patches(trial: ReducerTrial) -> None:
    """The size of a token is the number of patches that live in it; soft tokens share all patches among them."""
    encoder = tiny_vit()
    tokens = trial.run(encoder, trial.reducer(encoder), images(3, encoder), watch=Watch(source=True)).tokens
    if trial.cls.soft:
        total = tokens.sizes.sum(1)
        fits = tokens.size is None or torch.allclose(total, torch.full_like(total, tokens.num_patches), rtol=1e-4)
        expect(fits, f"sizes add up to {total.tolist()} of {tokens.num_patches} patches")
        return
    source = _source(tokens)
    living = _membership(source, tokens.num_tokens).sum(-1).to(tokens.x.dtype)
    wrong = (living != tokens.sizes) & _real(tokens)
    if wrong.any():
        image, token = wrong.nonzero()[0].tolist()
        raise AssertionError(
            f"image {image}, token {token}: size {tokens.sizes[image, token]:g}, but "
            f"{living[image, token]:g} patches live in it by the source map "
            "(Tokens.merge and keep_and_fuse see to both)"
        )


@torch.no_grad()
def source_is_right(trial: ReducerTrial) -> None:
    """The source map tells the truth: each token is made of just the patches that live in it by the map.

    Run in a ViT whose blocks change nothing, so that a token's shares of the patches can be solved for.
    """
    encoder = transparent_vit()
    image = images(2, encoder)
    patches = encoder.embed(image)[:, encoder.num_prefix_tokens :]
    tokens = trial.run(encoder, trial.reducer(encoder), image, watch=Watch(source=True)).tokens
    if trial.cls.soft:
        expect(tokens.source is None, "is soft and has a source map; make new tokens with Tokens.mix")
        return
    source = _source(tokens)
    alone = tokens.kept().flatten(1)
    painted = tokens.restore().flatten(1, 2)
    wrong = alone & ((painted - patches).abs().amax(-1) > 1e-4)
    expect(~wrong.any(), f"patches {_places(wrong)} are kept, but their place in a picture painted by source is not")
    shares = torch.linalg.lstsq(patches.mT, tokens.x.mT).solution.mT  # [B, N, P]
    members = _membership(source, tokens.num_tokens)
    real = _real(tokens).unsqueeze(-1)
    stray = (shares.abs() > NOTHING) & ~members & real
    expect(~stray.any(), f"patches {_places(stray.any(1))} are in tokens in which they do not live by the source map")
    lost = (shares.abs() <= NOTHING) & members
    expect(~lost.any(), f"patches {_places(lost.any(1))} live in a token by the source map that has nothing of them")


@torch.no_grad()
def order_is_kept(trial: ReducerTrial) -> None:
    """Where the class promises it, patches with a token to themselves come in image order."""
    if not trial.cls.keeps_order:
        return
    encoder = tiny_vit()
    tokens = trial.run(encoder, trial.reducer(encoder), images(3, encoder), watch=Watch(source=True)).tokens
    for source, alone in zip(_source(tokens), tokens.kept().flatten(1), strict=True):
        rising = bool((source[alone].diff() > 0).all())
        expect(rising, "keeps_order is True, but kept patches are not in image order: sort the places kept")


def _check_form(visit: Visit) -> None:
    """The tokens that a hook gives back are tokens of the same images, none added."""
    before, after = visit.before, visit.after
    batch, _, width = before.x.shape
    expect(
        after.x.dim() == 3 and after.x.shape[0] == batch and after.x.shape[2] == width,
        f"block {visit.block}: tokens {list(before.x.shape)} became {list(after.x.shape)}",
    )
    expect(
        1 <= after.num_tokens <= before.num_tokens,
        f"block {visit.block}: {before.num_tokens} tokens became {after.num_tokens}",
    )
    expect(after.grid == before.grid, f"block {visit.block}: the grid of the patches became {after.grid}")


def _check_counts(trial: ReducerTrial, encoder: VisionEncoder, reducer: TokenReducer, progress: float) -> None:
    visits = record_visits(reducer)
    trial.run(encoder, reducer, images(2, encoder), Guide(made_up_text(2, encoder), progress))
    _follow(reducer, visits)


def _follow(reducer: TokenReducer, visits: list[Visit]) -> None:
    """What was seen in each block is what the schedule says."""
    for visit in visits:
        _check_form(visit)
    for before, after in zip(visits[::2], visits[1::2], strict=True):
        arrived, left = before.before.num_tokens, after.after.num_tokens
        allowed = _allowed(reducer, before, fused=_fuses(before) or _fuses(after))
        expect(
            left in allowed,
            f"block {before.block}, {before.progress:.0%} of the training done: {arrived} patch tokens arrived, {left} "
            f"are left, but by the schedule {' or '.join(str(count) for count in allowed)}",
        )


def _allowed(reducer: TokenReducer, visit: Visit, fused: bool) -> range:
    """Return the numbers of tokens that may be left after a block: one more where the others were fused into one."""
    arrived, schedule, static = visit.before.num_tokens, reducer.schedule, reducer.static_counts
    if isinstance(schedule, KeepSchedule):
        keep = schedule.num_keep(visit.block, arrived, visit.progress)
        if not static:  # as planned, whatever the images of this batch have left
            keep = max(keep, min(arrived, schedule.counts(visit.progress).get(visit.block, arrived)))
        return range(keep + fused if static else 1, keep + fused + 1)
    if isinstance(schedule, RemovalSchedule):
        remove = schedule.num_remove(visit.block, arrived, visit.progress)
        return range(max(1, arrived - remove), arrived - (remove if static else 0) + 1)
    return range(1, arrived + 1)


def _fuses(visit: Visit) -> bool:
    """Return whether the last token left is new, and all others are some of those that arrived, unchanged."""
    if visit.after.x is visit.before.x:
        return False
    known = (visit.after.x.unsqueeze(2) == visit.before.x.unsqueeze(1)).all(-1).any(-1)
    return bool(known[:, :-1].all() and not known[:, -1].any())


def _source(tokens: Tokens) -> Tensor:
    if tokens.source is None:
        raise AssertionError(
            "the source map was asked for and is lost: move tokens with Tokens.keep, keep_and_fuse or merge, "
            "or set soft = True if no patch lives in one token"
        )
    highest = int(tokens.source.max())
    expect(highest < tokens.num_tokens, f"source names token {highest} of {tokens.num_tokens}")
    return tokens.source


def _membership(source: Tensor, num_tokens: int) -> Tensor:
    """Return which patches live in each token: [B, P] to [B, N, P] bool."""
    return source.unsqueeze(1) == torch.arange(num_tokens).view(1, -1, 1)


def _real(tokens: Tokens) -> Tensor:
    """Return the places that hold a token, [B, N] bool."""
    return torch.ones(tokens.x.shape[:2], dtype=torch.bool) if tokens.mask is None else tokens.mask


def _places(wrong: Tensor) -> str:
    """Return the first few patches that are marked: [B, P] bool."""
    found = wrong.nonzero()[:4, 1].tolist()
    return ", ".join(str(place) for place in found) + (", ..." if int(wrong.sum()) > 4 else "")
