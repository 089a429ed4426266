"""Fitting the tensors of a file to a module: each of them, and each of the module's, is accounted for."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from elip.errors import CheckpointError
from elip.weights.names import group, short
from elip.weights.reading import require_plain

_LISTED = 4
_GROUPS = 16


@dataclass
class LoadReport:
    """What became of the tensors in a file, and where those of a module are from, by name.

    Args:
        source: the file, and what was done to read it, in words.
        key: of the config that names the file, where there is one.
        taken: tensors of the module that the file gave as they are, in whatever place.
        adapted: those of `taken` that the file has in another place, or that a layer there was copied for.
        resized: position embeddings of another image size, with both sizes.
        twins: momentum copies that the file lacks, set to the weights that they follow.
        left_over: tensors of the file without a place in the module.
        other_parts: tensors of the file that belong to other parts of a larger model.
        derived: tensors of the file that only repeat others.
        new: tensors of the module that stay as they were initialised.
    """

    source: str
    key: str = ""
    taken: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    twins: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    other_parts: Sequence[str] = ()
    derived: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = (
            ("taken", len(self.taken), grouped(self.taken)),
            ("  of them adapted", len(self.adapted), grouped(self.adapted)),
            ("resized", len(self.resized), ", ".join(f"{short(name)} {how}" for name, how in self.resized.items())),
            ("copied to twins", len(self.twins), grouped(self.twins)),
            ("left over", len(self.left_over), grouped(self.left_over)),
            ("of other parts", len(self.other_parts), grouped(self.other_parts)),
            ("repeat others", len(self.derived), _numbered(".".join(name.split(".")[-2:]) for name in self.derived)),
            ("newly initialised", len(self.new), grouped(self.new)),
        )
        shown = [f"  {what:18}{count:5}  {names}".rstrip() for what, count, names in lines if count or what == "taken"]
        return "\n".join([f"{self.key and f'{self.key}: '}weights from {self.source}:", *shown])


@dataclass(frozen=True)
class Rules:
    """What may be left over or missing.

    Args:
        expected: names, or beginnings of names, of the file that may be left over.
        optional: parts of names of the module that the file may lack, all tensors with it or none.
        allowed: as `expected`, but named by the user, and also where a tensor fits in name only.
        allow_key: of the config, under which the user names them.
    """

    expected: Sequence[str]
    optional: Sequence[str]
    allowed: Sequence[str]
    allow_key: str


def fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], rules: Rules, report: LoadReport) -> dict[str, Tensor]:
    """Return the tensors that have a place in a module, and fill the report.

    Args:
        state: of the file, under the module's names.
        own: of the module.
        rules: what need not fit.
        report: to fill; what it says to be resized is in `state` as it is now.

    Raises:
        CheckpointError: nothing fits, tensors of the module are missing or of another shape or kind, tensors of the
            file are left over that should not be, or not finite; the message names the file, examples and the way out.
    """
    fitting = {name: tensor for name, tensor in state.items() if name in own and fits(tensor, own[name])}
    if not fitting:
        raise CheckpointError(
            f"{report.key}: {report.source} has nothing in common with what it should fill: it holds "
            f"{grouped((*state, *report.other_parts))}, expected are names such as {', '.join(list(own)[:2])}."
        )
    report.taken = [name for name in fitting if name not in report.resized]
    report.left_over = [name for name in state if name not in fitting]
    report.new = [name for name in own if name not in fitting]
    differing = [name for name in report.left_over if name in own and not begins(name, rules.allowed)]
    lacking = [part for part in rules.optional if not any(part in name for name in fitting)]
    missing = [
        name
        for name in report.new
        if name not in state and not any(part in name for part in lacking) and not begins(name, rules.allowed)
    ]
    foreign = [
        name for name in report.left_over if name not in own and not begins(name, (*rules.expected, *rules.allowed))
    ]
    problems = (
        counted([f"{name} {kind(state[name])}, not {kind(own[name])}" for name in differing], "differ"),
        counted(missing, "missing"),
        counted(foreign, "without a place"),
    )
    if any(problems):
        groups = ", ".join(dict.fromkeys(map(group, (*differing, *missing, *foreign))))
        raise CheckpointError(
            f"{report.key}: the tensors of {report.source} do not fit: {'; '.join(filter(None, problems))}. Check "
            f"the name and the options beside {report.key}, or, to do without these, allow them by name: "
            f"'{rules.allow_key}=[{groups}]'"
        )
    require_finite(fitting, f"{report.key}: {report.source}")
    return fitting


def load_all(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put the weights that were read from `path` into a module of just these.

    Raises:
        CheckpointError: names, shapes or types differ from the module's, or weights are not finite.
    """
    require_plain(state, str(path))
    own = module.state_dict()
    differing = [
        f"{name} {kind(state[name])}, not {kind(own[name])}"
        for name in own
        if name in state and not fits(state[name], own[name])
    ]
    complaints = (
        counted(differing, "of another shape or type"),
        counted([name for name in own if name not in state], "missing"),
        counted([name for name in state if name not in own], "too many"),
    )
    if any(complaints):
        raise CheckpointError(
            f"{path} holds another architecture than this config builds: {'; '.join(filter(None, complaints))}. "
            "Use the config that the checkpoint was trained with, or --init to take what fits."
        )
    require_finite(state, str(path))
    module.load_state_dict(state)


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise an error if tensors hold NaN or infinities: nothing that a model computes from those means anything.

    Raises:
        CheckpointError: the message begins with the source, and names the tensors.
    """
    spoilt = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if spoilt:
        more = f" and {len(spoilt) - _LISTED} more tensors" if len(spoilt) > _LISTED else ""
        raise CheckpointError(
            f"{source}: weights are NaN or infinite in {', '.join(spoilt[:_LISTED])}{more}. Whatever wrote them had "
            "diverged, or had stored them in too small a range. Take an earlier checkpoint."
        )


def score(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    """Return how many tensors fit those of a module."""
    return sum(name in own and fits(tensor, own[name]) for name, tensor in state.items())


def begins(name: str, with_one_of: Sequence[str]) -> bool:
    """Return whether a name is one of those given, or within a module that is; `model.` before either says nothing."""
    return any(f"{short(name)}.".startswith(f"{short(one).rstrip('.')}.") for one in with_one_of)


def grouped(names: Iterable[str]) -> str:
    """Return the modules that the names are in, each with its number of tensors: "blocks (144), head (2)"."""
    return _numbered(map(group, names))


def counted(names: Sequence[str], what: str) -> str:
    """Return "3 missing (a, b, c)", or "" where there are none."""
    if not names:
        return ""
    more = ", ..." if len(names) > _LISTED else ""
    return f"{len(names)} {what} ({', '.join(names[:_LISTED])}{more})"


def _numbered(names: Iterable[str]) -> str:
    numbers = list(Counter(names).items())
    shown = ", ".join(f"{name} ({number})" for name, number in numbers[:_GROUPS])
    return shown + (", ..." if len(numbers) > _GROUPS else "")


def fits(tensor: Tensor, own: Tensor) -> bool:
    """Return whether a tensor can take the place of another: the shape is the same, and both are floating or not."""
    return tensor.shape == own.shape and tensor.is_floating_point() == own.is_floating_point()


def kind(tensor: Tensor) -> str:
    """Return a tensor's shape in words, and its type unless that is floating."""
    return f"{list(tensor.shape)}" + ("" if tensor.is_floating_point() else f" {tensor.dtype}".replace("torch.", ""))
