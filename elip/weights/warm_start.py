"""Starting a task from the weights of another run, and saying what became of each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from elip.errors import CheckpointError
from elip.models.vision import VisionEncoder
from elip.weights.files import Weights
from elip.weights.fitting import LoadReport, begins, counted, fits, grouped, kind, require_finite
from elip.weights.names import MOMENTUM, QUEUES, group, online, short
from elip.weights.vit import resize_pos_embed, side_of

_ENCODERS = ("albef.visual_encoder.", "albef.text_encoder.")
_LISTED = 8


class Startable(Protocol):
    """What can start from the weights of others: a task, as `elip.task.Task` has it."""

    expected_leftovers: Sequence[str]

    def adapt_checkpoint(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of any task in the form that this one has them."""
        ...


def start_from(task: Startable, weights: Weights, allowed: Sequence[str] = (), *, complete: bool = False) -> LoadReport:
    """Load the weights in a file, of any form and any task, into a task.

    They are adapted by the task, position embeddings are resized to its images, and momentum copies that the file
    lacks are set to the weights that they follow. Queues are taken only if all of them fit.

    Args:
        task: built; its weights change in place.
        weights: from `elip.weights.files.read_weights`.
        allowed: names, or beginnings of names, that may be left over, or fit in name only, or be missing of an encoder.
        complete: whether the file must have all the weights of the model, as in an evaluation.

    Raises:
        CheckpointError: something unexpected is left over, a shape or type differs, nothing fits, or weights are
            missing or not finite.
    """
    assert isinstance(task, nn.Module)
    adapted = task.adapt_checkpoint(weights.state)
    own = task.state_dict()
    report = LoadReport(weights.describe(), derived=sorted(weights.derived))
    state = _resized(task, adapted, report)
    state = _with_twins(state, own, report)
    fitting = _fitting(state, own, weights, report)
    _refuse_leftovers(state, own, _Allowed(own, task.expected_leftovers, allowed), weights, report)
    report.new = [name for name in own if name not in fitting]
    _refuse_gaps(report, fitting, weights, allowed)
    if complete:
        _require_all(report, weights)
    require_finite(fitting, str(weights.path))
    task.load_state_dict(fitting, strict=False)
    first_hand = [name for name in fitting if name not in report.resized and name not in report.twins]
    report.taken = first_hand
    report.adapted = [name for name in first_hand if state[name] is not weights.state.get(name)]
    return report


def _resized(task: nn.Module, state: Mapping[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """Return the weights with position embeddings for the images of this task."""
    resized = dict(state)
    for place, module in task.named_modules():
        name = f"{place}.pos_embed"
        if not isinstance(module, VisionEncoder) or name not in state:
            continue
        old, new = state[name], module.get_parameter("pos_embed")
        num_prefix = 0 if module.no_embed_class else module.num_prefix_tokens
        side = side_of(old, num_prefix)
        if old.shape[1] != new.shape[1] and side:
            resized[name] = resize_pos_embed(old, module.grid, num_prefix)
            report.resized[name] = f"{side} x {side} to {module.grid[0]} x {module.grid[1]}"
    return resized


def _with_twins(state: Mapping[str, Tensor], own: Mapping[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """Return the weights with momentum copies for those that have none, where the model keeps one."""
    with_twins = dict(state)
    for name in own:
        if MOMENTUM in name and name not in state and online(name) in state:
            with_twins[name] = state[online(name)]
            report.twins.append(name)
    return with_twins


def _fitting(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], weights: Weights, report: LoadReport
) -> dict[str, Tensor]:
    """Return the weights that have a place in the model."""
    differing = {name for name in state if name in own and not fits(state[name], own[name])}
    if any(short(name).startswith(QUEUES) for name in differing):
        differing |= {name for name in state if short(name).startswith(QUEUES)}
    fitting = {name: tensor for name, tensor in state.items() if name in own and name not in differing}
    if not any(short(name).partition(".")[0] != "temp" for name in fitting):
        raise CheckpointError(
            f"{weights.path} has nothing in common with this model: it holds {grouped(state)}. Give an ALBEF or ELIP "
            "checkpoint, or one of a run of this toolkit; weights of one encoder alone are given by "
            "model.vision.weights or model.text.weights."
        )
    report.left_over = [name for name in state if name not in fitting]
    return fitting


@dataclass(frozen=True)
class _Allowed:
    """What may be left over.

    Args:
        own: tensors of the model.
        expected: names that the task may have no place for.
        named: by the user, even where a tensor of that name is in the model.
    """

    own: Mapping[str, Tensor]
    expected: Sequence[str]
    named: Sequence[str]

    def __contains__(self, name: str) -> bool:
        followed = online(name)
        if begins(followed, self.named) or begins(name, self.named):
            return True
        if name in self.own:
            return short(name).startswith(QUEUES)  # of another size
        return begins(followed, self.expected) or followed in self.own


def _refuse_leftovers(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], allowed: _Allowed, weights: Weights, report: LoadReport
) -> None:
    wrong = [name for name in report.left_over if name not in allowed]
    if not wrong:
        return
    shown = [_complaint(name, state, own) for name in wrong[:_LISTED]]
    more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
    groups = ", ".join(dict.fromkeys(group(online(name)) for name in wrong))
    raise CheckpointError(
        f"{weights.path}: no place in this model for {', '.join(shown)}{more}. Check model: and task: of the config, "
        f"or, to do without these, allow them by name: 'model.init_allow=[{groups}]'"
    )


def _refuse_gaps(report: LoadReport, fitting: Mapping[str, Tensor], weights: Weights, allowed: Sequence[str]) -> None:
    """Raise an error where an encoder is there in part: a deeper one than the file's, say."""
    there = {group(name) for name in fitting}
    gaps = [name for name in report.new if group(name) in there and short(name).startswith(_ENCODERS)]
    gaps = [name for name in gaps if not begins(name, allowed)]
    if gaps:
        groups = ", ".join(dict.fromkeys(group(name) for name in gaps))
        raise CheckpointError(
            f"{weights.path} has only a part of {groups}: {counted([short(name) for name in gaps], 'missing')}. Check "
            f"model: and task: of the config, or, to start these from random weights, allow it by name: "
            f"'model.init_allow=[{groups}]'"
        )


def _require_all(report: LoadReport, weights: Weights) -> None:
    missing = [name for name in report.new if not short(name).startswith((QUEUES, MOMENTUM))]
    if missing:
        raise CheckpointError(
            f"{weights.path} lacks weights of this model: {grouped(missing)}. Without training they would be random: "
            "name the config of the task that the weights were trained for."
        )


def _complaint(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if name not in own:
        return short(name)
    return f"{short(name)} {kind(state[name])} (here {kind(own[name])})"
