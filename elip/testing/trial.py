"""What the conformance checks share: a reducer under test, tiny ViTs to test it in, and a record of what it did."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, Text, Watch
from elip.reduction.reducer import ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from elip.reduction.walk import VisionOutput
from elip.registry import constructor_parameters
from elip.undisturbed import undisturbed

GRID = 14
"""Rows and columns of the usual ViT here: 196 patches."""
DEPTH = 12
"""Blocks: as many as the default parameters of reducers are made for."""
WIDTH = 32
TEXT_LENGTH = 5
"""Tokens of a made-up text."""


@dataclass(frozen=True)
class Visit:
    """One call of one of a reducer's two hooks on tokens.

    Args:
        block: counted from 0.
        before: what it was handed.
        after: what it gave back.
        prefix_kept: whether the prefix tokens are what they were.
        progress: share of the training done.
    """

    block: int
    before: Tokens
    after: Tokens
    prefix_kept: bool
    progress: float


class ReducerTrial:
    """A reducer class with its parameters, under test.

    Args:
        cls: the reducer.
        params: for its constructor, after the `EncoderInfo`.
    """

    def __init__(self, cls: type[TokenReducer], **params: Any) -> None:
        self.cls = cls
        self.params = params
        self.takes = frozenset(constructor_parameters(cls))

    def reducer(self, encoder: VisionEncoder, **changes: Any) -> TokenReducer:
        """Return a new reducer for the encoder, in evaluation mode, with made-up weights if it has any."""
        with undisturbed(seed=1):
            reducer = self.cls(encoder.info(text_width=encoder.width), **{**self.params, **changes})
            for parameter in reducer.parameters():  # zeros, where training starts from them, would hide gradients
                parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
        return reducer.to(next(encoder.parameters()).dtype).eval()

    def at_strength(self, encoder: VisionEncoder, strength: float) -> TokenReducer:
        """Return a new reducer of another strength."""
        return self.reducer(encoder, **self.cls.at_strength(self.params, strength))

    def run(
        self,
        encoder: VisionEncoder,
        reducer: TokenReducer | None,
        image: Tensor,
        guide: Guide | None = None,
        watch: Watch | None = None,
    ) -> VisionOutput:
        """Return what the encoder makes of the images; without a guide, of each under a made-up text.

        Where the reducer requires a teacher, and the guide has none, the encoder is its own.
        """
        guide = guide or Guide(made_up_text(len(image), encoder))
        if reducer is not None and reducer.requires_teacher and guide.teacher is None:
            guide = with_teacher(encoder, reducer, image, guide)
        return encoder(image, reducer, guide, watch)


def expect(condition: bool | Tensor, message: str) -> None:
    """Raise an AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def tiny_vit(grid: int = GRID, width: int = WIDTH, std: float = 0.25, **options: Any) -> VisionEncoder:
    """Return a ViT of 12 blocks with random weights, in evaluation mode.

    Args:
        grid: rows and columns of patches.
        width: D.
        std: of the weights' matrices.
        options: of timm's `VisionTransformer`.
    """
    with undisturbed(seed=0):
        shape = {"img_size": 2 * grid, "patch_size": 2, "embed_dim": width, "depth": DEPTH, "num_heads": 2}
        vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, mlp_ratio=1.0, **{**shape, **options})
        for parameter in vit.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=std)
            else:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return VisionEncoder(vit).eval()


def transparent_vit() -> VisionEncoder:
    """Return a ViT in double precision whose blocks attend but pass all tokens on as they are.

    Its 196 patches have linearly independent embeddings, so that it can be told of each token which patches it is made
    of, and in what shares.
    """
    encoder = tiny_vit(width=256, std=0.03).double()
    for index in range(encoder.depth):
        for layer in ("attn.proj", "mlp.fc2"):
            for parameter in encoder.blocks[index].get_submodule(layer).parameters():
                nn.init.zeros_(parameter)
    nn.init.normal_(encoder.patch_embed.get_parameter("proj.weight"), std=1.0)
    nn.init.normal_(encoder.get_parameter("pos_embed"), std=1.0, generator=torch.Generator().manual_seed(5))
    encoder.norm = nn.Identity()
    return encoder


def images(batch: int, encoder: VisionEncoder) -> Tensor:
    """Return made-up pictures for an encoder, in its precision: [B, 3, H, W]."""
    side = 2 * encoder.grid[0]
    return made_up((batch, 3, side, side), seed=2).to(next(encoder.parameters()).dtype)


def made_up(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return normal random numbers; the first rows of a longer batch are those of a shorter one."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made_up_text(batch: int, encoder: VisionEncoder) -> Text:
    """Return made-up texts of several tokens as wide as the encoder, the last of which are padding in every other."""
    states = made_up((batch, TEXT_LENGTH, encoder.width), seed=3).to(next(encoder.parameters()).dtype)
    mask = torch.ones(batch, TEXT_LENGTH, dtype=torch.bool)
    mask[::2, TEXT_LENGTH // 2 :] = False
    return Text(states, mask)


@torch.no_grad()
def with_teacher(encoder: VisionEncoder, reducer: TokenReducer, image: Tensor, guide: Guide) -> Guide:
    """Return the guide with what a momentum encoder would tell the reducer, if it wants anything."""
    needs = reducer.teacher_needs
    return replace(guide, teacher=encoder(image, guide=guide, watch=needs.watch()).teacher(needs))


def record_visits(reducer: TokenReducer) -> list[Visit]:
    """Return a list that fills with what the reducer does from now on."""
    visits: list[Visit] = []

    def watched(hook: Callable) -> Callable:
        def call(block: int, tokens: Tokens, *rest: Any) -> Tokens:
            context: ReductionContext = rest[-1]
            prefix, copy = context.prefix, context.prefix.clone()
            after = hook(block, tokens, *rest)
            kept = context.prefix is prefix and torch.equal(prefix, copy)
            visits.append(Visit(block, tokens, after, kept, context.guide.progress))
            return after

        return call

    for name in ("before_block", "after_attention"):
        setattr(reducer, name, watched(getattr(reducer, name)))
    return visits


def as_arguments(params: Mapping[str, Any]) -> str:
    """Return parameters as they are written in a call."""
    return ", ".join(f"{key}={value!r}" for key, value in params.items())
