"""Small encoders and reducers to cost."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from elip.config.schema import VisionConfig
from elip.models.vision import VisionEncoder, create_vit
from elip.reduction.encoder import EncoderInfo
from elip.reduction.guide import Guide, Teacher, text_of_cls
from elip.reduction.reducer import ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS


def make_encoder(name: str = "vit_tiny_patch16_224", **options: Any) -> VisionEncoder:
    """Return a ViT of 3 blocks, width 32 and 16 + 1 tokens, with a head of 10 classes."""
    config = VisionConfig(
        name=name, image_size=32, options={"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, **options}
    )
    return VisionEncoder(create_vit(config, num_classes=10))


def make_reducer(name: str, encoder: VisionEncoder, **params: Any) -> TokenReducer:
    """Return a built-in reducer for the small encoder, with stages before its last two blocks."""
    stages = {"begin": [1, 2], "keep_ratio": [0.75, 0.5]} if name != "none" else {}
    ahead = {"look_ahead": [2, 1]} if name == "elip" else {}
    return REDUCERS.build(name, encoder.info(encoder.width), **stages, **ahead, **params)


class Peek(TokenReducer):
    """Looks two blocks ahead of block 0, keeps the first half of the tokens, and has a layer of its own."""

    def __init__(self, encoder: EncoderInfo) -> None:
        super().__init__()
        self.own = nn.Linear(encoder.width, 5)

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if block != 0:
            return tokens
        with torch.no_grad():
            x = torch.cat([context.prefix, tokens.x], dim=1)
            context.blocks.run(1, context.blocks.run(0, x))
        self.own(tokens.x)
        half = round(tokens.x.shape[1] / 2)  # not every kind of size can be rounded
        return tokens.keep(torch.arange(half).expand(len(tokens.x), -1))


class KeepBright(TokenReducer):
    """Keeps the patches whose first feature is positive at block 1: other numbers in other images."""

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if block != 1:
            return tokens
        bright = tokens.x[:, :, 0] > 0
        order = bright.int().argsort(dim=1, descending=True, stable=True)
        count = bright.sum(dim=1)
        most = max(int(count.max()), 1)
        return replace(tokens.keep(order[:, :most]), mask=torch.arange(most) < count.unsqueeze(1).clamp_min(1))


class Classifier(nn.Module):
    """Encoder, reducer and head as one module."""

    def __init__(self, encoder: VisionEncoder, reducer: TokenReducer | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.reducer = reducer

    def forward(self, image: Tensor, text_cls: Tensor | None = None) -> Tensor:
        guide = Guide() if text_cls is None else Guide(text_of_cls(text_cls))
        if self.reducer is not None and self.reducer.requires_teacher:
            info, needs = self.encoder.info(), self.reducer.teacher_needs
            rows = torch.rand(len(image), info.num_heads, info.num_patches)
            blocks = needs.mixed_rows or needs.cls_rows
            guide = replace(guide, teacher=Teacher(mixed_rows=dict.fromkeys(blocks, rows)))
        return self.encoder.classify(self.encoder(image, self.reducer, guide).embeds)
