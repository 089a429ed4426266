"""Time as a ratio: everything that is compared runs in turn, in one process, so that what disturbs one disturbs all."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch


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
    functions: Sequence[Callable[[], object]], device: torch.device, rounds: int = 9, warmup: int = 2
) -> list[Timing]:
    """Return how long functions take, the first of them being what the others are compared with.

    Each round runs all of them once, in an order that turns by one from round to round.

    Args:
        functions: to time.
        device: that they work on; a CUDA device is waited for.
        rounds: how often each is timed.
        warmup: rounds in front that do not count.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(-warmup, rounds):
        for place in range(len(functions)):
            which = (place + turn) % len(functions)
            taken = _seconds(functions[which], device)
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


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    function()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
