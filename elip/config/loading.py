"""From YAML files and `key=value` overrides to a checked `RunConfig`, and back to a file.

A config file holds the sections of `elip.config.schema.RunConfig`, and may name under `base:` one or several files to
start from (relative to itself). It is YAML 1.2: only `true` and `false` are booleans. Values of the file win over its
bases', overrides over all files. Mappings are merged key by key; lists and everything else are replaced.

The keys of `task:` and `reducer:` belong to the task and the reducer that `name` picks (`reducer: tome` is short for
`reducer: {name: tome}`). Where a file or an override picks another one than the files before it, the parameters given
there for the former are dropped, except `strict` and `until`.
"""

import inspect
import io
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from ruamel.yaml import YAML

from elip.atomic import write_text
from elip.config.schema import ReducerConfig, RunConfig, TaskConfig
from elip.config.sources import COMMAND_LINE, Draft, from_mapping, read_files, read_overrides
from elip.errors import ConfigError, ElipError
from elip.mistakes import Place, explain, spell
from elip.registry import REDUCERS, TASKS, is_loaded, load_plugins

_RARE_BREAKS = frozenset("\x85\u2028\u2029\ufeff")

M = TypeVar("M", bound=BaseModel)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the checked config that a file describes.

    Plug-ins that it names are imported: paths start from the current folder, or, where no such file is there, from the
    folder of the config that names them.

    Args:
        path: YAML file; one under `configs/` that is not there is taken from the installed toolkit.
        overrides: `key=value`, with dots in the key and a YAML value: `reducer.name=tome`, `data.train=[a.json]`.

    Raises:
        ConfigError: the message names the file (or the command line), the key, and what is expected there.
    """
    sources = read_files(Path(path))
    return _resolve(Draft([*sources, read_overrides(overrides)]), trusted=True)


def config_from_dict(values: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the checked config with these values, such as a checkpoint holds.

    Importing a plug-in runs its code, so `values` cannot ask for it: those named there must be imported already, as
    installed packages are, or named again in `overrides`. Relative paths start from the current folder.

    Args:
        values: nested mappings, such as `config_to_dict` gives.
        source: where they come from, for messages.
        overrides: as for `load_config`.

    Raises:
        ConfigError: as for `load_config`, or `values` name a plug-in that would have to be imported.
    """
    return _resolve(Draft([from_mapping(values, source), read_overrides(overrides)]), trusted=False)


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the config as nested mappings and lists of plain values."""
    return config.model_dump(mode="json")


def save_config(config: RunConfig, path: Path) -> None:
    """Write the config as YAML, every default spelt out; `load_config` gives it back. All is written, or nothing."""
    text = _to_yaml(config_to_dict(config))
    try:
        write_text(path, text)
    except ElipError as error:
        raise ConfigError(str(error)) from error


def _to_yaml(values: dict[str, Any]) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = sys.maxsize  # where ruamel.yaml folds a text, or writes these rare line breaks, it reads another back
    yaml.allow_unicode = _RARE_BREAKS.isdisjoint(json.dumps(values, ensure_ascii=False))
    text = io.StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def _resolve(draft: Draft, trusted: bool) -> RunConfig:
    values = draft.values
    # what needs no plug-in comes first: a slip is told before anything heavy is imported
    plain = _validate(draft, RunConfig, {**values, "task": {"name": _task_name(draft)}})
    plugins = _load_plugins(draft, plain.plugins, trusted)
    task = _task(draft)
    _check_reducer(draft, plain.reducer, ("reducer",))
    if plain.eval.reducer is not None:
        _check_reducer(draft, plain.eval.reducer, ("eval", "reducer"))
    return plain.model_copy(update={"task": task, "plugins": plugins})


def _task_name(draft: Draft) -> str:
    section = draft.values.get("task", {})
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        raise _wrong(draft, ("task", "name"), f"name the task. Known: {', '.join(TASKS.names())}.")
    return section["name"]


def _load_plugins(draft: Draft, plugins: Sequence[str], trusted: bool) -> list[str]:
    """Import the plug-ins and return them as the current folder sees them."""
    source = draft.source(("plugins",))
    found = [_find_plugin(plugin, source.folder) for plugin in plugins]
    if not trusted and source.name != COMMAND_LINE:
        _refuse_imports(draft, found)
    try:
        load_plugins(found)
    except ElipError as error:
        raise _wrong(draft, ("plugins",), str(error)) from error
    return found


def _refuse_imports(draft: Draft, plugins: Sequence[str]) -> None:
    """Raise an error if one of the plug-ins, which the user has not named, is not imported yet."""
    for plugin in plugins:
        if not is_loaded(plugin):
            here = f" ({Path(plugin).expanduser().absolute()})" if plugin.endswith(".py") else ""
            again = " ".join(f"--plugins {shlex.quote(each)}" for each in plugins)
            raise _wrong(
                draft,
                ("plugins",),
                f"the run used the plug-in {plugin}{here}, and importing it would run its code, so that is done only "
                f"where you name it. If you trust it, add: {again} (in Python: "
                f"plugins={list(plugins)}), or the path where it lies now",
            )


def _find_plugin(plugin: str, folder: Path | None) -> str:
    """Return the path of a plug-in that only lies in `folder`, and anything else as it is."""
    is_there = not plugin.endswith(".py") or os.path.exists(os.path.expanduser(plugin))
    return plugin if is_there or folder is None or not (folder / plugin).exists() else str(folder / plugin)


def _task(draft: Draft) -> TaskConfig:
    name = _task_name(draft)
    try:
        config_class: type[TaskConfig] = TASKS.get(name).Config
    except ElipError as error:
        raise _wrong(draft, ("task", "name"), str(error)) from error
    return _validate(draft, config_class, draft.values["task"], at=("task",))


def _check_reducer(draft: Draft, reducer: ReducerConfig, at: tuple[str, ...]) -> None:
    """Raise an error unless the reducer exists and its constructor takes the parameters, by name and by type."""
    try:
        takes = REDUCERS.parameters(reducer.name)
    except ElipError as error:
        raise _wrong(draft, (*at, "name"), str(error)) from error
    try:
        REDUCERS.check_params(reducer.name, reducer.params)
    except ElipError as error:
        unknown = [key for key in reducer.params if key not in takes]
        raise _wrong(draft, (*at, *unknown[:1]), str(error)) from error
    for key, value in reducer.params.items():
        if key in takes:
            _check_type(draft, takes[key].annotation, value, (*at, key))


def _check_type(draft: Draft, annotation: Any, value: Any, at: tuple[str, ...]) -> None:
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return
    try:
        adapter = TypeAdapter(annotation)
    except PydanticUserError:  # a type that no YAML value can have: its constructor's business
        return
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        place, message = explain(error, value)
        raise _wrong(draft, (*at, *place), message) from error


def _validate(draft: Draft, model: type[M], values: Any, at: tuple[str, ...] = ()) -> M:
    """Return the model with these values, which lie at `at` in the draft.

    They are passed as JSON because pydantic, when strict, then takes what YAML can say: a list for a tuple, a whole
    number for a float; but no text for a number and no bool for an int.
    """
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        place, message = explain(error, values, model)
        raise _wrong(draft, (*at, *place), message) from error


def _wrong(draft: Draft, place: Place, message: str) -> ConfigError:
    """Return an error that says where the value at `place` was given, and what is wrong with it."""
    keys = tuple(part for part in place if isinstance(part, str))
    return ConfigError(f"{draft.source(keys).name}: {spell(place)}: {message}")
