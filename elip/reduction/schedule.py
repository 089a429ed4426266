"""How many tokens to keep, over the depth of a ViT and over training, as plain numbers: no tensors here."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from math import ceil, floor, isfinite
from operator import mul
from typing import Any, Literal, TypeAlias

from elip.errors import ElipError
from elip.reduction.checks import check_keys, check_numbers, is_number
from elip.reduction.encoder import EncoderInfo
from elip.reduction.warmup import SHAPES, Warmup

Base: TypeAlias = Literal["initial", "current"]
"""What keep ratios are shares of: the image's initial patches, or the current tokens, which arrive at the stage."""
Ratios: TypeAlias = float | Sequence[float] | Mapping[str, Any]
"""One keep ratio for all stages, one a stage, or `{shape: linear or cosine, first: A, last: B}` over the stages."""
Removals: TypeAlias = int | Sequence[int] | Mapping[str, Any]
"""Tokens removed a block: one number for all, one a block, or `{mean: R, slope: S}` (ToMe's schedules)."""


class KeepSchedule:
    """Patch tokens left after each stage of a reducer: the stage's ratio times its base, rounded.

    Args:
        encoder: the encoder to reduce.
        begin: rising blocks to reduce at, counted from 0.
        keep_ratio: in (0, 1]. One a stage; one number for all, which is the same as a list of it; or a shape over the
            stages.
        of: the base of the ratios: the image's initial patches, or the current tokens, which arrive at the stage. None
            for initial where it cannot be mistaken: one number for several stages needs its base said.
        rounding: of the product of ratio and base.
        warmup: how the reduction sets in over training; None for in full from the start.

    Raises:
        ElipError: if the blocks and ratios make no sense.
    """

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int],
        keep_ratio: Ratios,
        of: Base | None = None,
        rounding: Literal["floor", "ceil"] = "floor",
        warmup: Mapping[str, Any] | Warmup | None = None,
    ) -> None:
        if of not in [None, "initial", "current"]:
            raise ElipError(f"of: expected initial or current, got {of!r}.")
        if rounding not in ["floor", "ceil"]:
            raise ElipError(f"rounding: expected floor or ceil, got {rounding!r}.")
        ratios = _per_stage(keep_ratio, len(begin))
        _check_stages(encoder.depth, begin, ratios)
        if of is None:
            _check_base_is_plain(keep_ratio, len(begin))
        self.ratios = dict(zip(begin, ratios, strict=True))
        self.num_patches = encoder.num_patches
        self.of: Base = of or "initial"
        self.warmup = Warmup.parse(warmup)
        self._round = ceil if rounding == "ceil" else floor
        left = self.num_patches
        for ratio in ratios:
            left = min(left, self._count(ratio, left))
            if left < 1:
                raise ElipError(
                    f"keep_ratio: {ratio:g} of {self.num_patches} patches leaves none; "
                    f"give at least {1 / self.num_patches:.4f}."
                )

    @property
    def begin(self) -> tuple[int, ...]:
        """The blocks of the stages."""
        return tuple(self.ratios)

    @property
    def shares(self) -> list[float]:
        """What is left after each stage as a share of the image's initial patches, before any rounding."""
        return list(accumulate(self.ratios.values(), mul if self.of == "current" else min))

    @property
    def reducing(self) -> frozenset[int]:
        """The stages that leave fewer tokens than arrive, once the warm-up is over."""
        counts = self.counts()
        before = [self.num_patches, *counts.values()]
        return frozenset(block for block, many in zip(counts, before, strict=False) if counts[block] < many)

    def num_keep(self, block: int, num_tokens: int, progress: float = 1.0) -> int:
        """Return how many of the tokens that arrive at a block are left after it; all where there is no stage.

        Args:
            block: counted from 0.
            num_tokens: patch tokens that arrive.
            progress: share of the training done, for the warm-up; 1 in evaluation.
        """
        if block not in self.ratios:
            return num_tokens
        ratio = self.ratios[block]
        if self.warmup is not None:
            strength = self.warmup.strength(progress)
            ratio = (1 - strength) + strength * ratio  # exact at both ends
        return min(num_tokens, max(1, self._count(ratio, num_tokens)))

    def counts(self, progress: float = 1.0) -> dict[int, int]:
        """Return the tokens left after each stage, by block, when `progress` of the training is done."""
        left, found = self.num_patches, {}
        for block in self.ratios:
            left = found[block] = self.num_keep(block, left, progress)
        return found

    def _count(self, ratio: float, num_tokens: int) -> int:
        return self._round(_tidy(ratio * (self.num_patches if self.of == "initial" else num_tokens)))


