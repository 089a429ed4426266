"""Evaluating and measuring a model without leaving a trace: in random numbers, in its modes, in its buffers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from elip.rng import rng_state, seed_everything, set_rng_state


@contextmanager
def undisturbed(
    module: nn.Module | None = None, *, training: bool = False, seed: int = 0, buffers: bool = True
) -> Iterator[None]:
    """Return a context with random numbers of its own, after which all is as if it had not been.

    Afterwards each part of the module is in the mode it was in, buffers hold what they held, and
    all generators go on where they were.

    Args:
        module: to train or not in there; None where only random numbers are kept apart.
        training: whether it trains.
        seed: of the random numbers in there, the same each time.
        buffers: keep a copy of them to put back; not needed for what changes none, and queues are large.
    """
    parts = [] if module is None else list(module.modules())
    modes = [part.training for part in parts]
    kept = [
        (part, name, buffer, buffer.clone())
        for part in (parts if buffers else [])
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    before = rng_state()
    seed_everything(seed)
    if module is not None:
        module.train(training)
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode  # not by train(), which would go down into the parts
        with torch.no_grad():
            for part, name, buffer, value in kept:
                part._buffers[name] = buffer.copy_(value)
        set_rng_state(before)
