"""Undoing what other programs wrap weights in: dictionaries around them, and beginnings of all their names.

Which beginnings are wrappings and which belong to the names is told by what results: each way of undoing them is
tried, and the one is taken with which most names mean something.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from elip.errors import CheckpointError
from elip.weights.reading import require_plain

PREFIXES = ("module.", "model.", "visual.", "encoder.", "backbone.", "network.", "net.", "student.", "base_model.")
"""Beginnings of names that may be wrappings."""

_KEYS = (
    *("model", "state_dict", "module", "model_state", "model_state_dict", "net", "network", "weights", "params"),
    *("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "teacher", "student"),
)
"""Entries that hold the weights, by preference: the weights in training before means of them."""
_NEVER_IN_NAMES = ("_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "_checkpoint_wrapped_module.")
"""What torch puts into names wherever it compiles, shards or recomputes a module, and Lightning where it runs one."""
_COUNTS = ("n_averaged",)
"""What `torch.optim.swa_utils.AveragedModel` counts beside the weights."""
_NEARLY_ALL = 0.9
_DEPTH = 6


@dataclass(frozen=True)
class Unwrapped:
    """Weights, and how they were come by.

    Args:
        state: the tensors.
        undone: the wrappings, outermost first, in words.
        beside: what else was in the dictionaries around the weights.
        other_parts: names of tensors that belong to other parts of a larger model.
        resized: tensors that were made to fit another size, with both sizes.
    """

    state: dict[str, Tensor]
    undone: tuple[str, ...]
    beside: dict[str, Any]
    other_parts: tuple[str, ...] = ()
    resized: dict[str, str] = field(default_factory=dict)


def described(path: Path, undone: Sequence[str], facts: Sequence[str] = ()) -> str:
    """Return in words which file weights are from, what else is known of it, and which wrappings were undone."""
    facts = [*facts, *(f"undone: {one}" for one in undone)]
    return f"{path} ({', '.join(facts)})" if facts else str(path)


def unwrap(
    contents: Mapping[str, Any],
    path: Path,
    score: Callable[[dict[str, Tensor]], int],
    parts: Sequence[str] = (),
    forms: Callable[[Unwrapped], Iterable[Unwrapped]] = lambda way: [way],
) -> Unwrapped:
    """Return the weights in a file without what they are wrapped in, in the way in which they score highest.

    Args:
        contents: of the file.
        path: of the file, for messages.
        score: how much a dict of tensors means to the reader.
        parts: beginnings of names of the part that is wanted of a larger model; the other parts are left out.
        forms: gives what weights can be turned into before they are scored.

    Raises:
        CheckpointError: there is no dict of tensors, or some are of a kind that no model computes with.
    """
    candidates = (form for way in _ways(_unpack(contents, path), parts) for form in forms(way))
    return max(candidates, key=lambda candidate: score(candidate.state))  # of equals the first: the least undone


def _unpack(contents: Mapping[str, Any], path: Path) -> Unwrapped:
    """Return the tensors in the innermost of the dictionaries around them."""
    undone: list[str] = []
    beside: dict[str, Any] = {}
    while (key := _weights_in(contents)) is not None:
        others = {name: value for name, value in contents.items() if name != key}
        passed_over = [repr(name) for name in _KEYS if isinstance(others.get(name), Mapping)]
        undone.append(f"key {key!r}" + (f" ({', '.join(passed_over)} beside it not taken)" if passed_over else ""))
        beside.update(others)
        contents = contents[key]
    strange = [str(name) for name, value in contents.items() if not isinstance(value, Tensor)]
    if strange or not contents:
        raise CheckpointError(
            f"{path} holds no weights: expected a dict of tensors, by itself or under a key such as 'model'; "
            + (f"{strange[0]!r} is no tensor." if strange else "it is empty.")
        )
    state = {str(name): tensor for name, tensor in contents.items() if name not in _COUNTS}
    require_plain(state, str(path))
    beside.update({name: contents[name] for name in _COUNTS if name in contents})
    for part in _NEVER_IN_NAMES:
        cleaned = {name.replace(part, ""): tensor for name, tensor in state.items()}
        if len(cleaned) == len(state) and cleaned.keys() != state.keys():
            state = cleaned
            undone.append(f"{part!r} in names")
    return Unwrapped(state, tuple(undone), beside)


def _ways(packed: Unwrapped, parts: Sequence[str]) -> Iterator[Unwrapped]:
    """Yield the weights with beginnings of their names left out in every way, those as they are first."""
    waiting, seen = [packed], {tuple(packed.state)}
    for _ in range(_DEPTH):
        found = []
        for each in waiting:
            yield each
            found += [shorter for prefix in (*PREFIXES, *parts) for shorter in _without(each, prefix, prefix in parts)]
        waiting = []
        for each in found:
            if tuple(each.state) not in seen:
                seen.add(tuple(each.state))
                waiting.append(each)


def _weights_in(contents: Mapping[str, Any]) -> str | None:
    return next((key for key in _KEYS if isinstance(contents.get(key), Mapping)), None)


def _without(packed: Unwrapped, prefix: str, is_part: bool) -> Iterator[Unwrapped]:
    """Yield the weights without a beginning of (nearly) all names, or of those of a part that is wanted."""
    inside = {name.removeprefix(prefix): t for name, t in packed.state.items() if name.startswith(prefix)}
    outside = {name: tensor for name, tensor in packed.state.items() if not name.startswith(prefix)}
    common = len(inside) >= _NEARLY_ALL * len(packed.state)
    if not inside or "" in inside or not (common or is_part):
        return
    if is_part and outside:
        others = (*packed.other_parts, *outside)
        yield replace(packed, state=inside, undone=(*packed.undone, f"part {prefix!r}"), other_parts=others)
    if common and inside.keys().isdisjoint(outside):
        but = f" but {len(outside)}" if outside else ""
        yield replace(packed, state={**inside, **outside}, undone=(*packed.undone, f"{prefix!r} before all names{but}"))
