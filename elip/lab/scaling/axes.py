"""The sizes of a config that cost grows with, and what a training step costs at several values of each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from elip.config import config_from_dict, config_to_dict
from elip.config.schema import ReducerConfig, RunConfig
from elip.efficiency.costed import BASELINE
from elip.efficiency.passes import encoders_of
from elip.efficiency.run_cost import EncoderCall, watch_encoders
from elip.efficiency.task_cost import step_cost
from elip.efficiency.vision_cost import token_trace
from elip.errors import ElipError
from elip.lab.scaling.memory import Held, without_memory
from elip.registry import REDUCERS


@dataclass(frozen=True)
class Point:
    """What a training step costs at one value of one size.

    Args:
        value: of the key, as it is set.
        x: what the cost is set against, such as patches for the side of an image.
        batch: items in it.
        tokens: of an image in a block, the mean over the blocks, prefix included.
        macs: of forward and backward pass.
        saved_bytes: kept for the backward pass, in single precision.
        held_bytes: that training holds whatever the batch.
    """

    value: float
    x: float
    batch: int
    tokens: float
    macs: int
    saved_bytes: int
    held_bytes: int


@dataclass(frozen=True)
class Axis:
    """A size that is varied, all others being the config's.

    Args:
        name: in the headings of tables.
        plural: what `Point.x` counts.
        set_as: what `Point.value` is, where it is not that.
        values: to take.
        change: a config with a value.
        x: what the cost is set against, from the value, mean tokens a block, and patches of an image.
    """

    name: str
    plural: str
    set_as: str | None
    values: Sequence[float]
    change: Callable[[RunConfig, float], RunConfig]
    x: Callable[[float, float, int], float]


@dataclass(frozen=True)
class Growth:
    """What was found along an axis.

    Args:
        axis: that was gone along.
        points: in its order.
        refused: values that the config does not take, and why.
    """

    axis: Axis
    points: list[Point]
    refused: list[str]


def axes_of(config: RunConfig, values: dict[str, Sequence[float]]) -> Iterator[Axis]:
    """Yield the axes that a config has.

    Args:
        config: to be varied.
        values: of each: `batch`, `image`, `tokens` (strengths of the reducer, as `TokenReducer.at_strength` has them),
            `text`, `queue`.
    """
    yield Axis("batch", "images", None, values["batch"], _key("train.batch_size"), _value)
    image = _key("model.vision.image_size")
    yield Axis("image size", "patches", "pixels", values["image"], image, lambda _value, _tokens, patches: patches)
    if config.reducer.name != BASELINE:
        kept = "tokens in a block"
        yield Axis("tokens kept", kept, "strength", values["tokens"], at_strength, lambda _value, tokens, _: tokens)
    if hasattr(config.task, "text_length"):
        yield Axis("text length", "tokens", None, values["text"], _key("task.text_length"), _value)
    if hasattr(config.task, "queue_size"):
        yield Axis("queue", "entries", None, values["queue"], _key("task.queue_size"), _value)


def _value(value: float, _tokens: float, _patches: int) -> float:
    return value


def _key(key: str) -> Callable[[RunConfig, float], RunConfig]:
    return lambda config, value: changed(config, f"{key}={value}")


def changed(config: RunConfig, *overrides: str) -> RunConfig:
    """Return a config with keys changed."""
    return config_from_dict(config_to_dict(config), "config", overrides)


def at_strength(config: RunConfig, strength: float) -> RunConfig:
    """Return the config with its reducer so many times as strong; at 0 it keeps all tokens."""
    if strength == 0:
        return config.model_copy(update={"reducer": ReducerConfig(name=BASELINE)})
    own = config.reducer
    params = REDUCERS.get(own.name).at_strength(own.params, strength)
    reducer = ReducerConfig(name=own.name, strict=own.strict, until=own.until, **params)
    return config.model_copy(update={"reducer": reducer})


def go_along(axis: Axis, config: RunConfig) -> Growth:
    """Return what a training step costs along an axis. What a config does not take is left out, and told."""
    points, refused = [], []
    for value in axis.values:
        try:
            points.append(_point(axis, value, axis.change(config, value)))
        except ElipError as error:
            refused.append(f"{axis.name} {value:g}: {error}")
    return Growth(axis, points, refused)


def _point(axis: Axis, value: float, config: RunConfig) -> Point:
    task, batch = without_memory(config), config.train.batch_size
    calls: list[EncoderCall] = []
    watch_encoders(task, calls.append, lambda encoder: encoder.training and not calls)
    cost = step_cost(task, batch)
    tokens = fmean(block.mlp for block in token_trace(calls[0].blocks)) if calls else 0.0
    patches = next((int(encoder.patch_embed.num_patches) for encoder in encoders_of(task)), 0)  # type: ignore[arg-type]
    x = axis.x(value, tokens, patches)
    return Point(value, x, batch, tokens, cost.macs, cost.saved_bytes, Held.of(task).total)
