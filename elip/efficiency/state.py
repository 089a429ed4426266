"""Measuring a model without leaving a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from elip.models.vision import VisionEncoder


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter."""
    return next(module.parameters()).device


def encoders_of(module: nn.Module) -> list[VisionEncoder]:
    """Return all image encoders in a model, momentum copies included."""
    return [part for part in module.modules() if isinstance(part, VisionEncoder)]


@contextmanager
def undisturbed(module: nn.Module, training: bool) -> Iterator[None]:
    """Return a context in which the module trains or does not, and random numbers start from the same state each time.

    Afterwards each part is in the mode it was in, buffers hold what they held, and random state is as it was.
    """
    modes = {part: part.training for part in module.modules()}
    buffers = [(part, name, buffer, buffer.clone()) for part in module.modules() for name, buffer in _buffers(part)]
    device = device_of(module)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        module.train(training)
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
            for part, name, buffer, value in buffers:
                with torch.no_grad():
                    part._buffers[name] = buffer.copy_(value)


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


def _buffers(part: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in part._buffers.items() if buffer is not None]
