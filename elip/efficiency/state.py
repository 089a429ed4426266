"""Measuring a model without leaving a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter."""
    return next(module.parameters()).device


@contextmanager
def undisturbed(module: nn.Module, training: bool) -> Iterator[None]:
    """Return a context in which the module trains or does not, and random numbers start from the same state each time.

    Afterwards each part is in the mode it was in, and random state is as it was.
    """
    modes = {part: part.training for part in module.modules()}
    device = device_of(module)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        module.train(training)
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
