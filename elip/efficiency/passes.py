"""The image encoders of a model that is measured, with and without their reducers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from elip.models.vision import VisionEncoder


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter."""
    return next(module.parameters()).device


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
