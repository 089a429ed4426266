"""How many tokens to keep, over the depth of a ViT and over training, as plain numbers: no tensors here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import ceil, cos, floor, isfinite, pi
from typing import Any, Literal, TypeAlias

from elip.errors import ElipError, did_you_mean

Ratios: TypeAlias = float | Sequence[float] | Mapping[str, Any]
"""One keep ratio, one a stage, or `{shape: linear or cosine, first: A, last: B}` over the stages."""
Removals: TypeAlias = int | Sequence[int] | Mapping[str, Any]
"""Tokens removed a block: one number for all, one a block, or `{mean: R, slope: S}` (ToMe's schedules)."""

_SHAPES = {
    "linear": lambda t: t,
    "cosine": lambda t: (1 - cos(pi * t)) / 2,
    "step": lambda t: floor(t),
}


@dataclass(frozen=True)
class Warmup:
    """How a reduction sets in over training: from keeping all tokens to its target.

    Args:
        start: share of the training, in [0, 1], until which all tokens are kept.
        end: share from which the target holds.
        shape: linear; cosine, as EViT trains (Liang et al., ICLR 2022, section 3.3); or step, all at once at `end`.
    """

    start: float = 0.0
    end: float = 0.25
    shape: Literal["linear", "cosine", "step"] = "cosine"

    @classmethod
    def parse(cls, name: str, values: "Mapping[str, Any] | Warmup | None") -> "Warmup | None":
        """Return the warm-up that a reducer's parameter `warmup` describes, or raise an error in its name."""
        if values is None or isinstance(values, Warmup):
            return values
        known = [f.name for f in fields(cls)]
        if not isinstance(values, Mapping):
            raise ElipError(f"reducer {name!r}: warmup: expected {{{', '.join(known)}}}, got {values!r}.")
        _check_keys(name, "warmup", values, known)
        warmup = cls(**values)
        _check_numbers(name, "warmup", [warmup.start, warmup.end])
        if warmup.shape not in list(_SHAPES):
            raise ElipError(
                f"reducer {name!r}: warmup.shape: expected one of {', '.join(_SHAPES)}, got {warmup.shape!r}."
            )
        if not 0 <= warmup.start <= warmup.end <= 1:
            raise ElipError(
                f"reducer {name!r}: warmup: start and end are shares of the training with 0 <= start <= end <= 1, "
                f"got {warmup.start} and {warmup.end}."
            )
        return warmup

    def strength(self, progress: float) -> float:
        """Return how much of the reduction is in force, in [0, 1], when `progress` of the training is done."""
        if progress >= self.end:
            return 1.0
        if progress <= self.start:
            return 0.0
        return _SHAPES[self.shape]((progress - self.start) / (self.end - self.start))


class KeepSchedule:
    """Patch tokens left after each stage of a reducer.

    Args:
        name: the reducer, for messages.
        depth: blocks of the ViT.
        num_patches: P, patches of the full grid.
        begin: rising blocks to reduce at, counted from 0.
        keep_ratio: in (0, 1]. One a stage; or one number r for all, which means r of what the stage before left: r,
            r^2, r^3, ... of the initial patches; or a shape over the stages.
        base: what the ratios of a list are shares of: the image's initial patches, or the tokens that enter the stage.
        rounding: of the product of ratio and base.
        warmup: how the reduction sets in over training; None for in full from the start.

    Raises:
        ElipError: if the blocks and ratios make no sense.
    """

    def __init__(
        self,
        name: str,
        depth: int,
        num_patches: int,
        *,
        begin: Sequence[int],
        keep_ratio: Ratios,
        base: Literal["initial", "current"] = "initial",
        rounding: Literal["floor", "ceil"] = "floor",
        warmup: Mapping[str, Any] | Warmup | None = None,
    ) -> None:
        if base not in ["initial", "current"]:
            raise ElipError(f"reducer {name!r}: base: expected initial or current, got {base!r}.")
        if rounding not in ["floor", "ceil"]:
            raise ElipError(f"reducer {name!r}: rounding: expected floor or ceil, got {rounding!r}.")
        ratios = _per_stage(name, keep_ratio, len(begin), compound=base == "initial")
        _check_stages(name, depth, begin, ratios)
        self.ratios = dict(zip(begin, ratios, strict=True))
        self.num_patches = num_patches
        self.base = base
        self.warmup = Warmup.parse(name, warmup)
        self._round = ceil if rounding == "ceil" else floor
        left = num_patches
        for ratio in self.ratios.values():
            left = min(left, self._count(ratio, left))
            if left < 1:
                raise ElipError(
                    f"reducer {name!r}: keep_ratio: {ratio:g} of {num_patches} patches leaves none; "
                    f"give at least {1 / num_patches:.4f}."
                )

    @property
    def begin(self) -> tuple[int, ...]:
        """The blocks of the stages."""
        return tuple(self.ratios)

    @property
    def reducing(self) -> frozenset[int]:
        """Those of them that leave fewer tokens than arrive, once the warm-up is over."""
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

    def counts(self) -> dict[int, int]:
        """Return the tokens left after each stage, by block, once the warm-up is over."""
        left, found = self.num_patches, {}
        for block in self.ratios:
            left = found[block] = self.num_keep(block, left)
        return found

    def _count(self, ratio: float, num_tokens: int) -> int:
        count = ratio * (self.num_patches if self.base == "initial" else num_tokens)
        return self._round(_tidy(count))


class RemovalSchedule:
    """Tokens to remove in each block.

    Args:
        name: the reducer, for messages.
        depth: blocks of the ViT.
        num_patches: P, patches of the full grid.
        r: one number for all blocks, one a block, or `{mean, slope}`: a line from int(mean (1 - slope)) to as much
            above or below the mean, slope -1 falling, 0 constant, +1 rising (Bolya et al., ICLR 2023, appendix D).
        warmup: how the reduction sets in over training; None for in full from the start.
    """

    def __init__(
        self,
        name: str,
        depth: int,
        num_patches: int,
        *,
        r: Removals,
        warmup: Mapping[str, Any] | Warmup | None = None,
    ) -> None:
        per_block = _per_block(name, r, depth)
        if len(per_block) != depth:
            raise ElipError(f"reducer {name!r}: r has {len(per_block)} values but this ViT has {depth} blocks.")
        for block, count in enumerate(per_block):
            if count < 0:
                raise ElipError(f"reducer {name!r}: r: cannot remove {count} tokens (block {block}); give 0 or more.")
            if count >= num_patches:
                raise ElipError(
                    f"reducer {name!r}: r: removing {count} of {num_patches} patches (block {block}) would leave none."
                )
        self.per_block = per_block
        self.warmup = Warmup.parse(name, warmup)

    def num_remove(self, block: int, progress: float = 1.0) -> int:
        """Return how many tokens to remove in a block when `progress` of the training is done."""
        strength = 1.0 if self.warmup is None else self.warmup.strength(progress)
        return int(self.per_block[block] * strength)


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
        return {key: value * strength if key == "mean" and _is_number(value) else value for key, value in r.items()}
    if isinstance(r, Sequence):
        return [_times(count, strength) for count in r]
    return _times(r, strength)


def _power(ratio: Any, strength: float) -> Any:
    return ratio**strength if _is_number(ratio) and ratio > 0 else ratio


def _times(count: Any, strength: float) -> Any:
    return round(count * strength) if _is_number(count) else count


def _per_stage(name: str, keep_ratio: Ratios, stages: int, compound: bool) -> list[float]:
    if isinstance(keep_ratio, Mapping):
        _check_keys(name, "keep_ratio", keep_ratio, ["shape", "first", "last"])
        shape = keep_ratio.get("shape", "linear")
        if shape not in ["linear", "cosine"] or not {"first", "last"} <= set(keep_ratio):
            raise ElipError(
                f"reducer {name!r}: keep_ratio: a shape is {{shape: linear or cosine, first: A, last: B}}, "
                f"got {dict(keep_ratio)}."
            )
        first, last = keep_ratio["first"], keep_ratio["last"]
        _check_numbers(name, "keep_ratio", [first, last])
        return [first + (last - first) * _SHAPES[shape](i / max(1, stages - 1)) for i in range(stages)]
    if isinstance(keep_ratio, int | float):
        return [keep_ratio ** (i + 1) if compound else keep_ratio for i in range(stages)]
    return list(keep_ratio)


def _check_stages(name: str, depth: int, begin: Sequence[int], ratios: Sequence[float]) -> None:
    if len(begin) != len(ratios):
        raise ElipError(
            f"reducer {name!r}: begin has {len(begin)} blocks but keep_ratio has {len(ratios)} values; "
            "give one ratio for each block."
        )
    for block in begin:
        if not 0 <= block < depth:
            raise ElipError(
                f"reducer {name!r}: begin: block {block} does not exist; this ViT has blocks 0 to {depth - 1}."
            )
    if any(later <= earlier for earlier, later in pairwise(begin)):
        raise ElipError(f"reducer {name!r}: begin: blocks must rise, got {list(begin)}.")
    _check_numbers(name, "keep_ratio", ratios)
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise ElipError(f"reducer {name!r}: keep_ratio: each value must be in (0, 1], got {ratio}.")


def _per_block(name: str, r: Removals, depth: int) -> list[int]:
    if not isinstance(r, Mapping):
        per_block = [r] * depth if isinstance(r, int | float) else list(r)
        _check_numbers(name, "r", per_block, whole=True)
        return per_block
    _check_keys(name, "r", r, ["mean", "slope"])
    if "mean" not in r:
        raise ElipError(f"reducer {name!r}: r: a line over the blocks is {{mean: R, slope: S}}, got {dict(r)}.")
    mean, slope = r["mean"], r.get("slope", 0.0)
    _check_numbers(name, "r", [mean, slope])
    if not isfinite(mean):
        raise ElipError(f"reducer {name!r}: r: mean must be a finite number, got {mean}.")
    if not -1 <= slope <= 1:
        raise ElipError(f"reducer {name!r}: r: slope must be in [-1, 1], got {slope}.")
    first = int(_tidy(mean * (1 - slope)))
    return [int(_tidy(first + block * 2 * (mean - first) / max(1, depth - 1))) for block in range(depth)]


def _tidy(count: float) -> float:
    """Return a count without noise in its last digits, ready to be rounded: 0.29 of 100 are 29, not 28.999...96."""
    return round(count, 9)


def _check_numbers(name: str, parameter: str, values: Sequence[Any], whole: bool = False) -> None:
    for value in values:
        if not (isinstance(value, int) if whole else _is_number(value)) or isinstance(value, bool):
            raise ElipError(
                f"reducer {name!r}: {parameter}: expected {'whole numbers' if whole else 'numbers'}, got {value!r}."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _check_keys(name: str, parameter: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            raise ElipError(
                f"reducer {name!r}: {parameter} has no key {key!r}.{did_you_mean(key, known)} It takes: "
                f"{', '.join(known)}."
            )
