"""The keys of a config in words: type, default and what they are for, as their sections and reducers declare them."""

import inspect
import json
import re
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from elip.config.options import Fits, Options
from elip.config.schema import ReducerConfig, RunConfig, TaskConfig
from elip.config.sources import CONFIGS
from elip.errors import ConfigError, did_you_mean
from elip.mistakes import spell
from elip.registry import REDUCERS, TASKS, Registry

_WIDTH = 100
_PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "text", Any: "anything"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@dataclass(frozen=True)
class Key:
    """One key: its name, what it takes, its default as YAML, and what it is for.

    A default of None says that the key must be given, "" that it is left to the library whose option it is.
    """

    name: str
    takes: str
    default: str | None
    purpose: str = ""

    def lines(self, indent: str) -> list[str]:
        """Return what a listing says of it."""
        given = (
            f"{self.name} (required)" if self.default is None else f"{self.name} = {self.default}".removesuffix(" = ")
        )
        head = f"{indent}{given:34}  {self.takes}"
        return [
            head,
            *textwrap.wrap(self.purpose, _WIDTH, initial_indent=f"{indent}    ", subsequent_indent=f"{indent}    "),
        ]


@dataclass(frozen=True)
class Section:
    """The keys of one section; of `task` and `reducer`, those that belong to one name.

    Args:
        place: of the keys in a config: ("optim",).
        name: of the task or reducer, "" for other sections.
        purpose: of the whole.
        keys: in their order.
    """

    place: tuple[str, ...]
    name: str
    purpose: str
    keys: tuple[Key, ...]

    @property
    def path(self) -> str:
        """How a user asks for it: `optim`, `task.vqa`."""
        return spell((*self.place, self.name) if self.name else self.place)

    def paths(self) -> Iterator[str]:
        """Yield how a user may ask for its keys: `optim.lr`, `task.vqa.k_test` or, as in a config, `task.k_test`."""
        for key in self.keys:
            yield from dict.fromkeys(spell((*filter(None, place), key.name)) for place in ((self.path,), self.place))

    def lines(self, only: str = "") -> list[str]:
        """Return what a listing says of it, or of the one key asked for."""
        place = spell(self.place) or "(top level)"
        title = f"{place}: {{name: {self.name}}}" if self.name else place
        purpose = f"  # {self.purpose}" if self.purpose else ""
        keys = [key for key in self.keys if not only or only.rpartition(".")[2] == key.name]
        return [f"{title}{purpose}", *(line for key in keys for line in key.lines("  "))]


def help_on(asked: str | None) -> str:
    """Return what all keys are, or those of one section (`optim`, `task.vqa`, `reducer.tome`), or one key (`optim.lr`).

    Raises:
        ConfigError: there is no such section or key.
    """
    sections = list(_sections())
    if not asked:
        return _joined(section.lines() for section in sections)
    found = [section.lines() for section in sections if f"{section.path}.".startswith(f"{asked}.")]
    found = found or [section.lines(asked) for section in sections if asked in section.paths()]
    if not found:
        known = [section.path for section in sections if section.path]
        keys = [path for section in sections for path in section.paths()]
        hint = _ends_with(asked, [*known, *keys]) or did_you_mean(asked, [*keys, *known] if "." in asked else known)
        top = dict.fromkeys(path.partition(".")[0] for path in known)
        raise ConfigError(f"--help-config: no section or key {asked!r}.{hint} Sections: {', '.join(top)}.")
    return _joined(found)


def keys_of(model: type[BaseModel]) -> str:
    """Return what all keys are of a file that is made of other sections than those of a run's config."""
    sections = ((place, inner) for place, inner in models(model) if inner is not ReducerConfig)
    return _joined(Section(place, "", _summary(inner), _model_keys(inner)).lines() for place, inner in sections)


def listing(registry: Registry) -> str:
    """Return name, summary, paper and parameters of all entries of a registry."""
    entries = registry.describe()
    width = max(len(entry.name) for entry in entries)
    lines = []
    for entry in entries:
        paper = f"  [{entry.paper}]" if entry.paper else ""
        lines.append(f"{entry.name:{width}}  {entry.summary}{paper}")
        keys = _reducer_keys(entry.name) if registry is REDUCERS else _task_keys(entry.name)
        lines += [line for key in keys for line in Key(key.name, key.takes, key.default).lines(" " * (width + 2))]
    return "\n".join([*lines, ""])


def shipped_configs() -> str:
    """Return the configs that come with the toolkit, by the path that finds them from any folder, and their purpose."""
    found = {path.relative_to(CONFIGS.parent).as_posix(): _first_comment(path) for path in CONFIGS.rglob("*.yaml")}
    width = max(map(len, found), default=0)
    return "\n".join([*(f"{name:{width}}  {found[name]}".rstrip() for name in sorted(found)), ""])


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").rstrip()
    return ""


