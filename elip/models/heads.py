"""Small modules on top of the encoders, each a part of its own in what a model costs (`elip.efficiency.parts`)."""

from typing import ClassVar

from torch import Tensor, nn

from elip.objectives.itc import Similarities, similarities


class LinearHead(nn.Linear):
    """A linear layer on top of an encoder: a projection to the joint space, or logits."""

    cost_part: ClassVar[str] = "heads"


class ClassifierHead(nn.Sequential):
    """Two layers to logits.

    Args:
        width: D.
        num_classes: number of logits.
    """

    cost_part: ClassVar[str] = "heads"

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_classes))


class Contrast(nn.Module):
    """The products of contrast, as a module whose momentum twin has those of what the momentum encoders say."""

    cost_part: ClassVar[str] = "heads"

    def forward(
        self,
        image_feat: Tensor,
        text_feat: Tensor,
        image_keys: tuple[Tensor, Tensor],
        text_keys: tuple[Tensor, Tensor],
        temp: Tensor,
    ) -> Similarities:
        return similarities(image_feat, text_feat, image_keys, text_keys, temp)
