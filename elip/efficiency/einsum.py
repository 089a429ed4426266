"""MACs of `torch.einsum`, for any equation."""

from collections.abc import Sequence
from math import prod

Shape = tuple[int, ...]

_ELLIPSIS_AXES = "0123456789"
"""Names of the axes that an ellipsis stands for; the last axis is the last of these."""


def einsum_macs(equation: str, shapes: Sequence[Shape], path: Sequence[int] | None) -> int:
    """Return the MACs of an einsum whose operands are contracted two by two, as torch does it.

    Args:
        equation: as torch takes it, ellipses included.
        shapes: of the operands.
        path: places of the operands to contract, pair after pair, a result going to the end; None for left to right.
    """
    terms, result = _terms(equation.replace(" ", ""), shapes)
    size: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for axis, length in zip(term, shape, strict=True):
            size[axis] = max(length, size.get(axis, 1))
    path = path or _left_to_right(len(terms))
    left = [set(term) for term in terms]
    macs = 0
    for pair in zip(path[::2], path[1::2], strict=True):
        low, high = sorted(pair)
        second, first = left.pop(high), left.pop(low)
        wanted = (first | second) & set(result).union(*left)
        # without an axis to sum over the product is elementwise; one that only one operand has is summed before it
        if contracted := (first & second) - wanted:
            macs += prod(size[axis] for axis in contracted | wanted)
        left.append(wanted)
    return macs


def _left_to_right(operands: int) -> list[int]:
    """Return the path that contracts the first two, and each next one with the result so far, which is the last."""
    path = [0, 1] if operands > 1 else []
    for last in range(operands - 2, 0, -1):
        path += [0, last]
    return path


def _terms(equation: str, shapes: Sequence[Shape]) -> tuple[list[str], str]:
    """Return the axes of each operand and of the result, one character an axis."""
    left, arrow, result = equation.partition("->")
    terms = []
    for term, shape in zip(left.split(","), shapes, strict=True):
        hidden = len(shape) - len(term.replace("...", ""))
        terms.append(term.replace("...", _ELLIPSIS_AXES[len(_ELLIPSIS_AXES) - hidden :]))
    every = "".join(terms)
    hidden_axes = sorted(set(every) & set(_ELLIPSIS_AXES))
    if arrow:
        return terms, result.replace("...", "".join(hidden_axes))
    return terms, "".join([*hidden_axes, *sorted(a for a in set(every) if a.isalpha() and every.count(a) == 1)])
