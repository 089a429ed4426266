"""What a whole task costs, part by part: one inference, and one training step."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elip.efficiency.count import count_macs
from elip.efficiency.parts import PassCost, Work, by_part
from elip.efficiency.passes import encoders_of, to_device_of, without_values
from elip.efficiency.resources import peak_cuda_bytes, saved_bytes
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

    Raises:
        ElipError: there is work whose cost, or whose part of the model, is not known.
    """
    inferred = without_values(task, lambda: _infer(task, images))
    # apart from the inferences: where one of the two needs values, the other may do without
    steps = without_values(task, lambda: [_train(task, batch) for batch in inferred.batches])
    memory = steps
    if next(task.parameters()).is_cuda:  # counted on the meta device, and kept by the kernels of another one
        memory = [_train(task, batch) for batch in inferred.batches]
    trained, trained_images = sum((step.works for step in steps), Counter[Work]()), BATCH_SIZE * len(steps)
    each = [by_part(one.works, inferred.images) for one in inferred.passes]
    works = sum((one.works for one in inferred.passes), Counter[Work]())
    return TaskCost(
        inference=by_part(works, inferred.images * len(inferred.passes)),
        train_forward=by_part(trained, trained_images),
        train_step=_with_backward(trained) / trained_images,
        tokens=mean_trace([token_trace(one.blocks) for one in inferred.passes]),
        parameters=sum(p.numel() for _, p in task.parameters_to_optimise()),
        momentum_parameters=sum(
            p.numel() for twins in task.modules() if isinstance(twins, MomentumTwins) for p in twins.parameters()
        ),
        saved_bytes=sum(step.saved for step in memory) / trained_images,
        peak_cuda_bytes=max((step.peak for step in memory if step.peak is not None), default=None),
        batch_size=BATCH_SIZE,
        spread=Spread.of([parts.vision_total for parts in each]),
    )


def train_step_macs(task: Task) -> float:
    """Return the MACs of an image in a training step, forward and backward, once training's schedules are at their end.

    Args:
        task: on any device; it is left as it was.
    """

    def count() -> Counter[Work]:
        with undisturbed(task, training=True):
            batch = task.example_batch(BATCH_SIZE)
            return count_macs(task, lambda: _loss(task, batch))

    return _with_backward(without_values(task, count)) / BATCH_SIZE


class _Inferred(NamedTuple):
    """Inferences that were counted, how many images each has, and batches to train on that stand for them."""

    passes: list[Pass]
    images: int
    batches: list[Batch]


def _infer(task: Task, images: Sequence[Tensor] | None) -> _Inferred:
    """Return one inference that stands for all, or one for each image where they differ."""
    with undisturbed(task, training=False), torch.no_grad():
        batch = task.example_batch(BATCH_SIZE)
        first = _count_inference(task, batch)
        if not adaptive(first.blocks):
            return _Inferred([first], BATCH_SIZE, [batch])
        images = task.example_batch(NOISE_IMAGES)["image"] if images is None else images
        passes = [_count_inference(task, _showing(task, [image])) for image in images]
        starts = range(0, len(images), BATCH_SIZE)
        pairs = [[images[(i + k) % len(images)] for k in range(BATCH_SIZE)] for i in starts]
        return _Inferred(passes, 1, [_showing(task, pair) for pair in pairs])


class _Step(NamedTuple):
    """One training step that was measured."""

    works: Counter[Work]
    saved: int
    peak: int | None


def _train(task: Task, batch: Batch) -> _Step:
    works: Counter[Work] = Counter()

    def forward() -> None:
        works.update(count_macs(task, lambda: _loss(task, batch)))

    with undisturbed(task, training=True):
        saved = saved_bytes(forward, task)
        return _Step(works, saved, peak_cuda_bytes(lambda: _loss(task, batch), task))


def _loss(task: Task, batch: Batch) -> Tensor:
    """Return what a training step on a batch minimises, with schedules at their end."""
    return task.total_loss(task.training_step(_on_device_of(task, batch), _AT_THE_END).losses)


def _with_backward(works: Counter[Work]) -> int:
    return sum(macs * (3 if work.has_gradient else 1) for work, macs in works.items())


def _count_inference(task: Task, batch: Batch) -> Pass:
    """Return one inference, with the tokens of its last image encoding."""
    blocks: list[BlockTokens] = []

    def remember(_module: nn.Module, _args: Any, output: VisionOutput) -> None:
        blocks[:] = output.blocks

    hooks = [encoder.register_forward_hook(remember) for encoder in encoders_of(task)]
    try:
        return Pass(count_macs(task, lambda: task(_on_device_of(task, batch))), blocks)
    finally:
        for hook in hooks:
            hook.remove()


def _on_device_of(task: Task, batch: Batch) -> Batch:
    return {name: to_device_of(task, value) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _showing(task: Task, images: Sequence[Tensor]) -> Batch:
    """Return a made-up batch of items that show these images; one that looks at several sees the same in all places."""
    batch = task.example_batch(len(images))
    image = torch.stack([*images])
    places = batch["image"].numel() // image.numel()
    return {**batch, "image": image.repeat_interleave(places, dim=0).view_as(batch["image"])}
