"""A timm Vision Transformer whose blocks run under a token reducer."""

import logging
from typing import ClassVar, NamedTuple, cast

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from elip.config.schema import VisionConfig
from elip.errors import ConfigError, ElipError, did_you_mean
from elip.execution import AT_ONCE, Execution
from elip.hosts import host_class
from elip.hosts.sharing import REGISTERS, shared
from elip.reduction.encoder import EncoderInfo
from elip.reduction.guide import Guide, Watch
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import Host, LookAhead, VisionOutput, encoder_info, walk

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
    blocks: nn.Sequential
    norm: nn.Module
    _vit: nn.Module

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self._host_of = host_class(vit)
        vit = shared(vit, type(vit))
        # Parameters go by the model's own names, and yet the model's own methods must find them: both have the very
        # same registers, so that whatever moves, replaces or copies the encoder's parameters does so with the model's.
        # The model itself stays out of the register of modules, in which everything would get a second name.
        for register in REGISTERS:
            self.__dict__[register] = vit.__dict__[register]
        self.__dict__["_vit"] = vit
        self.normalization: Normalization | None = normalization_of(vit)
        self.execution = Execution()
        self.look_ahead = LookAhead()

    @property
    def host(self) -> Host:
        """This encoder as the walk over its blocks sees it."""
        return self._host_of(self._vit, light=self.execution.light and self.training)

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

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens in front of the patches: CLS and registers."""
        return self.host.num_prefix_tokens

    @property
    def has_class_token(self) -> bool:
        """Whether the first of them is CLS."""
        return self.host.has_class_token

    @property
    def no_embed_class(self) -> bool:
        """Whether prefix tokens have no position embedding."""
        return bool(getattr(self._vit, "no_embed_class", False))

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
            run=self.execution if self.training else AT_ONCE,
            look_ahead=self.look_ahead,
        )

    def classify(self, embeds: Tensor) -> Tensor:
        """Return the model's own class logits, or its pooled feature if it has no classifier: [B, P + N, D] to [B, C].

        Its pooling counts each token once, however many patches it stands for.
        """
        return self.host.head(embeds)


def create_vit(config: VisionConfig, num_classes: int = 0) -> VisionTransformer:
    """Return timm's model of random weights, of which a `VisionEncoder` can be made.

    Args:
        config: name, image size, options; the weights that it names are loaded by `elip.weights.vit`.
        num_classes: width of timm's classifier head; 0 for none.

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
        made = timm.create_model(config.name, img_size=config.image_size, num_classes=num_classes, **config.options)
        vit = cast(VisionTransformer, made)
        host_class(vit)  # refuses what no reducer could act in, before weights are read for it
    except ElipError:
        raise
    except (TypeError, AssertionError, OSError, RuntimeError, ValueError, LookupError, ArithmeticError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"model.vision: timm cannot build {config.name!r} with these settings: {reason}") from error
    _check_patches(vit, config.image_size)
    return vit


def normalization_of(vit: nn.Module) -> Normalization | None:
    """Return what the model's own config says its images are normalised by; None where it says nothing."""
    config = getattr(vit, "pretrained_cfg", None) or {}
    if not {"mean", "std"} <= config.keys():
        return None
    return Normalization(tuple(config["mean"]), tuple(config["std"]))


def _check_patches(vit: VisionTransformer, side: int) -> None:
    """Warn of pixels that no patch sees, and refuse images of less than one patch."""
    patch: int = vit.patch_embed.patch_size[0]
    if side < patch:
        raise ConfigError(f"model.vision.image_size: {side} px is less than one patch of {patch} px.")
    if not vit.patch_embed.proj.weight.is_meta:  # one without memory is built to try, and then again
        warn_of_unseen_pixels(side, patch)


def warn_of_unseen_pixels(side: int, patch: int) -> None:
    """Warn of pixels that no patch sees, if there are any.

    Args:
        side: of the image, pixels.
        patch: side of a patch, pixels.
    """
    if side % patch:
        logger.warning(
            "model.vision.image_size: %d px are no multiple of the patches' %d px: the %d px at the right and at the "
            "bottom of each image are not seen; take %d or %d",
            *(side, patch, side % patch, side - side % patch, side + patch - side % patch),
        )
