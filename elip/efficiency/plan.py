"""The strength of a reducer that meets a budget."""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from elip.errors import ElipError
from elip.reduction.reducer import TokenReducer

DIGITS = 4
"""Decimals of the parameters that are found: a ten-thousandth of the patches is less than one of them."""
STRONGEST = 64
"""Times the strength of the parameters given, beyond which no solution is looked for."""

Params = Mapping[str, Any]
Measure = Callable[[Params], float]
"""MACs of an image under a reducer with parameters, in whatever the budget is of: the image encoder, a training step.
Raises an ElipError for parameters that the reducer does not take."""


class Plan(NamedTuple):
    """Parameters that meet a budget, and what they cost."""

    params: dict[str, Any]
    macs: float


def meet_budget(
    name: str, reducer: type[TokenReducer], params: Params, macs: float, measure: Measure, depth: int
) -> Plan:
    """Return the weakest reduction that costs no more than the budget, found by bisection over its strength.

    Look-ahead and whatever else the reducer adds is part of its cost. Where strength is a number `r` of tokens to
    remove in each block, it may come out one larger in the first blocks than in the others.

    Args:
        name: the reducer, for messages.
        reducer: its class, whose `at_strength` makes parameters weaker or stronger.
        params: what to start from; what is not in it has the constructor's default.
        macs: the budget for one image.
        measure: gives what an image costs under the reducer with parameters.
        depth: blocks of the encoder.

    Raises:
        ElipError: the parameters make no sense, without any reduction the budget is met already, or no strength of it
            meets the budget.
    """
    search = _Search(reducer, params, macs, measure)
    measure(params)
    keeping_all = measure(search.params(0))
    if keeping_all <= macs:
        raise ElipError(
            f"a budget of {macs / 1e9:g} GMACs needs no reduction by {name!r}: keeping all tokens costs "
            f"{keeping_all / 1e9:.4g}."
        )
    weak, strong = search.around_budget()
    found = search.weakest(_steps(weak, strong, depth))
    cost = search.cost(found)
    if cost is None or cost > macs:
        raise ElipError(
            f"a budget of {macs / 1e9:g} GMACs is out of reach for reducer {name!r} with "
            f"{dict(params) or 'its default parameters'}: the least it costs is {search.least / 1e9:.4g}. "
            "Start it in earlier blocks, or give it a larger budget."
        )
    return Plan(found, cost)


class _Search:
    """Costs of parameters of different strength, each counted once."""

    def __init__(self, reducer: type[TokenReducer], given: Params, macs: float, measure: Measure) -> None:
        self._reducer, self._given, self._macs, self._measure = reducer, given, macs, measure
        self._known: dict[str, float | None] = {}

    def params(self, strength: float) -> dict[str, Any]:
        """Return the parameters at a strength."""
        params = self._reducer.at_strength(dict(self._given), strength)
        return {key: v if v == self._given.get(key) else _rounded(v) for key, v in params.items()}

    def cost(self, params: Params) -> float | None:
        """Return the cost; None where the reducer does not take such parameters, which are too strong."""
        key = json.dumps(params, sort_keys=True)
        if key not in self._known:
            try:
                self._known[key] = self._measure(params)
            except ElipError:
                self._known[key] = None
        return self._known[key]

    def enough(self, params: Params) -> bool:
        """Return whether the budget is met, or the reduction stronger than it can be."""
        cost = self.cost(params)
        return cost is None or cost <= self._macs

    def around_budget(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return neighbours in strength: the former costs more than the budget, the latter does not if any does not."""
        weak, strong = 0.0, 1.0
        while not self.enough(self.params(strong)) and strong < STRONGEST:
            weak, strong = strong, 2 * strong
        while self.params(middle := (weak + strong) / 2) not in (self.params(weak), self.params(strong)):
            weak, strong = (weak, middle) if self.enough(self.params(middle)) else (middle, strong)
        return self.params(weak), self.params(strong)

    def weakest(self, steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the first of rising steps that is enough, or the last one."""
        return steps[min(bisect_left(steps, True, key=self.enough), len(steps) - 1)]

    @property
    def least(self) -> float:
        """The least cost of all that were counted."""
        return min(cost for cost in self._known.values() if cost is not None)


def _steps(weak: Params, strong: dict[str, Any], depth: int) -> list[dict[str, Any]]:
    """Return parameters that rise from above the weak ones to the strong ones, as finely as whole numbers allow."""
    low, high = ([r] * depth if isinstance(r := params.get("r"), int) else r for params in (weak, strong))
    if not isinstance(low, list) or not isinstance(high, list):
        return [strong]
    changing = [block for block in range(depth) if low[block] != high[block]]
    mixed = [{**strong, "r": [*high[: block + 1], *low[block + 1 :]]} for block in changing[:-1]]
    return [*mixed, strong]


def _rounded(value: Any) -> Any:
    """Return the value with few decimals in all its numbers."""
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, DIGITS) if isinstance(value, float) else value
