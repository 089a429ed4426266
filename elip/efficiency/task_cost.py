"""What a whole task costs, part by part: one inference, and one training step."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elip.efficiency.count import Work, count_macs
from elip.efficiency.memory import peak_cuda_bytes, saved_bytes
from elip.efficiency.parts import PassCost, by_part
from elip.efficiency.passes import device_of, encoders_of
from elip.efficiency.vision_cost import NOISE_IMAGES, BlockTrace, Pass, Spread, adaptive, mean_trace, token_trace
from elip.models.momentum import MomentumTwins
from elip.reduction.walk import BlockTokens, VisionOutput
from elip.task import Batch, Progress, Task
from elip.undisturbed import undisturbed

BATCH_SIZE = 2
"""Images in a made-up batch. Costs per image hardly depend on it: only similarities within the batch do."""

_AT_THE_END = Progress(step=1, total_steps=1, steps_per_epoch=1)
"""Schedules over training have reached their target."""


@dataclass(frozen=True)
class TaskCost:
    """What one image (one item of a batch) costs; the mean where images differ.

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
        batch_size: images in a step that was measured.
        spread: of the image encoder in inference; None where all images cost the same.
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
    spread: Spread | None = None


def task_cost(task: Task, images: Sequence[Tensor] | None = None) -> TaskCost:
    """Return what the task costs with its reducer, which is measured at the end of training's schedules.

    Args:
        task: on any device; it is left as it was.
        images: [3, H, W] each, to take the mean over where the reducer keeps different numbers of tokens in different
            images: one by one in inference, in batches in training. None for noise. All others are counted once.
    """
    with undisturbed(task, training=False), torch.no_grad():
        batches = [task.example_batch(BATCH_SIZE)]
        inferences, per_inference = [_count_inference(task, batches[0])], BATCH_SIZE
        if adaptive(inferences[0].blocks):
            images = task.example_batch(NOISE_IMAGES)["image"] if images is None else images
            inferences, per_inference = [_count_inference(task, _showing(task, [image])) for image in images], 1
            starts = range(0, len(images), BATCH_SIZE)
            batches = [_showing(task, [images[(i + k) % len(images)] for k in range(BATCH_SIZE)]) for i in starts]
    with undisturbed(task, training=True):
        steps = [_measure_step(task, batch) for batch in batches]
    twins = [module for module in task.modules() if isinstance(module, MomentumTwins)]
    trained = sum((step.works for step in steps), Counter[Work]())
    each = [by_part(one.works, task, per_inference) for one in inferences]
    return TaskCost(
        inference=by_part(sum((one.works for one in inferences), Counter()), task, per_inference * len(inferences)),
        train_forward=by_part(trained, task, BATCH_SIZE * len(steps), teacher=bool(twins)),
        train_step=_with_backward(trained) / (BATCH_SIZE * len(steps)),
        tokens=mean_trace([token_trace(one.blocks) for one in inferences]),
        parameters=sum(p.numel() for _, p in task.parameters_to_optimise()),
        momentum_parameters=sum(p.numel() for twin in twins for p in twin.parameters()),
        saved_bytes=sum(step.saved for step in steps) / (BATCH_SIZE * len(steps)),
        peak_cuda_bytes=max((step.peak for step in steps if step.peak is not None), default=None),
        batch_size=BATCH_SIZE,
        spread=Spread.of([parts.vision_total for parts in each]),
    )


def train_step_macs(task: Task) -> float:
    """Return the MACs of an image in a training step, forward and backward, once training's schedules are at their end.

    Args:
        task: on any device; it is left as it was.
    """
    with undisturbed(task, training=True):
        return _with_backward(_training_step(task, task.example_batch(BATCH_SIZE)).count()) / BATCH_SIZE


class _Call(nn.Module):
    """One way to call a task, as a module that takes tensors only."""

    def __init__(self, task: Task, batch: Batch, run: Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self.task = task
        self._run = run
        self._rest = {name: value for name, value in batch.items() if not isinstance(value, Tensor)}
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        self._names = list(tensors)
        self.inputs = tuple(tensor.to(device_of(task)) for tensor in tensors.values())

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._run({**self._rest, **dict(zip(self._names, tensors, strict=True))})

    def count(self) -> Counter[Work]:
        """Return the MACs of one such call."""
        return count_macs(self, self.inputs)


class _Step(NamedTuple):
    """One training step that was measured."""

    works: Counter[Work]
    saved: int
    peak: int | None


def _measure_step(task: Task, batch: Batch) -> _Step:
    step = _training_step(task, batch)
    run = partial(step, *step.inputs)
    return _Step(step.count(), saved_bytes(run, task), peak_cuda_bytes(run, task, device_of(task)))


def _training_step(task: Task, batch: Batch) -> _Call:
    def loss(batch: Batch) -> Tensor:
        return task.total_loss(task.training_step(batch, _AT_THE_END).losses)

    return _Call(task, batch, loss)


def _with_backward(works: Counter[Work]) -> int:
    return sum(macs * (3 if work.has_gradient else 1) for work, macs in works.items())


def _count_inference(task: Task, batch: Batch) -> Pass:
    """Return one inference, with the tokens of its last image encoding."""
    blocks: list[BlockTokens] = []

    def remember(_module: nn.Module, _args: Any, output: VisionOutput) -> None:
        blocks[:] = output.blocks

    hooks = [encoder.register_forward_hook(remember) for encoder in encoders_of(task)]
    try:
        return Pass(_Call(task, batch, task).count(), blocks)
    finally:
        for hook in hooks:
            hook.remove()


def _showing(task: Task, images: Sequence[Tensor]) -> Batch:
    """Return a made-up batch of items that show these images; one that looks at several sees the same in all places."""
    batch = task.example_batch(len(images))
    image = torch.stack([*images])
    places = batch["image"].numel() // image.numel()
    return {**batch, "image": image.repeat_interleave(places, dim=0).view_as(batch["image"])}
