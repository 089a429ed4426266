"""What tells token reducers apart beside their cost, measured rather than declared."""

from dataclasses import dataclass

import torch

from elip.efficiency.memory import saved_bytes
from elip.efficiency.vision_cost import Classifier
from elip.models.vision import VisionEncoder
from elip.reduction.reducer import TokenReducer
from elip.undisturbed import undisturbed


@dataclass(frozen=True)
class Properties:
    """What a reducer is like in a ViT.

    Args:
        added_parameters: its own, beside the encoder's.
        drops_in_training: whether fewer tokens leave the last block in training, too, and not only in inference.
        saved_bytes: kept for the backward pass of encoder and reducer, per image, in single precision.
        has_source: whether it is known of each patch which token it lives in.
    """

    added_parameters: int
    drops_in_training: bool
    saved_bytes: float
    has_source: bool


def measure_properties(encoder: VisionEncoder, reducer: TokenReducer) -> Properties:
    """Return what the reducer is like in that encoder, once training's schedules are at their end.

    Args:
        encoder: with random weights or others.
        reducer: made for that encoder. One that needs a text gets a made-up text [CLS].
    """
    model, batch_size = Classifier(encoder, reducer), 2
    with undisturbed(model, training=False), torch.no_grad():
        inputs = tuple(torch.cat([tensor] * batch_size) for tensor in model.example())
        has_source = model.encode(*inputs, source=True).tokens.source is not None
    with undisturbed(model, training=True):
        saved = saved_bytes(lambda: model.loss(*inputs), model)
    whole = encoder.num_prefix_tokens + encoder.grid[0] * encoder.grid[1]
    return Properties(
        added_parameters=sum(p.numel() for p in reducer.parameters()),
        drops_in_training=model.blocks[-1].mlp < whole,
        saved_bytes=saved / batch_size,
        has_source=has_source,
    )