class RemovalSchedule:
    """Tokens to remove in each block: half of them at most, as each that goes needs one that stays.

    Args:
        encoder: the encoder to reduce.
        r: one number for all blocks, one a block, or `{mean, slope}`: a line from int(mean (1 - slope)) to as much
            above or below the mean, slope -1 falling, 0 constant, +1 rising (Bolya et al., ICLR 2023, appendix D).
        warmup: how the reduction sets in over training; None for in full from the start.

    Raises:
        ElipError: if the numbers make no sense.
    """

    def __init__(self, encoder: EncoderInfo, *, r: Removals, warmup: Mapping[str, Any] | Warmup | None = None) -> None:
        depth, num_patches = encoder.depth, encoder.num_patches
        per_block = _per_block(r, depth)
        if len(per_block) != depth:
            raise ElipError(f"r has {len(per_block)} values but this ViT has {depth} blocks.")
        for block, count in enumerate(per_block):
            if count < 0:
                raise ElipError(f"r: cannot remove {count} tokens (block {block}); give 0 or more.")
            if count >= num_patches:
                raise ElipError(f"r: removing {count} of {num_patches} patches (block {block}) would leave none.")
        self.per_block = per_block
        self.warmup = Warmup.parse(warmup)

    def num_remove(self, block: int, num_tokens: int, progress: float = 1.0) -> int:
        """Return how many of the tokens that arrive at a block to remove in it.

        Args:
            block: counted from 0.
            num_tokens: patch tokens that arrive.
            progress: share of the training done, for the warm-up; 1 in evaluation.
        """
        strength = 1.0 if self.warmup is None else self.warmup.strength(progress)
        return min(int(self.per_block[block] * strength), num_tokens // 2)


def scaled_ratios(keep_ratio: Ratios, strength: float) -> Ratios:
    """Return the keep ratios of a reduction that is `strength` times as strong: each to that power.

    0 keeps all, 1 changes nothing. As a power, what a stage keeps of the stage before is scaled alike, and no strength
    leads out of (0, 1]. What is no ratio is left for the schedule to refuse.
    """
    if isinstance(keep_ratio, Mapping):
        return {key: value if key == "shape" else _power(value, strength) for key, value in keep_ratio.items()}
    if isinstance(keep_ratio, Sequence):
        return [_power(ratio, strength) for ratio in keep_ratio]
    return _power(keep_ratio, strength)


def scaled_removals(r: Removals, strength: float) -> Removals:
    """Return removals of a reduction that is `strength` times as strong: 0 keeps all, 1 changes nothing.

    Rounded where they are whole numbers. What is no number is left for the schedule to refuse.
    """
    if isinstance(r, Mapping):
        return {key: value * strength if key == "mean" and is_number(value) else value for key, value in r.items()}
    if isinstance(r, Sequence):
        return [_times(count, strength) for count in r]
    return _times(r, strength)


def _power(ratio: Any, strength: float) -> Any:
    return ratio**strength if is_number(ratio) and ratio > 0 else ratio


def _times(count: Any, strength: float) -> Any:
    return round(count * strength) if is_number(count) else count


def _per_stage(keep_ratio: Ratios, stages: int) -> list[float]:
    if isinstance(keep_ratio, Mapping):
        check_keys("keep_ratio", keep_ratio, ["shape", "first", "last"])
        shape = keep_ratio.get("shape", "linear")
        if shape not in ["linear", "cosine"] or not {"first", "last"} <= set(keep_ratio):
            raise ElipError(
                f"keep_ratio: a shape is {{shape: linear or cosine, first: A, last: B}}, got {dict(keep_ratio)}."
            )
        first, last = keep_ratio["first"], keep_ratio["last"]
        check_numbers("keep_ratio", [first, last])
        return [first + (last - first) * SHAPES[shape](i / max(1, stages - 1)) for i in range(stages)]
    return [keep_ratio] * stages if isinstance(keep_ratio, int | float) else list(keep_ratio)


def _check_stages(depth: int, begin: Sequence[int], ratios: Sequence[float]) -> None:
    if len(begin) != len(ratios):
        raise ElipError(
            f"begin has {len(begin)} blocks but keep_ratio has {len(ratios)} values; give one ratio for each block."
        )
    for block in begin:
        if not 0 <= block < depth:
            raise ElipError(f"begin: block {block} does not exist; this ViT has blocks 0 to {depth - 1}.")
    if any(later <= earlier for earlier, later in pairwise(begin)):
        raise ElipError(f"begin: blocks must rise, got {list(begin)}.")
    check_numbers("keep_ratio", ratios)
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise ElipError(f"keep_ratio: each value must be in (0, 1], got {ratio}.")


def _check_base_is_plain(keep_ratio: Ratios, stages: int) -> None:
    """Refuse one ratio for several stages: a reader may take it for a share of the stage before as well as of all."""
    if isinstance(keep_ratio, int | float) and stages > 1 and keep_ratio != 1:
        powers = ", ".join(f"{keep_ratio ** (i + 1):.4g}" for i in range(stages))
        raise ElipError(
            f"keep_ratio: {keep_ratio:g} for {stages} stages does not say of what. Give [{powers}], shares of the "
            f"initial patches, or keep_ratio: {keep_ratio:g} with of: current, the share of the tokens that arrive."
        )


def _per_block(r: Removals, depth: int) -> list[int]:
    if not isinstance(r, Mapping):
        per_block = [r] * depth if isinstance(r, int | float) else list(r)
        check_numbers("r", per_block, whole=True)
        return per_block
    check_keys("r", r, ["mean", "slope"])
    if "mean" not in r:
        raise ElipError(f"r: a line over the blocks is {{mean: R, slope: S}}, got {dict(r)}.")
    mean, slope = r["mean"], r.get("slope", 0.0)
    check_numbers("r", [mean, slope])
    if not isfinite(mean):
        raise ElipError(f"r: mean must be a finite number, got {mean}.")
    if not -1 <= slope <= 1:
        raise ElipError(f"r: slope must be in [-1, 1], got {slope}.")
    first = int(_tidy(mean * (1 - slope)))
    return [int(_tidy(first + block * 2 * (mean - first) / max(1, depth - 1))) for block in range(depth)]


def _tidy(count: float) -> float:
    """Return a count without noise in its last digits, ready to be rounded: 0.29 of 100 are 29, not 28.999...96."""
    return round(count, 9)
