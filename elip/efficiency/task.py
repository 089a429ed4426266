"""What a whole task costs, part by part: one inference, and one training step."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from elip.efficiency.count import Work, count_macs
from elip.efficiency.look_ahead import LookAhead, looking_ahead_through
from elip.efficiency.memory import peak_cuda_bytes, saved_bytes
from elip.efficiency.state import device_of, undisturbed
from elip.efficiency.vision import BlockTrace, token_trace
from elip.models.momentum import MomentumTwins
from elip.models.text import TextEncoder
from elip.models.vision import BlockTokens, VisionEncoder, VisionOutput
from elip.task import Batch, Progress, Task

Part = Literal["vision", "look_ahead", "text", "fusion", "heads", "momentum"]

_AT_THE_END = Progress(step=1, total_steps=1, steps_per_epoch=1)
"""Schedules over training have reached their target."""


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


@dataclass(frozen=True)
class TaskCost:
    """What one image (one item of a batch) costs.

    Args:
        inference: the way the task is used once trained.
        train_forward: the forward pass of a training step.
        train_step: MACs of forward and backward pass; the latter costs twice of what has a gradient, and nothing for
            look-ahead and momentum. Recomputing checkpointed activations is not in it.
        tokens: in each block of the image encoder, in inference.
        parameters: that training changes.
        momentum_parameters: of the momentum copies.
        saved_bytes: kept for the backward pass, in single precision.
        peak_cuda_bytes: most memory allocated in a step of `batch_size` images; None on the CPU.
        batch_size: images in the step that was measured.
    """

    inference: PassCost
    train_forward: PassCost
    train_step: float
    tokens: list[BlockTrace]
    parameters: int
    momentum_parameters: int
    saved_bytes: float
    peak_cuda_bytes: int | None
    batch_size: int


def task_cost(task: Task, batch_size: int = 2) -> TaskCost:
    """Return what the task costs with its reducer, which is measured at the end of training's schedules.

    Args:
        task: on any device; it is left as it was.
        batch_size: images in the made-up batch. Parts hardly depend on it: similarities within the batch do.
    """
    with undisturbed(task, training=False):
        batch = task.example_batch(batch_size)
        with torch.no_grad():
            inference, tokens = _count_inference(task, batch)
    with undisturbed(task, training=True):
        step = _Call(task, batch, partial(_loss, task))
        training = _count(step)
        run = partial(step, *step.inputs)
        saved = saved_bytes(run, task)
        peak = peak_cuda_bytes(run, task, device_of(task))
    twins = [module for module in task.modules() if isinstance(module, MomentumTwins)]
    return TaskCost(
        inference=_by_part(inference, task, batch_size),
        train_forward=_by_part(training, task, batch_size, teacher=bool(twins)),
        train_step=sum(macs * (3 if work.has_gradient else 1) for work, macs in training.items()) / batch_size,
        tokens=tokens,
        parameters=sum(p.numel() for _, p in task.parameters_to_optimise()),
        momentum_parameters=sum(p.numel() for twin in twins for p in twin.parameters()),
        saved_bytes=saved / batch_size,
        peak_cuda_bytes=peak,
        batch_size=batch_size,
    )


class _Call(nn.Module):
    """One way to call a task, as a module that takes tensors only, and a place for look-ahead."""

    def __init__(self, task: Task, batch: Batch, run: Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self.task = task
        self.look_ahead = LookAhead()
        self._run = run
        self._rest = {name: value for name, value in batch.items() if not isinstance(value, Tensor)}
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        self._names = list(tensors)
        self.inputs = tuple(tensor.to(device_of(task)) for tensor in tensors.values())

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._run({**self._rest, **dict(zip(self._names, tensors, strict=True))})


def _loss(task: Task, batch: Batch) -> Tensor:
    losses = task.training_step(batch, _AT_THE_END).losses
    return torch.stack([loss.float() for loss in losses.values()]).sum()


def _count(call: _Call) -> Counter[Work]:
    with looking_ahead_through(call.look_ahead, call.task):
        return count_macs(call, call.inputs)


def _count_inference(task: Task, batch: Batch) -> tuple[Counter[Work], list[BlockTrace]]:
    """Return the MACs of one inference, and the tokens in each block of its last image encoding."""
    blocks: list[BlockTokens] = []

    def remember(_module: nn.Module, _args: Any, output: VisionOutput) -> None:
        blocks[:] = output.blocks

    encoders = [module for module in task.modules() if isinstance(module, VisionEncoder)]
    hooks = [encoder.register_forward_hook(remember) for encoder in encoders]
    try:
        return _count(_Call(task, batch, task)), token_trace(blocks)
    finally:
        for hook in hooks:
            hook.remove()


def _by_part(works: Counter[Work], task: Task, batch_size: int, teacher: bool = False) -> PassCost:
    """Return MACs per image; with a `teacher`, what is outside the encoders and has no gradient is its work too."""
    places = _places(task)
    parts: Counter[Part] = Counter()
    for work, macs in works.items():
        part = _part(work, places)
        parts["momentum" if teacher and part == "heads" and not work.has_gradient else part] += macs
    return PassCost(**{part: macs / batch_size for part, macs in parts.items()})


def _places(task: Task) -> dict[str, Part]:
    """Return the part that modules belong to, with all below them, by their path."""
    places: dict[str, Part] = {}
    for path, module in task.named_modules(prefix="task"):
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
    if "look_ahead" in work.scopes:
        return "look_ahead"
    return found[-1] if found else "heads"
