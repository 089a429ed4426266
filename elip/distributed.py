"""The few facts and exchanges that code below the engine needs of torch.distributed; all work in one process too."""

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Return whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the index of this process among all, 0 for the one that writes files."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


@torch.no_grad()
def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all ranks, rank 0 first, without gradient; ranks may hold different numbers of rows.

    Shape:
        x: [b, ...], b may differ between ranks; returns [sum of b, ...]
    """
    if not is_distributed():
        return x.detach()
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([x.shape[0]], device=x.device))
    longest = int(max(count.item() for count in counts))
    padded = x.new_zeros(longest, *x.shape[1:])
    padded[: x.shape[0]] = x.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[: int(count.item())] for rows, count in zip(gathered, counts, strict=True)])
