"""Telling a reducer's look-ahead apart from the rest of a pass, whatever the reducer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from torch import nn

from elip.models.vision import VisionEncoder
from elip.reduction.reducer import Blocks


class LookAhead(nn.Module):
    """A place among the modules of a model that is counted: what is called through it happens in its scope."""

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what the function gives."""
        return function(*args)


@contextmanager
def looking_ahead_through(place: LookAhead, model: nn.Module) -> Iterator[None]:
    """Return a context in which all that reducers run through `ReductionContext.blocks` is called through `place`."""
    encoders = [module for module in model.modules() if isinstance(module, VisionEncoder)]
    before = [encoder.make_blocks for encoder in encoders]
    for encoder, make in zip(encoders, before, strict=True):
        encoder.make_blocks = partial(_watched, place, make)
    try:
        yield
    finally:
        for encoder, make in zip(encoders, before, strict=True):
            encoder.make_blocks = make


def _watched(place: LookAhead, make: Callable[[VisionEncoder], Blocks], encoder: VisionEncoder) -> Blocks:
    return cast(Blocks, _Watched(place, make(encoder)))


class _Watched:
    """Blocks whose every method is called through a place."""

    def __init__(self, place: LookAhead, blocks: Blocks) -> None:
        self._place = place
        self._blocks = blocks

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._place, getattr(self._blocks, name))
