"""Starting a task from the weights of another run, and saying what became of each of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from elip.errors import CheckpointError
from elip.models.vision import VisionEncoder
from elip.task import Task
from elip.weights.bert import resize_pos_embed
from elip.weights.files import MODEL, Weights
from elip.weights.fitting import counted

_MOMENTUM, _QUEUES = "momentum.", "queues."
_ENCODERS = ("albef.visual_encoder.", "albef.text_encoder.")
_LISTED = 8


@dataclass
class Report:
    """What became of the weights in a file, by name.

    Args:
        source: the file, in words.
        taken: tensors of the model that the file gave as they are, in whatever place.
        resized: position embeddings of another image size, with both sizes.
        adapted: those of `taken` that the file has in another place, or that a layer there was copied for.
        twins: momentum copies that the file lacks, set to the weights that they follow.
        left_over: tensors of the file without a place in the model.
        new: tensors of the model that stay as they were initialised.
        derived: tensors of the file that only repeat others.
    """

    source: str
    taken: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    adapted: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = (
            ("taken", len(self.taken), _grouped(self.taken)),
            ("  of them adapted", len(self.adapted), _grouped(self.adapted)),
            ("resized", len(self.resized), ", ".join(f"{_short(n)} {how}" for n, how in self.resized.items())),
            ("copied to twins", len(self.twins), _grouped(self.twins)),
            ("left over", len(self.left_over), _grouped(self.left_over)),
            ("repeat others", len(self.derived), _counted(map(_ending, self.derived))),
            ("newly initialised", len(self.new), _grouped(self.new)),
        )
        told = [f"  {what:18}{count:5}  {names}".rstrip() for what, count, names in lines if count or what == "taken"]
        return "\n".join([f"weights from {self.source}:", *told])


def start_from(task: Task, weights: Weights, allowed: Sequence[str] = (), *, complete: bool = False) -> Report:
    """Load the weights in a file, of any form and any task, into a task.

    They are adapted by the task, position embeddings are resized to its images, and momentum copies that the file
    lacks are set to the weights that they follow. Queues are taken only if all of them fit.

    Args:
        task: built; its weights change in place.
        weights: from `elip.weights.files.read_weights`.
        allowed: names, or beginnings of names, that may be left over, or fit in name only, or be missing of an encoder.
        complete: whether the file must have all the weights of the model, as in an evaluation.

    Raises:
        CheckpointError: something unexpected is left over, a shape differs, nothing fits, or weights are missing.
    """
    adapted = task.adapt_checkpoint(weights.state)
    own = task.state_dict()
    report = Report(weights.describe(), derived=sorted(weights.derived))
    state = _resized(task, adapted, report)
    state = _with_twins(state, own, report)
    fitting = _fitting(state, own, weights, report)
    _refuse_leftovers(state, own, _Allowed(own, task.expected_leftovers, allowed), weights, report)
    report.new = [name for name in own if name not in fitting]
    _refuse_gaps(report, fitting, weights, allowed)
    if complete:
        _require_all(report, weights)
    task.load_state_dict(fitting, strict=False)
    first_hand = [name for name in fitting if name not in report.resized and name not in report.twins]
    report.taken = first_hand
    report.adapted = [name for name in first_hand if state[name] is not weights.state.get(name)]
    return report


def _resized(task: Task, state: Mapping[str, Tensor], report: Report) -> dict[str, Tensor]:
    """Return the weights with position embeddings for the images of this task."""
    resized = dict(state)
    for place, module in task.named_modules():
        name = f"{place}.pos_embed"
        if not isinstance(module, VisionEncoder) or name not in state:
            continue
        old, new = state[name], module.get_parameter("pos_embed")
        num_prefix = 0 if module.no_embed_class else module.num_prefix_tokens
        side = max(0, old.shape[1] - num_prefix) ** 0.5
        if old.shape[1] != new.shape[1] and side == int(side) > 0:
            resized[name] = resize_pos_embed(old, module.grid, num_prefix)
            report.resized[name] = f"{int(side)} x {int(side)} to {module.grid[0]} x {module.grid[1]}"
    return resized


def _with_twins(state: Mapping[str, Tensor], own: Mapping[str, Tensor], report: Report) -> dict[str, Tensor]:
    """Return the weights with momentum copies for those that have none, where the model keeps one."""
    with_twins = dict(state)
    for name in own:
        if _MOMENTUM in name and name not in state and _online(name) in state:
            with_twins[name] = state[_online(name)]
            report.twins.append(name)
    return with_twins


def _fitting(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], weights: Weights, report: Report
) -> dict[str, Tensor]:
    """Return the weights that have a place in the model."""
    differing = {name for name in state if name in own and state[name].shape != own[name].shape}
    if any(_short(name).startswith(_QUEUES) for name in differing):
        differing |= {name for name in state if _short(name).startswith(_QUEUES)}
    fitting = {name: tensor for name, tensor in state.items() if name in own and name not in differing}
    if not any(_short(name).partition(".")[0] != "temp" for name in fitting):
        raise CheckpointError(
            f"{weights.path} has nothing in common with this model: it holds {_grouped(state)}. Give an ALBEF or ELIP "
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
        online = _online(name)
        if _begins(online, self.named) or _begins(name, self.named):
            return True
        if name in self.own:
            return _short(name).startswith(_QUEUES)  # of another size
        return _begins(online, self.expected) or online in self.own


def _refuse_leftovers(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], allowed: _Allowed, weights: Weights, report: Report
) -> None:
    wrong = [name for name in report.left_over if name not in allowed]
    if not wrong:
        return
    told = [_complaint(name, state, own) for name in wrong[:_LISTED]]
    more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
    groups = ", ".join(dict.fromkeys(_group(_online(name)) for name in wrong))
    raise CheckpointError(
        f"{weights.path}: no place in this model for {', '.join(told)}{more}. Check model: and task: of the config, "
        f"or, to do without these, allow them by name: 'model.init_allow=[{groups}]'"
    )


def _begins(name: str, with_one_of: Sequence[str]) -> bool:
    """Return whether a name is one of those given, or is within a module that is."""
    return any(f"{_short(name)}.".startswith(f"{_short(one).rstrip('.')}.") for one in with_one_of)


def _refuse_gaps(report: Report, fitting: Mapping[str, Tensor], weights: Weights, allowed: Sequence[str]) -> None:
    """Raise an error where an encoder is there in part: a deeper one than the file's, say."""
    there = {_group(name) for name in fitting}
    gaps = [name for name in report.new if _group(name) in there and _short(name).startswith(_ENCODERS)]
    gaps = [name for name in gaps if not _begins(name, allowed)]
    if gaps:
        groups = ", ".join(dict.fromkeys(_group(name) for name in gaps))
        raise CheckpointError(
            f"{weights.path} has only a part of {groups}: {counted([_short(name) for name in gaps], 'missing')}. Check "
            f"model: and task: of the config, or, to start these from random weights, allow it by name: "
            f"'model.init_allow=[{groups}]'"
        )


