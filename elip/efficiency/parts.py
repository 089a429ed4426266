"""Which part of a task's model the multiply-adds of a pass belong to."""

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from torch import nn

from elip.efficiency.count import Work
from elip.models.momentum import MomentumTwins
from elip.models.text import TextEncoder
from elip.models.vision import VisionEncoder

Part = Literal["vision", "look_ahead", "text", "fusion", "heads", "momentum"]


@dataclass(frozen=True)
class PassCost:
    """MACs of one image in one forward pass.

    Args:
        vision: image encoders, with the reducer but without look-ahead.
        look_ahead: what the reducer runs ahead.
        text: embeddings and text-only layers.
        fusion: layers that attend to the image, with their projections of it.
        heads: everything outside the encoders: projections, heads, similarities.
        momentum: the momentum copies, and the similarities of their features.
    """

    vision: float = 0
    look_ahead: float = 0
    text: float = 0
    fusion: float = 0
    heads: float = 0
    momentum: float = 0

    @property
    def total(self) -> float:
        """All parts together."""
        return self.vision + self.look_ahead + self.text + self.fusion + self.heads + self.momentum

    @property
    def vision_total(self) -> float:
        """Image encoders with everything the reducer adds."""
        return self.vision + self.look_ahead


def by_part(works: Counter[Work], model: nn.Module, images: int, teacher: bool = False) -> PassCost:
    """Return the MACs per image.

    Args:
        works: of one or several passes, in which the model was called `task`.
        model: that was counted.
        images: in all these passes.
        teacher: whether work outside the encoders that has no gradient is that of momentum copies.
    """
    places = _places(model)
    parts: Counter[Part] = Counter()
    for work, macs in works.items():
        part = _part(work, places)
        parts["momentum" if teacher and part == "heads" and not work.has_gradient else part] += macs
    return PassCost(**{part: macs / images for part, macs in parts.items()})


def _places(model: nn.Module) -> dict[str, Part]:
    """Return the part that modules belong to, with all below them, by their path."""
    places: dict[str, Part] = {}
    for path, module in model.named_modules(prefix="task"):
        if isinstance(module, MomentumTwins):
            places[path] = "momentum"
        elif isinstance(module, VisionEncoder):
            places[path] = "vision"
        elif isinstance(module, TextEncoder):
            places[path] = "text"
            layers = range(module.fusion_layer, module.bert_config.num_hidden_layers)
            places |= {f"{path}.encoder.layer.{index}": "fusion" for index in layers}
    return places


def _part(work: Work, places: dict[str, Part]) -> Part:
    paths = [path for scope in work.scopes for path in accumulate(scope.split("."), "{}.{}".format)]
    found = [places[path] for path in paths if path in places]
    if "momentum" in found:
        return "momentum"
    if work.looked_ahead:
        return "look_ahead"
    return found[-1] if found else "heads"
