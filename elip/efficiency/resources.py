"""Memory that training takes beyond its parameters; and time, as a ratio.

Everything whose time is compared runs in turn, in one process, so that what disturbs one disturbs all.
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from elip.execution import watching


def saved_bytes(forward: Callable[[], object], model: nn.Module) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, exactly.

    Tensors that share memory count once, and those that share it with parameters or buffers not at all.

    Args:
        forward: runs the pass.
        model: whose parameters and buffers it uses.
    """
    # A storage is known by its handle, because one on the meta device has no address.
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps their handles from being given out again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor.detach()  # a saved result would hold the graph that holds it, and nothing frees such circles

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.enable_grad(), hooks, watching(pack):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def peak_cuda_bytes(forward: Callable[[], Tensor], model: nn.Module) -> int | None:
    """Return the most memory allocated during a forward and a backward pass of a model on CUDA; None elsewhere.

    Args:
        forward: runs the pass and returns the loss.
        model: whose parameters get gradients, which are thrown away.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    torch.autograd.grad(forward(), parameters, allow_unused=True)
    return torch.cuda.max_memory_allocated(device)


@dataclass(frozen=True)
class Timing:
    """How long one of several things takes.

    Args:
        seconds: of each round.
        ratios: of each round, to the first of the things in the same round.
    """

    seconds: list[float]
    ratios: list[float]

    @property
    def median_seconds(self) -> float:
        """Median over the rounds."""
        return median(self.seconds)

    @property
    def ratio(self) -> float:
        """Median ratio to the first thing."""
        return median(self.ratios)


def time_in_turn(
    functions: Sequence[Callable[[], object]],
    device: torch.device,
    rounds: int = 9,
    warmup: int = 2,
    clock: Callable[[], float] | None = None,
) -> list[Timing]:
    """Return how long functions take, the first of them being what the others are compared with.

    Each round runs all of them once, in an order that turns by one from round to round.

    Args:
        functions: to time.
        device: that they work on; a CUDA device is waited for.
        rounds: how often each is timed.
        warmup: rounds in front that do not count.
        clock: in seconds, by default of the wall; `time.process_time` for those that this process works.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(-warmup, rounds):
        for place in range(len(functions)):
            which = (place + turn) % len(functions)
            taken = _seconds(functions[which], device, clock or time.perf_counter)
            if turn >= 0:
                seconds[which].append(taken)
    return [Timing(mine, [a / b for a, b in zip(mine, seconds[0], strict=True)]) for mine in seconds]


def machine(device: torch.device) -> str:
    """Return what to write beside absolute times: the device and the versions that matter."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def _seconds(function: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    _wait_for(device)
    start = clock()
    function()
    _wait_for(device)
    return clock() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