def _require_all(report: Report, weights: Weights) -> None:
    missing = [name for name in report.new if not _short(name).startswith((_QUEUES, _MOMENTUM))]
    if missing:
        raise CheckpointError(
            f"{weights.path} lacks weights of this model: {_grouped(missing)}. Without training they would be random: "
            "name the config of the task that the weights were trained for."
        )


def _complaint(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if name not in own:
        return _short(name)
    return f"{_short(name)} {list(state[name].shape)} (here {list(own[name].shape)})"


def _short(name: str) -> str:
    return name.removeprefix(MODEL)


def _online(name: str) -> str:
    """Return the name of what a momentum copy follows, or the name itself if it is not one's."""
    return name.replace(_MOMENTUM, "", 1)


def _group(name: str) -> str:
    """Return the module of a name as a reader thinks of it: `albef.text_encoder`, `momentum.albef.text_encoder`."""
    parts = _short(name).split(".")
    length = 1 + (parts[0] == "momentum")
    length += len(parts) > length and parts[length - 1] == "albef"
    return ".".join(parts[:length])


def _ending(name: str) -> str:
    """Return a published name of a repeated tensor without the module that it is in."""
    return ".".join(name.split(".")[-2:])


def _grouped(names: Iterable[str]) -> str:
    return _counted(map(_group, names))


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in Counter(names).items())
