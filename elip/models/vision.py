"""A timm Vision Transformer whose blocks run under a token reducer."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer, global_pool_nlc
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from elip.config.schema import VisionConfig
from elip.errors import ConfigError, ElipError, did_you_mean
from elip.hosts import host_class
from elip.reduction.guide import Guide, Watch
from elip.reduction.reducer import EncoderInfo, TokenReducer
from elip.reduction.walk import BlockHalves, Host, LookAhead, VisionOutput, encoder_info, walk

_LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"}
"""Options of timm's that would load weights without an account of them."""

logger = logging.getLogger(__name__)


class Normalization(NamedTuple):
    """Mean and standard deviation of the channels R, G, B, for values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class VisionEncoder(nn.Module):
    """A ViT that lets a reducer act before each block and between its attention and its MLP.

    Parameters are those of the timm model, under the same names.

    `normalization` is what the model's own config says its images are normalised by, as its published weights were
    trained; None where it says nothing.

    Args:
        vit: a ViT whose blocks a host knows (`elip.hosts`).

    Raises:
        ElipError: if the ViT's blocks are of another kind.
    """

    cost_part: ClassVar[str] = "vision"

    patch_embed: nn.Module
    pos_drop: nn.Module
    norm_pre: nn.Module
    blocks: nn.Sequential
    norm: nn.Module
    fc_norm: nn.Module
    head_drop: nn.Module
    head: nn.Module

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self._host_of = host_class(vit)
        vit = cast(VisionTransformer, vit)
        for name, parameter in vit.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, module in vit.named_children():
            self.add_module(name, module)
        self.embed_dim: int = vit.embed_dim
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.has_class_token: bool = vit.has_class_token
        self.pooling: str = vit.global_pool
        self.no_embed_class: bool = vit.no_embed_class
        self.pool_include_prefix: bool = vit.pool_include_prefix
        self.normalization: Normalization | None = normalization_of(vit)
        self.checkpoint_activations = False
        self.look_ahead = LookAhead()

    @classmethod
    def create(cls, config: VisionConfig, num_classes: int = 0) -> "VisionEncoder":
        """Return a new encoder of random weights; those that the config names `elip.weights.build` loads.

        Args:
            config: name, image size, options.
            num_classes: width of timm's classifier head; 0 for none.
        """
        return cls(create_vit(config, num_classes))

    @property
    def host(self) -> Host:
        """This encoder as the walk over its blocks sees it."""
        return self._host_of(self)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """D."""
        return self.host.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.host.grid

    def info(self, text_width: int | None = None) -> EncoderInfo:
        """Return what a reducer may know of this encoder."""
        return encoder_info(self.host, text_width)

    def halves(self, block: int) -> BlockHalves:
        """Return one block in its two halves."""
        return self.host.blocks[block]

    def embed(self, image: Tensor) -> Tensor:
        """Return prefix and patch tokens with their positions, as block 0 gets them: [B, P + N, D]."""
        return self.host.embed(image)

    def forward(
        self,
        image: Tensor,
        reducer: TokenReducer | None = None,
        guide: Guide | None = None,
        watch: Watch | None = None,
    ) -> VisionOutput:
        """Return the image's tokens, reduced on the way.

        Args:
            image: [B, 3, H, W].
            reducer: None keeps all tokens; so does one that requires a text where the guide has none.
            guide: what may decide which patches to keep: text, progress of the training, what a teacher saw.
            watch: what to give back beside the tokens.
        """
        return walk(
            self.host,
            image,
            reducer,
            guide,
            watch,
            training=self.training,
            look_ahead=self.look_ahead,
            run=self._run,
        )

    def pooled(self, embeds: Tensor) -> Tensor:
        """Return one vector an image as timm pools it: [B, P + N, D] to [B, D]."""
        pool = self._modules.get("attn_pool")
        if pool is None:
            x = global_pool_nlc(embeds, self.pooling, self.num_prefix_tokens, self.pool_include_prefix)
        else:
            x = pool(embeds if self.pool_include_prefix else embeds[:, self.num_prefix_tokens :])
        return self.fc_norm(x)

    def classify(self, embeds: Tensor) -> Tensor:
        """Return timm's class logits: [B, P + N, D] to [B, classes]."""
        return self.head(self.head_drop(self.pooled(embeds)))

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a half of a block, so that the backward pass computes its activations again if that is wanted."""
        if self.checkpoint_activations and self.training and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)


def normalization_of(vit: nn.Module) -> Normalization | None:
    """Return what the model's own config says its images are normalised by; None where it says nothing."""
    config = getattr(vit, "pretrained_cfg", None) or {}
    if not {"mean", "std"} <= config.keys():
        return None
    return Normalization(tuple(config["mean"]), tuple(config["std"]))


def create_vit(config: VisionConfig, num_classes: int = 0) -> VisionTransformer:
    """Return timm's model of random weights, of which a `VisionEncoder` can be made.

    Raises:
        ConfigError: timm has no such model, or cannot build it with these options.
        ElipError: no host knows its blocks.
    """
    if not timm.is_model(config.name):
        raise ConfigError(
            f"model.vision.name: timm {timm.__version__} has no model {config.name!r}."
            f"{did_you_mean(config.name, timm.list_models('*vit*') + timm.list_models('*deit*'))}"
        )
    for option in _LOADING & config.options.keys():
        raise ConfigError(
            f"model.vision.options.{option}: weights are named by model.vision.weights (timm, or a file)."
        )
    try:
        vit = timm.create_model(config.name, img_size=config.image_size, num_classes=num_classes, **config.options)
        host_class(vit)  # refuses what no reducer could act in, before weights are read for it
    except ElipError:
        raise
    except (TypeError, AssertionError, OSError, RuntimeError, ValueError, LookupError, ArithmeticError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"model.vision: timm cannot build {config.name!r} with these settings: {reason}") from error
    _check_patches(vit, config.image_size)
    return vit


def _check_patches(vit: VisionTransformer, side: int) -> None:
    """Warn of pixels that no patch sees, and refuse images of less than one patch."""
    patch: int = vit.patch_embed.patch_size[0]
    if side < patch:
        raise ConfigError(f"model.vision.image_size: {side} px is less than one patch of {patch} px.")
    if side % patch and not vit.patch_embed.proj.weight.is_meta:  # one without memory is built to try, and then again
        logger.warning(
            "model.vision.image_size: %d px are no multiple of the patches' %d px: the %d px at the right and at the "
            "bottom of each image are not seen; take %d or %d",
            *(side, patch, side % patch, side - side % patch, side + patch - side % patch),
        )
