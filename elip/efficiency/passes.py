"""Passes through a model to measure it: without reduction, and without its values.

Costs follow from shapes, and on the meta device a tensor has a shape and no memory, and nothing is computed. Values
that a pass needs are mostly those of the batch (how many words are masked, which image a text belongs to), so that a
batch keeps its values, and only what meets weights has none. A pass whose course depends on that, such as one that
keeps as many tokens as an image needs, fails without values, and is run with them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from elip.errors import ElipError
from elip.models.vision import VisionEncoder

logger = logging.getLogger(__name__)
META = torch.device("meta")
T = TypeVar("T")


class NoValuesError(ElipError):
    """A pass cannot do without the values of a model that has none."""


def encoders_of(module: nn.Module) -> list[VisionEncoder]:
    """Return all image encoders in a model, momentum copies included."""
    return [part for part in module.modules() if isinstance(part, VisionEncoder)]


@contextmanager
def unreduced(model: nn.Module) -> Iterator[None]:
    """Return a context in which all image encoders of a model keep all tokens, whatever reducer they are given."""

    def keep_all(_encoder: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args[:1], {**options, "reducer": None}

    hooks = [encoder.register_forward_pre_hook(keep_all, with_kwargs=True) for encoder in encoders_of(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def without_values(model: nn.Module, run: Callable[[], T]) -> T:
    """Return what `run` gives while parameters and buffers of a model are on the meta device.

    Where that fails, for whatever reason, it is run again with their values.

    Args:
        model: on any device, and there again afterwards.
        run: calls it, with inputs that `to_device_of` gave.

    Raises:
        NoValuesError: it fails for a model that is on the meta device.
    """
    try:
        with _on_meta(model), _KnownValues(), _CpuAttention():
            return run()
    except Exception as error:
        if any(tensor.is_meta for tensor in model.parameters()):
            raise NoValuesError(f"{type(error).__name__}: {error}") from error
        logger.debug("run again with values: %s: %s", type(error).__name__, error)
    return run()


def to_device_of(model: nn.Module, tensor: Tensor) -> Tensor:
    """Return an input of the model on its device; where the model has no values for now, the input keeps its own."""
    return tensor.to(next(model.parameters()).device)


@contextmanager
def _on_meta(model: nn.Module) -> Iterator[None]:
    """Return a context in which parameters and buffers have no values; what was one tensor stays one."""
    twins: dict[int, Tensor] = {}
    registers: list[dict[str, Any]] = [
        register for part in model.modules() for register in (part._parameters, part._buffers)
    ]
    before = [(register, dict(register)) for register in registers]
    try:
        for register in registers:
            for name, tensor in register.items():
                if tensor is not None:
                    register[name] = twins.setdefault(id(tensor), _twin(tensor))
        yield
    finally:
        for register, tensors in before:
            register.update(tensors)


def _twin(tensor: Tensor) -> Tensor:
    twin = torch.empty_like(tensor, device=META)
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


class _KnownValues(TorchDispatchMode):
    """Lets tensors that have values and tensors that have none meet: the result has none.

    Values are kept where they are known: what is moved to the meta device, and a few things that are made there, are on
    the CPU in truth.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if not any(tensor.is_meta for tensor in tensors):
            # no more than these: zeros that are filled later with what is not known would still pass for known
            if func.overloadpacket in _KEPT and kwargs.get("device") == META:
                kwargs = {**kwargs, "device": torch.device("cpu")}
            return func(*args, **kwargs)
        if not all(tensor.is_meta for tensor in tensors):
            if func._schema.is_mutable and not args[0].is_meta:
                raise NoValuesError(f"{func} would write what is not known into a tensor that is.")
            if (
                func.overloadpacket in _INDEXED
            ):  # how many places of a mask are true, torch would ask of the meta device
                args = [args[0], [place for index in args[1] for place in _places(index)], *args[2:]]
            if func.overloadpacket is _aten.index and _is_uniform(known := args[0]):
                return known.new_full(_shaped(func, *_without_values(args, kwargs)).shape, known.flatten()[0].item())
            args, kwargs = _without_values(args, kwargs)
        return _shaped(func, tuple(args), kwargs)


class _Description(NamedTuple):
    """All that there is to know of a tensor without values."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


_outcomes: dict[Any, Any] = {}
"""What operators give, by what they are given: the layers of a model are alike, and torch works many out in Python."""


def _shaped(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what an operator gives for tensors without values."""
    if any(result.alias_info is not None for result in func._schema.returns):
        return func(*args, **kwargs)  # a view or the tensor itself: memory that is shared counts once
    key = func, _described(args), *((name, _described(value)) for name, value in kwargs.items())
    try:
        known = _outcomes.get(key)
    except TypeError:  # a list of something that cannot be looked up
        return func(*args, **kwargs)
    if known is None:
        out = func(*args, **kwargs)
        _outcomes[key] = tree_map(lambda part: _described(part) if isinstance(part, Tensor) else part, out)
        return out
    return tree_map(_made, known, is_leaf=lambda part: isinstance(part, _Description))


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Description(value.shape, value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(map(_described, value))
    return (type(value), value)  # 1 and 1.0 are equal, and give tensors of different types


def _made(part: Any) -> Any:
    if isinstance(part, _Description):
        return torch.empty_strided(part.shape, part.stride, dtype=part.dtype, device=META)
    return part


_aten = torch.ops.aten
_KEPT = {_aten._to_copy, _aten.arange, _aten.eye}
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_}


def _has_values(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta


def _without_values(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tree_map(lambda value: value.to(META) if _has_values(value) else value, (tuple(args), kwargs))


def _is_uniform(value: Any) -> bool:
    """Return whether it is known what is found at unknown places of a tensor: the same as everywhere."""
    return _has_values(value) and value.numel() > 0 and bool((value == value.flatten()[0]).all())


def _places(index: Any) -> Sequence[Any]:
    """Return indices whose size is known in the place of one: those of a mask are the places where it is true."""
    if _has_values(index) and index.dtype in (torch.bool, torch.uint8):
        return index.nonzero().unbind(dim=1)
    return [index]


class _CpuAttention(TorchFunctionMode):
    """Gives attention the kernel that it has on the CPU.

    For the meta device torch has no fused one: it would write attention out, and keep whole matrices for the backward
    pass, which nobody's memory has to hold.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args and args[0].is_meta:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


_FLASH = 1
"""Number of the fused kernel in torch's `SDPBackend`."""


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **rest: Any,
) -> Tensor:
    q, k, v = map(_like_on_cpu, (query, key, value))
    mask = None if attn_mask is None else _like_on_cpu(attn_mask)
    chosen = torch._fused_sdp_choice(q, k, v, mask, dropout_p, is_causal, scale=scale)
    if chosen != _FLASH or any(rest.values()):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **rest)
    fused, added = _aten._scaled_dot_product_flash_attention_for_cpu, attn_mask
    if added is not None and added.dtype == torch.bool:
        added = added.to(query.dtype)  # 0 or minus infinity, to be added to the logits
    return fused(query, key, value, dropout_p, is_causal, attn_mask=added, scale=scale)[0]


def _like_on_cpu(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, requires_grad=tensor.requires_grad)
