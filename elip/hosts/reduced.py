"""A model under a reducer that is used as the model itself is."""

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from elip.execution import AT_ONCE, Execution
from elip.reduction.guide import Guide, Text, Watch, text_of_cls
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import Host, VisionOutput, walk


class Reduced(nn.Module):
    """A model under a token reducer, with its own interface; see `elip.reduced`, which makes one.

    Each host has a subclass, which is one of the model's class, too, and runs `walk` in the place of the pass through
    the blocks. `elip.models.vision.VisionEncoder` is its counterpart in tasks, where each pass is given its reducer:
    another one in evaluation, none for the momentum copy.
    """

    reducer: TokenReducer
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass of a training."""

    @property
    @abstractmethod
    def host(self) -> Host:
        """This model as the walk over its blocks sees it."""

    def walk(
        self,
        images: Tensor,
        text: Text | Tensor | None = None,
        *,
        source: bool = True,
        guide: Guide | None = None,
        watch: Watch | None = None,
    ) -> VisionOutput:
        """Return the tokens left of the images, and what became of the others.

        Args:
            images: [B, 3, H, W].
            text: of each image, for a reducer that lets it decide: hidden states [B, L, width of the text] with their
                mask, or as a tensor where all are of real tokens; or those at [CLS], [B, width of the text].
            source: keep track of which token each patch lives in, for `restore()` and `kept`.
            guide: what else may decide: progress of a training, what a teacher saw.
            watch: what else to give back: rows of attention, keys.
        """
        guide, watch = guide or Guide(), watch or Watch()
        if text is not None:
            guide = replace(guide, text=text if isinstance(text, Text) else _text_of(text))
        return walk(
            self.host,
            images,
            self.reducer,
            guide,
            replace(watch, source=source or watch.source),
            training=self.training,
            run=Execution("full") if self.grad_checkpointing and self.training else AT_ONCE,
        )


def _text_of(states: Tensor) -> Text:
    if states.dim() == 2:
        return text_of_cls(states)
    return Text(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))
