"""The parts every task shares: image encoder, text and fusion encoder, projections to the joint space, reducer.

Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation", NeurIPS 2021.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elip.config.schema import ReducerConfig
from elip.errors import ConfigError
from elip.execution import Execution
from elip.models.heads import LinearHead
from elip.models.text import TextEncoder
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, TeacherNeeds, Watch
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import VisionOutput
from elip.registry import REDUCERS
from elip.rng import derived_seed, drawing_apart


class Albef(nn.Module):
    """Image and text encoders with projections of their [CLS] to one space.

    Args:
        visual_encoder: the ViT.
        text_encoder: BERT with fusion layers.
        reducer: acts in the ViT; None keeps all tokens.
        embed_dim: E, width of the joint space of images and texts; None for a model without projections to it.
        eval_reducer: takes its place in evaluation mode; None for the same one.
    """

    def __init__(
        self,
        visual_encoder: VisionEncoder,
        text_encoder: TextEncoder,
        reducer: TokenReducer | None,
        embed_dim: int | None,
        eval_reducer: TokenReducer | None = None,
    ) -> None:
        super().__init__()
        self.visual_encoder = visual_encoder
        self.text_encoder = text_encoder
        if embed_dim is not None:
            self.vision_proj = LinearHead(visual_encoder.width, embed_dim)
            self.text_proj = LinearHead(text_encoder.width, embed_dim)
        self.reducer = reducer
        self.eval_reducer = eval_reducer

    def set_execution(self, execution: Execution) -> None:
        """Choose how training runs the blocks of both encoders."""
        self.visual_encoder.execution = execution
        self.text_encoder.execution = execution

    def encode_image(
        self, image: Tensor, guide: Guide | None = None, watch: Watch | None = None, *, reduce: bool = True
    ) -> VisionOutput:
        """Return the image's tokens.

        Args:
            image: [B, 3, H, W].
            guide: what may decide which patches to keep.
            watch: what to give back beside the tokens.
            reduce: run under the reducer; else keep all tokens.
        """
        reducer = self.reducer if self.training or self.eval_reducer is None else self.eval_reducer
        return self.visual_encoder(image, reducer if reduce else None, guide, watch)

    @property
    def teacher_needs(self) -> TeacherNeeds:
        """What the reducer wants to know of the momentum encoder's pass."""
        return TeacherNeeds() if self.reducer is None else self.reducer.teacher_needs

    def teacher_needs_at(self, progress: float) -> TeacherNeeds:
        """Return the same when so much of the training is done: nothing once the reduction is over (`until`)."""
        over = self.reducer is not None and self.reducer.is_over(progress)
        return TeacherNeeds() if over else self.teacher_needs

    def image_feat(self, embeds: Tensor) -> Tensor:
        """Return unit features from CLS, or from the mean token of a ViT without one: [B, P + N, D] to [B, E]."""
        summary = embeds[:, 0] if self.visual_encoder.has_class_token else embeds.mean(dim=1)
        return F.normalize(self.vision_proj(summary), dim=-1)

    def text_feat(self, embeds: Tensor) -> Tensor:
        """Return unit features of texts: [T, L, D] to [T, E]."""
        return F.normalize(self.text_proj(embeds[:, 0]), dim=-1)


def build_reducer(config: ReducerConfig, encoder: VisionEncoder, text_width: int | None = None) -> TokenReducer:
    """Return the reducer that the config names, made for that encoder.

    Its own weights are drawn apart, from the seed in force: all else that is drawn, before and after it, is the same
    whichever reducer it is.
    """
    with drawing_apart(derived_seed(torch.initial_seed())):
        reducer = REDUCERS.build(config.name, encoder.info(text_width), **config.params)
    if not isinstance(reducer, TokenReducer):
        raise ConfigError(
            f"reducer {config.name!r}: its class {type(reducer).__name__} is no elip.reduction.TokenReducer."
        )
    reducer.strict, reducer.until = config.strict, config.until
    return reducer


def build_eval_reducer(config: ReducerConfig, encoder: VisionEncoder, text_width: int) -> TokenReducer:
    """Return the reducer for evaluation only; one with parameters cannot be, as nothing would train them."""
    reducer = build_reducer(config, encoder, text_width)
    if next(reducer.parameters(), None) is not None:
        raise ConfigError(
            f"eval.reducer: {config.name!r} has parameters, which only training under it can learn. "
            "Train with it (reducer.name), or take one without parameters."
        )
    return reducer
