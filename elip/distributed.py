"""The few facts and exchanges that code below the engine needs of torch.distributed; all work in one process too."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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


def gather_objects(value: T) -> list[T]:
    """Return the objects of all ranks, rank 0 first. They are pickled: meant for small facts, not for tensors."""
    if not is_distributed():
        return [value]
    gathered: list[T | None] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered  # type: ignore[return-value]  # every place is filled


def share(value: T) -> T:
    """Return the object of rank 0 on every rank."""
    if not is_distributed():
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def on_first_rank(action: Callable[[], object]) -> None:
    """Run `action` on rank 0; where it fails, every rank raises its error instead of waiting for the others."""
    error: Exception | None = None
    if rank() == 0:
        try:
            action()
        except Exception as failure:
            error = failure
    error = share(error)
    if error is not None:
        raise error
