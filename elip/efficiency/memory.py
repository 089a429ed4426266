"""Memory that training takes beyond its parameters."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def saved_bytes(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, exactly.

    Tensors that share memory count once, and those that share it with parameters or buffers not at all.

    Args:
        forward: runs the pass and returns the loss.
        model: whose parameters and buffers it uses.
    """
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps their addresses from being given out again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def peak_cuda_bytes(forward: Callable[[], Tensor], model: nn.Module, device: torch.device) -> int | None:
    """Return the most memory allocated on the CUDA device during a forward and a backward pass; None on the CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    torch.autograd.grad(forward(), parameters, allow_unused=True)
    return torch.cuda.max_memory_allocated(device)
