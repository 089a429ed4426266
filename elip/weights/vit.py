"""Pretrained weights of an image encoder from a file: all of them, or an error that says what does not fit."""

import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import load_pretrained
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from elip.config.schema import VisionConfig
from elip.errors import CheckpointError, ConfigError
from elip.weights.fitting import LoadReport, Rules, begins, counted, fit, score
from elip.weights.reading import DamagedError, read_tensors, require_regular
from elip.weights.wrappings import Unwrapped, described, unwrap

KEY = "model.vision.weights"
JAX = ".npz"

_PARTS = (
    *("visual_encoder.", "model.albef.visual_encoder.", "albef.visual_encoder."),
    *("vision_model.", "vision_encoder.", "image_encoder.", "visual.", "visual.trunk.", "trunk.", "vit."),
    *("encoder.", "backbone."),
)
"""Beginnings of the names of an image encoder within a larger model."""
_EXPECTED = ("head", "head_dist", "pre_logits", "mask_token")
"""Of files with a classifier, a distillation token's or masked pretraining: of no use to an encoder."""
_POSITIONS, _PATCHES = "pos_embed", "patch_embed.proj.weight"

logger = logging.getLogger(__name__)


def load_vit(config: VisionConfig, vit: VisionTransformer, num_classes: int = 0) -> None:
    """Load the pretrained weights that the config names, if any, and log what became of each tensor.

    Args:
        config: with `weights` of timm, of a file, or none.
        vit: built by timm as the config says; its weights change in place.
        num_classes: width of its classifier.

    Raises:
        CheckpointError: they cannot be read or do not fit.
        ConfigError: timm cannot get hold of its own.
    """
    if config.weights == "timm":
        _load_timm(vit, config, num_classes)
    elif config.weights is not None:
        logger.info("%s", _load_file(vit, Path(config.weights), config.weights_allow))


def _load_file(vit: VisionTransformer, path: Path, allowed: Sequence[str] = ()) -> LoadReport:
    """Load all weights of a ViT from a file, and return what became of each tensor.

    Names may be timm's, those of ALBEF's `visual_encoder`, or of any other form that timm converts (DINOv2's, CLIP's,
    JAX archives), wrapped in whatever way. Position embeddings are resized to the ViT's grid as timm does it.

    Args:
        vit: its weights change in place.
        path: file of `torch.save`, safetensors, or a JAX archive (.npz).
        allowed: names, or beginnings of names, of tensors that may be left over, missing or of another shape.

    Raises:
        CheckpointError: the file cannot be read or does not fit; nothing is loaded then.
    """
    rules = Rules(_EXPECTED, (), allowed, f"{KEY}_allow")
    own = vit.state_dict()
    if path.suffix == JAX:
        state = _from_jax(vit, path)
        report = LoadReport(described(path, (), ["a JAX archive, converted by timm"]), KEY)
    else:
        found = _from_file(vit, path, own)
        state = found.state
        report = LoadReport(
            described(path, found.undone), KEY, resized=dict(found.resized), other_parts=found.other_parts
        )
    fitting = fit(state, own, rules, report)
    vit.load_state_dict(fitting, strict=False)
    return report


def _load_timm(vit: VisionTransformer, config: VisionConfig, num_classes: int) -> None:
    """Load timm's own pretrained weights, from its cache or the hub, and refuse those that leave tensors unfilled."""
    found: list[Any] = []
    hook = vit.register_load_state_dict_post_hook(
        lambda _, keys: found.append((keys.missing_keys, keys.unexpected_keys))
    )
    conversion = partial(checkpoint_filter_fn, adapt_layer_scale=True)
    try:
        load_pretrained(
            vit, cast(dict, vit.pretrained_cfg), num_classes=num_classes, filter_fn=conversion, strict=False
        )
        missing, unused = ([name for keys in found for name in keys[which]] for which in (0, 1))
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{KEY}: timm cannot load its weights for {config.name!r}: {reason}") from error
    finally:
        hook.remove()
    missing = [name for name in missing if not begins(name, config.weights_allow)]
    if missing:
        raise CheckpointError(
            f"{KEY}: timm's weights do not fill the model that the options describe: {counted(missing, 'missing')}. "
            f"Change model.vision.options, or allow it by name: '{KEY}_allow=[{missing[0].partition('.')[0]}]'"
        )
    unused = [name for name in unused if not begins(name, (*_EXPECTED, *config.weights_allow))]
    if unused:
        logger.warning("%s: of timm's weights, %s", KEY, counted(unused, "have no place in this model"))


def resize_pos_embed(pos_embed: Tensor, new_grid: tuple[int, int], num_prefix: int) -> Tensor:
    """Return position embeddings for another grid of patches, bicubic as ALBEF does it; prefix places stay.

    Args:
        pos_embed: [1, prefix + old patches, D], from a square grid.
        new_grid: rows and columns wanted.
        num_prefix: places before the patches.
    """
    # timm's own way, taken for its weights below, blurs first where a grid becomes smaller; ALBEF's does not
    return resample_abs_pos_embed(pos_embed, list(new_grid), num_prefix_tokens=num_prefix, antialias=False)


