"""How many tokens to keep, as plain numbers: no tensors here."""

from collections.abc import Sequence
from itertools import pairwise
from math import floor

from elip.errors import ElipError


def check_stages(name: str, depth: int, begin: Sequence[int], keep_ratio: Sequence[float]) -> None:
    """Raise an error unless `begin` are rising block indices of the encoder, with one ratio in (0, 1] for each.

    Args:
        name: the reducer, for the message.
        depth: number of blocks.
        begin: blocks to reduce at, counted from 0.
        keep_ratio: share of the initial patches left after each.
    """
    if len(begin) != len(keep_ratio):
        raise ElipError(
            f"reducer {name!r}: begin has {len(begin)} blocks but keep_ratio has {len(keep_ratio)} values; "
            "give one ratio for each block."
        )
    for block in begin:
        if not 0 <= block < depth:
            raise ElipError(
                f"reducer {name!r}: begin: block {block} does not exist; this ViT has blocks 0 to {depth - 1}."
            )
    if any(later <= earlier for earlier, later in pairwise(begin)):
        raise ElipError(f"reducer {name!r}: begin: blocks must rise, got {list(begin)}.")
    for ratio in keep_ratio:
        if not 0 < ratio <= 1:
            raise ElipError(f"reducer {name!r}: keep_ratio: each value must be in (0, 1], got {ratio}.")


def num_keep(name: str, num_patches: int, keep_ratio: float) -> int:
    """Return floor(patches of the full grid * ratio), or raise an error if that leaves none."""
    kept = floor(num_patches * keep_ratio)
    if kept < 1:
        raise ElipError(
            f"reducer {name!r}: keep_ratio: {keep_ratio} of {num_patches} patches leaves none; "
            f"give at least {1 / num_patches:.4f}."
        )
    return kept
