"""What a whole task costs, part by part: one inference, and one training step."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import ceil, floor
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elip.efficiency.count import count_macs
from elip.efficiency.parts import PassCost, Work, by_part
from elip.efficiency.passes import encoders_of, to_device_of, without_values
from elip.efficiency.resources import peak_cuda_bytes, saved_bytes
from elip.efficiency.vision_cost import NOISE_IMAGES, BlockTrace, Pass, Spread, adaptive, mean_trace, token_trace
from elip.models.momentum import MomentumTwins
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import BlockTokens, VisionOutput
from elip.task import Batch, Progress, Task
from elip.undisturbed import undisturbed

BATCH_SIZE = 2
"""Images in a made-up batch. Costs per image hardly depend on it: only similarities within the batch do."""

MANY_STEPS = 10_000
"""Steps of a training whose number is not known, for means over it."""
MOST_COUNTS = 32
"""Times that a step is counted for such a mean, most where costs change most; in between they are interpolated."""


@dataclass(frozen=True)
class TaskCost:
    """What one image (one item of a batch) costs; the mean where images differ.

    Args:
        inference: the way the task is used once trained.
        train_forward: the forward pass of a training step.
        train_step: MACs of forward and backward pass, with the reduction in full force; the latter costs twice of what
            has a gradient, and nothing for look-ahead and momentum. Recomputing checkpointed activations is not in it.
        train_mean: the mean of that over the whole training, during which a reduction may set in and end.
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
    train_mean: float
    tokens: list[BlockTrace]
    parameters: int
    momentum_parameters: int
    saved_bytes: float
    peak_cuda_bytes: int | None
    batch_size: int
    spread: Spread | None = None


def task_cost(task: Task, images: Sequence[Tensor] | None = None) -> TaskCost:
    """Return what the task costs with its reducer: in training in full force, in inference as it is once trained.

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
    train_step = _with_backward(trained) / trained_images
    each = [by_part(one.works, inferred.images) for one in inferred.passes]
    works = sum((one.works for one in inferred.passes), Counter[Work]())
    return TaskCost(
        inference=by_part(works, inferred.images * len(inferred.passes)),
        train_forward=by_part(trained, trained_images),
        train_step=train_step,
        # of made-up images, which may keep other numbers of tokens than the given ones
        train_mean=mean_train_step_macs(task) * (train_step / train_step_macs(task)),
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


def train_step_macs(task: Task, progress: Progress | None = None) -> float:
    """Return the MACs of an image in a training step, forward and backward.

    Args:
        task: on any device; it is left as it was.
        progress: of the training; None for the reduction in full force, where schedules have set in and none is over.
    """
    progress = progress or full_force(task)

    def count() -> Counter[Work]:
        with undisturbed(task, training=True):
            batch = task.example_batch(BATCH_SIZE)
            return count_macs(task, lambda: _loss(task, batch, progress))

    return _with_backward(without_values(task, count)) / BATCH_SIZE


def mean_train_step_macs(task: Task, steps: int = MANY_STEPS) -> float:
    """Return the mean over a whole training of the MACs of an image in a step, forward and backward.

    Warm-ups and `until` are in it. Exact where costs change a few times only, or in a few steps. Where they change all
    the time it errs by far less than a thousandth: steps are counted where most is uncertain, and costs taken to rise
    or fall in between.

    Args:
        task: on any device; it is left as it was.
        steps: of the training.
    """
    known: dict[int, float] = {}

    def cost(step: int) -> float:
        if step not in known:
            known[step] = train_step_macs(task, Progress(step, steps, steps))
        return known[step]

    def uncertainty(gap: tuple[int, int]) -> float:
        return abs(cost(gap[1]) - cost(gap[0])) * (gap[1] - gap[0] - 1)

    ends = [ceil(reducer.until * steps) for reducer in _reducers(task) if reducer.until is not None]
    gaps = list(
        pairwise(sorted({0, *(step for end in ends for step in (end - 1, end) if 0 < step < steps), steps - 1}))
    )
    while gaps and len(known) < MOST_COUNTS and uncertainty(widest := max(gaps, key=uncertainty)) > 0:
        middle = sum(widest) // 2
        gaps.remove(widest)
        gaps += [(widest[0], middle), (middle, widest[1])]
    start = cost(0)  # sums of differences to it: no rounding where nothing changes
    between = sum((last - first - 1) * ((cost(first) + cost(last)) / 2 - start) for first, last in gaps)
    return start + (between + sum(cost(step) - start for step in {*chain.from_iterable(gaps)})) / steps


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


def _loss(task: Task, batch: Batch, progress: Progress | None = None) -> Tensor:
    """Return what a training step on a batch minimises, by default with the reduction in full force."""
    return task.total_loss(task.training_step(_on_device_of(task, batch), progress or full_force(task)).losses)


def full_force(task: Task) -> Progress:
    """Return the progress of a training at which its reduction is as strong as it gets."""
    fraction = min((reducer.full_force for reducer in _reducers(task)), default=1.0)
    whole = 2**53  # so fine that no step is between the last one and `until`
    return Progress(floor(fraction * whole), whole, whole)


class StepCost(NamedTuple):
    """What a training step on one batch costs.

    Args:
        macs: of forward and backward pass.
        saved_bytes: kept for the backward pass, in single precision.
    """

    macs: int
    saved_bytes: int


def step_cost(task: Task, batch_size: int) -> StepCost:
    """Return what a forward and a backward pass over a made-up batch cost, with the reduction in full force.

    Args:
        task: on any device; it is left as it was. On the meta device nothing is computed, and bytes are those of the
            CPU's kernels.
        batch_size: items in the batch.

    Raises:
        ElipError: there is work whose cost is not known, or the pass needs values and the task has none.
    """

    def run() -> _Step:
        with undisturbed(task, training=True):
            batch = task.example_batch(batch_size)
        return _train(task, batch)

    step = without_values(task, run)
    return StepCost(_with_backward(step.works), step.saved)


def _reducers(task: Task) -> list[TokenReducer]:
    return [part for part in task.modules() if isinstance(part, TokenReducer)]


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