def _sections() -> Iterator[Section]:
    for place, model in models(RunConfig):
        if model is TaskConfig:
            for name in TASKS.names():
                yield Section(place, name, _summary(TASKS.get(name)), _task_keys(name))
        elif model is ReducerConfig and place == ("reducer",):
            yield Section(place, "", _summary(model), _model_keys(model))
            for name in REDUCERS.names():
                yield Section(place, name, _summary(REDUCERS.get(name)), _reducer_keys(name))
        elif model is not ReducerConfig:
            yield Section(place, "", _summary(model), _model_keys(model))


def models(model: type[BaseModel], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yield the place of every section of a config, and what it is made of."""
    yield place, model
    for name, field in model.model_fields.items():
        checks = [check for one in field.metadata if isinstance(check := getattr(one, "func", None), Fits)]
        for inner in (field.annotation, *get_args(field.annotation), *(check.model for check in checks)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from models(inner, (*place, name))


def _task_keys(name: str) -> tuple[Key, ...]:
    return tuple(key for key in _model_keys(getattr(TASKS.get(name), "Config", TaskConfig)) if key.name != "name")


def _model_keys(model: type[BaseModel]) -> tuple[Key, ...]:
    """Return the keys of a section that hold no section themselves."""
    is_options = issubclass(model, Options)
    return tuple(
        Key(
            name,
            _takes(field.annotation, field.metadata).removesuffix(" or null" if is_options else ""),
            "" if is_options else _default(field),
            (field.description or "").replace("\n", " "),
        )
        for name, field in model.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
    )


def _reducer_keys(name: str) -> tuple[Key, ...]:
    purposes: dict[str, str] = {}
    for cls in reversed(REDUCERS.get(name).__mro__):  # what a base class takes is documented there
        purposes |= _documented(cls)
    return tuple(
        Key(p.name, _takes(p.annotation), None if p.default is p.empty else _yaml(p.default), purposes.get(p.name, ""))
        for p in REDUCERS.parameters(name).values()
        if p.kind is not p.VAR_KEYWORD
    )


def _documented(cls: type) -> dict[str, str]:
    """Return what the docstring of a class says of its arguments."""
    _, _, rest = (inspect.getdoc(cls) or "").partition("\nArgs:\n")
    block = re.split(r"\n(?=\S)", rest, maxsplit=1)[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", block, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _takes(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return in words what values a type allows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _takes(inner[0], [*inner[1:], *metadata])
    if isinstance(annotation, FieldInfo):
        return ""
    if origin in (Union, types.UnionType):
        words = [_takes(one) for one in inner if one is not type(None)]
        words[0] += _limits(metadata)
        return " or ".join(dict.fromkeys([*words, *(["null"] if type(None) in inner else [])]))
    return f"{_kind(annotation, origin, inner)}{_limits(metadata)}"


def _kind(annotation: Any, origin: Any, inner: tuple[Any, ...]) -> str:
    if origin is Literal:
        return " or ".join(map(str, inner))
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    container = origin or annotation
    if container is tuple and inner and inner[-1] is not Ellipsis:
        return f"[{', '.join(_takes(one) for one in inner)}]"
    if isinstance(container, type) and issubclass(container, Mapping | BaseModel):
        return "mapping"
    if isinstance(container, type) and issubclass(container, Sequence | AbstractSet):
        return f"list of {_plural(_takes(inner[0]))}" if inner else "list"
    return "anything" if annotation is inspect.Parameter.empty else getattr(annotation, "__name__", str(annotation))


def _plural(words: str) -> str:
    return f"{words}s" if words.endswith("number") else words


def _limits(metadata: Iterable[Any]) -> str:
    said = []
    for one in metadata:
        inner = one.metadata if isinstance(one, FieldInfo) else [one]
        said += [f"{word} {getattr(m, name):g}" for m in inner for name, word in _BOUNDS.items() if hasattr(m, name)]
    return f", {' and '.join(said)}" if said else ""


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    return _yaml(field.get_default(call_default_factory=True))


def _yaml(value: Any) -> str:
    """Return a default as a user would write it."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, BaseModel):
        return "{}"
    return json.dumps(value, default=str)


def _ends_with(asked: str, paths: Sequence[str]) -> str:
    found = [path for path in paths if path.endswith(f".{asked}")]
    return f" Did you mean {found[0]!r}?" if found else ""


def _joined(blocks: Iterable[list[str]]) -> str:
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
