"""What ALBEF remembers between steps: momentum copies of its encoders and queues of their features.

Li et al., "Align before Fuse", NeurIPS 2021, section 3.2; the queues are those of MoCo (He et al., CVPR 2020).
Neither changes unless its own method is called: a forward pass never does.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import ClassVar

import torch
from torch import Tensor, nn

from elip.distributed import gather_rows
from elip.execution import PRECISIONS, Precision

NO_IMAGE = -100
"""Number of the image in places of a queue that hold no real feature yet."""


class MomentumTwins(nn.ModuleDict):
    """Momentum copies of modules: parameters follow as an exponential moving average, without gradient.

    Args:
        online: the modules to follow, by name; they are copied as they are now.
        decay: share of the old value kept at each update, ALBEF's `momentum`.
        precision: arithmetic of the copies' passes; None for that in force around them.
    """

    cost_part: ClassVar[str] = "momentum"

    def __init__(self, online: Mapping[str, nn.Module], decay: float, precision: Precision | None = None) -> None:
        super().__init__({name: deepcopy(module) for name, module in online.items()})
        self.decay = decay
        self.precision = precision
        self.requires_grad_(False)

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """Return a context for passes of the copies: without gradient, and in their precision."""
        with torch.no_grad():
            if self.precision is None:
                yield
                return
            dtype, device = PRECISIONS[self.precision], next(self.parameters()).device
            with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                yield

    @torch.no_grad()
    def follow(self, online: Mapping[str, nn.Module]) -> None:
        """Move each copy a little towards its module: copy = decay * copy + (1 - decay) * online."""
        momentum: list[Tensor] = [p for name in online for p in self[name].parameters()]
        followed: list[Tensor] = [p for module in online.values() for p in module.parameters()]
        # one call for all tensors: a loop would launch hundreds of small kernels in every step
        torch._foreach_lerp_(momentum, followed, 1 - self.decay)


class FeatureQueues(nn.Module):
    """The last Q image and text features of all ranks, oldest overwritten first; the pointer wraps around.

    Args:
        embed_dim: E.
        length: Q, any number.
        with_ids: remember which image each feature is of, in the buffer `ids` [1, Q].
    """

    image: Tensor
    text: Tensor
    pointer: Tensor
    filled: Tensor
    ids: Tensor | None

    def __init__(self, embed_dim: int, length: int, with_ids: bool = False) -> None:
        super().__init__()
        # Random directions until real features replace them, as ALBEF starts.
        self.register_buffer("image", nn.functional.normalize(torch.randn(embed_dim, length), dim=0))
        self.register_buffer("text", nn.functional.normalize(torch.randn(embed_dim, length), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))
        self.register_buffer("filled", torch.zeros(1, dtype=torch.long))
        self.register_buffer("ids", torch.full((1, length), NO_IMAGE) if with_ids else None)

    @property
    def length(self) -> int:
        """Q."""
        return self.image.shape[1]

    @torch.no_grad()
    def push(self, image_feat: Tensor, text_feat: Tensor, ids: Tensor | None = None) -> None:
        """Put the features of all ranks in, rank 0 first. Call after the backward pass of a loss that read the queues.

        Shape:
            image_feat, text_feat: [B, E];  ids: [B], numbers of the images, for queues that remember them
        """
        # of more features than places the last ones stay: which of two copies to one place wins is not defined
        image_feat, text_feat = (gather_rows(f)[-self.length :] for f in (image_feat, text_feat))
        count = len(image_feat)
        place = (self.pointer + torch.arange(count, device=self.pointer.device)) % self.length
        self.image.index_copy_(1, place, image_feat.T.to(self.image.dtype))
        self.text.index_copy_(1, place, text_feat.T.to(self.text.dtype))
        if self.ids is not None and ids is not None:
            self.ids.index_copy_(1, place, gather_rows(ids)[-self.length :][None])
        self.pointer.copy_((self.pointer + count) % self.length)
        self.filled.copy_((self.filled + count).clamp(max=self.length))

    def fill_ratio(self) -> Tensor:
        """Return the share of places that hold real features, in [0, 1]."""
        return self.filled[0] / self.length
