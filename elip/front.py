"""What `import elip` gives for image encoders; `elip.trained` is its counterpart for runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
from torch import Tensor, nn

from elip.config.schema import VisionConfig
from elip.efficiency.vision_cost import vision_cost
from elip.errors import ElipError
from elip.hosts import host_class
from elip.hosts.reduced import Reduced
from elip.hosts.sharing import shared
from elip.models.vision import VisionEncoder, create_vit
from elip.reduction.reducer import NoReduction
from elip.reduction.walk import encoder_info
from elip.registry import REDUCERS
from elip.weights.vit import load_vit

NO_REDUCTION = "none"
"""The reducer that keeps all tokens."""


def list_reducers() -> list[str]:
    """Return the names of all reducers: built-in ones, those of installed packages, and those registered by now."""
    return REDUCERS.names()


def reduced(
    vit: nn.Module,
    name: str,
    /,
    *,
    text_width: int | None = None,
    strict: bool = False,
    until: float | None = None,
    **params: Any,
) -> Reduced:
    """Return a ViT under a token reducer: a new module with the model's own interface, over the same weights.

    It is of the model's own class, with its `forward`, `forward_features` (the tokens that are left), `forward_head`
    and names of parameters; those of a reducer that has some are beside them, under `reducer.`. `walk(images, text)`
    gives what the model's own interface has no place for: counts, the map from patches to tokens, the reducer's losses.

    - The model given stays as it is. Weights are those of both, and so are the modes of its parts: `train()`, `eval()`
      and `to()` of either reach them. A copy is one's own: `elip.reduced(copy.deepcopy(vit), ...)`.
    - `forward` encodes images alone, in the state after training: a reducer that needs a text keeps all tokens there.
    - Pooling is the model's own. Its mean counts each token once, however many patches were merged into it.
    - Of a model that is reduced already, the reducer is replaced.

    Args:
        vit: a model of timm whose blocks a host knows (`elip.hosts`).
        name: of the reducer, one of `list_reducers()`.
        text_width: width of the hidden states of texts, for a reducer that needs them; None for the ViT's own.
        strict: fail, instead of keeping all tokens, where the reducer needs a text and there is none.
        until: share of a training, in (0, 1), from which on all tokens are kept, for `walk` with a guide that tells the
            progress; all other passes, which are after training, keep all tokens then. None for never.
        params: of the reducer.

    Raises:
        ElipError: the model is of another kind, there is no such reducer, or its parameters do not fit the model.
    """
    if not isinstance(vit, nn.Module):
        raise ElipError(f"elip.reduced takes a model, such as timm.create_model gives, not {vit!r}.")
    make_host = host_class(vit)
    host = make_host(vit)
    reducer = REDUCERS.build(name, encoder_info(host, text_width or host.width), **params)
    if until is not None and not 0 < until < 1:
        raise ElipError(f"until: expected a share of the training between 0 and 1, got {until!r}.")
    reducer.strict, reducer.until = strict, until
    weight = next(vit.parameters())
    model = shared(vit, make_host.reduced_class(vit))
    model.reducer = reducer.to(weight.device, weight.dtype).train(vit.training)
    return model


def create_encoder(
    name: str,
    reducer: str | Mapping[str, Any] | None = None,
    *,
    image_size: int | None = None,
    weights: str | None = None,
    num_classes: int = 0,
    **options: Any,
) -> Reduced:
    """Return a new ViT by its timm name under a token reducer; see `reduced`.

    Args:
        name: timm's.
        reducer: its name, or a mapping of `name` and its parameters; None keeps all tokens.
        image_size: side of the square input, pixels; position embeddings are resized to it. None for timm's default.
        weights: `timm` for timm's pretrained ones, a checkpoint file, or None for random ones.
        num_classes: width of the classifier head; 0 for none, so that `forward` gives the pooled feature.
        options: passed to `timm.create_model`.

    Raises:
        ElipError: as `reduced`; or timm has no such model, or the weights do not fit it.
    """
    default = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    size = image_size or (default.input_size[-1] if default else VisionConfig().image_size)
    config = VisionConfig(name=name, image_size=size, weights=weights, options=options)
    vit = create_vit(config, num_classes)
    load_vit(config, vit, num_classes)
    params = {"name": reducer or NO_REDUCTION} if reducer is None or isinstance(reducer, str) else dict(reducer)
    return reduced(vit, params.pop("name", NO_REDUCTION), **params)


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one image in a ViT, head included; the mean where images differ. 1 GMAC is 2 GFLOPs.

    Args:
        gmacs: with everything that the reducer adds.
        dense_gmacs: with all tokens kept.
        look_ahead_gmacs: the part of `gmacs` that the reducer runs ahead.
        tokens: that leave each block, prefix included.
    """

    gmacs: float
    dense_gmacs: float
    look_ahead_gmacs: float
    tokens: list[float]

    @property
    def ratio(self) -> float:
        """Of the cost without a reducer."""
        return self.gmacs / self.dense_gmacs

    def __str__(self) -> str:
        ahead = f", {self.look_ahead_gmacs:.2f} of them run ahead" if self.look_ahead_gmacs else ""
        tokens = " ".join(f"{count:.4g}" for count in self.tokens)
        return (
            f"{self.gmacs:.2f} GMACs an image{ahead}; {self.dense_gmacs:.2f} without a reducer (ratio {self.ratio:.2f})"
            f"\ntokens after each block: {tokens}"
        )


def cost(vit: nn.Module, images: Sequence[Tensor] | None = None) -> Cost:
    """Return what one image costs in a ViT, with its reducer if it has one, and without.

    Args:
        vit: what `reduced` gave, or a model that it would take. It is left as it is.
        images: [3, H, W] each, to take the mean over where the reducer keeps different numbers of tokens in different
            images; None for noise. A reducer that needs a text gets a made-up one.

    Raises:
        ElipError: the model is of another kind, or does something whose cost is not known.
    """
    if not isinstance(vit, nn.Module):
        raise ElipError(f"elip.cost takes a model, such as elip.reduced gives, not {vit!r}.")
    encoder = VisionEncoder(vit)
    dense = vision_cost(encoder)
    reducer = vit.reducer if isinstance(vit, Reduced) else NoReduction()
    used = dense if isinstance(reducer, NoReduction) else vision_cost(encoder, reducer, images)
    return Cost(used.total / 1e9, dense.total / 1e9, used.look_ahead / 1e9, [block.mlp for block in used.tokens])