def side_of(pos_embed: Tensor, num_prefix: int) -> int:
    """Return the side of the square grid that position embeddings [1, prefix + patches, D] are for, 0 if it is none."""
    patches = pos_embed.shape[-2] - num_prefix
    side = int(max(patches, 0) ** 0.5)
    return side if side * side == patches else 0


def _from_file(vit: VisionTransformer, path: Path, own: Mapping[str, Tensor]) -> Unwrapped:
    """Return the tensors of a file under timm's names."""
    contents, _ = read_tensors(path)

    def best(forms: Callable[[Unwrapped], Iterable[Unwrapped]]) -> Unwrapped:
        return unwrap(contents, path, lambda state: score(state, own), _PARTS, forms)

    found = best(lambda way: [_resized(way, vit)])
    if score(found.state, own) == len(own):
        return found
    return best(lambda way: [_resized(way, vit), *_by_timm(way, vit)])


def _resized(found: Unwrapped, vit: VisionTransformer) -> Unwrapped:
    """Return the weights with position embeddings for the ViT's grid, where the file's are of another square one."""
    old, new = found.state.get(_POSITIONS), vit.pos_embed
    if old is None or new is None or old.shape == new.shape or old.ndim != 3 or not side_of(old, _num_prefix(vit)):
        return found
    grid, num_prefix = list(vit.patch_embed.grid_size), _num_prefix(vit)
    state = {**found.state, _POSITIONS: resample_abs_pos_embed(old, grid, None, num_prefix)}
    return replace(found, state=state, resized=_sizes([old], vit))


def _by_timm(way: Unwrapped, vit: VisionTransformer) -> Iterator[Unwrapped]:
    """Yield what timm's conversion of other forms makes of the weights, if it makes anything of them."""
    try:
        state = checkpoint_filter_fn(dict(way.state), vit, adapt_layer_scale=True)
    except Exception as error:  # of names that mean nothing to it
        logger.debug("timm cannot convert the weights (%s)", error)
        return
    kernels = [tensor for tensor in way.state.values() if tensor.ndim == 4]
    if len(kernels) == 1 and _PATCHES in state and kernels[0].shape != state[_PATCHES].shape:
        state[_PATCHES] = kernels[0]  # patches of another size are another model's
    positions = [t for name, t in way.state.items() if name.endswith((_POSITIONS, "positional_embedding"))]
    yield replace(
        way,
        state=state,
        undone=(*way.undone, "the form that timm converts"),
        resized=_sizes(positions, vit) if _POSITIONS in state else {},
    )


def _from_jax(vit: VisionTransformer, path: Path) -> dict[str, Tensor]:
    """Return what timm makes of a JAX archive: the tensors that it fills, under timm's names."""
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        with np.load(path, allow_pickle=False) as arrays:
            sizes = {name: int(np.prod(arrays[name].shape)) for name in arrays.files}
    except Exception as error:  # damage to an archive makes zipfile and numpy raise anything
        raise DamagedError(f"{path} is cut short or damaged: it cannot be read as a JAX archive.") from error
    if damaged:
        raise DamagedError(f"{path} is cut short or damaged: {damaged} does not have its checksum.")
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    try:
        with torch.no_grad():
            for parameter in vit.parameters():
                parameter.fill_(torch.nan)  # what is NaN afterwards the archive does not have
            vit.load_pretrained(str(path))
        filled = {name: tensor.clone() for name, tensor in vit.state_dict().items() if not tensor.isnan().any()}
    except Exception as error:  # a missing array is a KeyError, one of another shape anything
        raise CheckpointError(f"{KEY}: timm cannot take {path} for this model: {error}") from error
    finally:
        vit.load_state_dict(before)
    unused = ("pos_embed", "head", "logits")
    given = sum(size for name, size in sizes.items() if not any(part in name for part in unused))
    taken = sum(t.numel() for name, t in filled.items() if name != _POSITIONS and not name.startswith("head"))
    if given > taken:
        raise CheckpointError(
            f"{KEY}: {path} holds {given:,} numbers beside positions and classifier, and this model has a place for "
            f"{taken:,} of them only. Check the name and the options beside {KEY}."
        )
    return filled


def _num_prefix(vit: VisionTransformer) -> int:
    return 0 if vit.no_embed_class else vit.num_prefix_tokens


def _sizes(positions: Sequence[Tensor], vit: VisionTransformer) -> dict[str, str]:
    """Return in words from which grid position embeddings of a file are resized, nothing where they are not."""
    rows, columns = vit.patch_embed.grid_size
    side = next(
        (side for side in (side_of(each, _num_prefix(vit)) for each in positions) if side not in (0, rows)), None
    )
    return {} if side is None else {_POSITIONS: f"{side} x {side} to {rows} x {columns}"}
