"""Which part of a model the multiply-adds of a pass belong to.

A module says so for itself and all below it, by a class attribute:

    class Adapter(nn.Module):
        cost_part: ClassVar[str] = "adapter"

Any name will do; `PARTS` are those of the toolkit's own modules. The innermost module that names one counts, except
that whatever runs for a momentum copy or for a look-ahead is a part of that.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import nn

from elip.errors import ElipError

PARTS = ("vision", "look_ahead", "text", "fusion", "heads", "momentum")
"""The parts that reports always show, in their order."""
Kind = Literal["matrix", "norm"]
_OUTERMOST = ("momentum", "look_ahead")
"""Parts that take in whatever runs inside them, the former before the latter."""


class Work(NamedTuple):
    """Where multiply-adds happen.

    Args:
        part: of the model that they cost; None where no module around them names one.
        path: of the module whose call they are in, "" for the model itself.
        has_gradient: whether a backward pass would go through them.
        kind: products of matrices, or normalisation.
    """

    part: str | None
    path: str
    has_gradient: bool
    kind: Kind


class Place(NamedTuple):
    """A module in the model that is counted: its path, the name of its class, and the part that it belongs to."""

    path: str
    kind: str
    part: str | None


def places_of(model: nn.Module) -> dict[int, Place]:
    """Return the places of all modules of a model, by `id`."""
    parts: dict[str, str | None] = {}
    places = {}
    for path, module in model.named_modules():
        # named_modules goes from the outside in, so that what is around a module has its part already
        above = parts.get(path.rpartition(".")[0]) if path else None
        own: str | None = getattr(module, "cost_part", None)
        parts[path] = _chosen([above, own])
        places[id(module)] = Place(path, type(module).__name__, parts[path])
    return places


def running_part(running: Sequence[Place]) -> str | None:
    """Return the part of what runs in calls of these modules, outermost first; None where none of them names one."""
    return _chosen([place.part for place in running])


def _chosen(parts: Sequence[str | None]) -> str | None:
    for part in _OUTERMOST:
        if part in parts:
            return part
    return next((part for part in reversed(parts) if part is not None), None)


@dataclass(frozen=True)
class PassCost:
    """MACs of one image in one forward pass.

    Args:
        vision: image encoders, with the reducer but without look-ahead.
        look_ahead: what the reducer runs ahead.
        text: embeddings and text-only layers.
        fusion: layers that attend to the image, with their projections of it.
        heads: projections, heads, decoders, similarities.
        momentum: the momentum copies, and the similarities of their features.
        others: parts that modules from elsewhere name.
    """

    vision: float = 0
    look_ahead: float = 0
    text: float = 0
    fusion: float = 0
    heads: float = 0
    momentum: float = 0
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, float]:
        """All parts, the toolkit's own first."""
        return {**{part: getattr(self, part) for part in PARTS}, **self.others}

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(self.by_name.values())

    @property
    def vision_total(self) -> float:
        """Image encoders with everything the reducer adds."""
        return self.vision + self.look_ahead


def by_part(works: Counter[Work], images: int) -> PassCost:
    """Return the MACs per image.

    Args:
        works: of one or several passes.
        images: in all these passes.

    Raises:
        ElipError: there is work that belongs to no part.
    """
    parts: Counter[str] = Counter()
    for work, macs in works.items():
        if work.part is None:
            where = work.path or "the model, outside of all modules"
            raise ElipError(
                f"{macs / images / 1e9:.4g} GMACs an image belong to no part of the model: those in {where}. Let the "
                "class of the module there, or of one around it, name its part, as in `cost_part: ClassVar[str] = "
                f'"heads"`; parts are {", ".join(PARTS)}, or a name of your own.'
            )
        parts[work.part] += macs
    return PassCost(
        **{part: parts[part] / images for part in PARTS},
        others={part: macs / images for part, macs in parts.items() if part not in PARTS},
    )


def all_parts(costs: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the names of the parts of several passes, the toolkit's own first."""
    return list(dict.fromkeys((*PARTS, *(name for cost in costs for name in cost))))
