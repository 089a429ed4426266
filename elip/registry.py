"""Names for plug-ins: `REDUCERS` and `TASKS`.

A name is looked up among the built-ins (the top-level packages `reducers` and `tasks`, imported on the first look-up),
installed packages that declare an entry point in the registry's group, and the modules or files that a config lists
under `plugins:`.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from elip.errors import ElipError, did_you_mean

T = TypeVar("T")


class Description(NamedTuple):
    """What a listing says about one plug-in."""

    name: str
    summary: str
    paper: str


class Registry(Generic[T]):
    """Classes of one kind, each under one name.

    Args:
        kind: what an entry is called in messages, e.g. "reducer".
        builtins: package that registers the project's own entries when imported.
        entry_point_group: group under which installed packages declare modules that register entries when loaded.
        names_errors: put kind and name before what a constructor finds wrong. Not for classes whose errors name the
            place in a config themselves.
    """

    def __init__(self, kind: str, builtins: str, entry_point_group: str, names_errors: bool = False) -> None:
        self.kind = kind
        self._builtins = builtins
        self._group = entry_point_group
        self._names_errors = names_errors
        self._classes: dict[str, type[T]] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a decorator that stores the class under `name`; a name that is taken is an error."""

        def decorate(cls: type[T]) -> type[T]:
            if name in self._classes:
                holder = self._classes[name]
                raise ElipError(
                    f"{self.kind} {name!r} is registered twice: first by {_where(holder)}, now by {_where(cls)}. "
                    "Give one of them another name."
                )
            self._classes[name] = cls
            return cls

        return decorate

    def get(self, name: str) -> type[T]:
        """Return the class registered under `name`, or raise an error that lists the known names."""
        self._load()
        if name not in self._classes:
            known = self.names()
            raise ElipError(
                f"unknown {self.kind} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}. "
                "A plug-in of your own is found when its file or module is listed under `plugins:` in the config."
            )
        return self._classes[name]

    def names(self) -> list[str]:
        """Return all known names, sorted."""
        self._load()
        return sorted(self._classes)

    def describe(self) -> list[Description]:
        """Return name, first docstring line and paper of every entry, sorted by name."""
        return [
            Description(name, (inspect.getdoc(cls) or "").partition("\n")[0], getattr(cls, "paper", ""))
            for name, cls in sorted((name, self.get(name)) for name in self.names())
        ]

    def build(self, name: str, *args: Any, **params: Any) -> T:
        """Return a new instance of the class under `name`, its parameters checked against the constructor's names."""
        self.check_params(name, params)
        try:
            return self.get(name)(*args, **params)
        except ElipError as error:
            if self._names_errors:
                error.args = (f"{self.kind} {name!r}: {error}",)
            raise

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Return what the constructor takes from a config.

        These are all its parameters but the first positional one: that is what the toolkit itself hands over (the
        `EncoderInfo` to a reducer, the `RunConfig` to a task).
        """
        return constructor_parameters(self.get(name))

    def check_params(self, name: str, params: Mapping[str, Any]) -> None:
        """Raise an error for the first of `params` that the constructor does not take, or that it needs and lacks."""
        takes = self.parameters(name)
        named = {key: p for key, p in takes.items() if p.kind is not p.VAR_KEYWORD}
        for key in params:
            if key not in named and len(named) == len(takes):
                raise ElipError(
                    f"{self.kind} {name!r} has no parameter {key!r}.{did_you_mean(key, named)} "
                    f"{'It takes: ' + ', '.join(named) if named else 'It takes no parameters'}."
                )
        for key, parameter in named.items():
            if key not in params and parameter.default is parameter.empty:
                raise ElipError(f"{self.kind} {name!r} needs a value for its parameter {key!r}.")

    def discard(self, module: str) -> None:
        """Forget what the module of that name has registered."""
        self._classes = {name: cls for name, cls in self._classes.items() if cls.__module__ != module}

    def _load(self) -> None:
        if self._complete:
            return
        self._complete = True  # before the imports: they register, and a look-up inside them must not start over
        try:
            importlib.import_module(self._builtins)
            for entry_point in entry_points(group=self._group):
                entry_point.load()
        except BaseException:
            self._complete = False
            raise


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return what a class takes by keyword when it is built: all its parameters but the first positional one.

    A constructor that passes any keyword on (`**stages`) takes what its base class takes, too.
    """
    found: dict[str, inspect.Parameter] = {}
    for owner in cls.__mro__:
        if owner is object or "__init__" not in vars(owner):
            continue
        named = {name: p for name, p in found.items() if p.kind is not p.VAR_KEYWORD}
        found = {**_keywords(owner), **named}
        if all(p.kind is not p.VAR_KEYWORD for p in found.values()):
            break
    return found


def _keywords(cls: type) -> dict[str, inspect.Parameter]:
    """Return the keyword parameters that a class's own constructor names."""
    try:
        signature = inspect.signature(cls, eval_str=True)
    except NameError:  # an annotation that is imported for type checkers only
        signature = inspect.signature(cls)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind not in (parameters[0].KEYWORD_ONLY, parameters[0].VAR_KEYWORD):
        parameters = parameters[1:]
    return {p.name: p for p in parameters if p.kind not in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)}


def load_plugins(plugins: Iterable[str]) -> None:
    """Import each plug-in once: a dotted module name, or the path of a .py file.

    Raises:
        ElipError: there is no such module or file, or it registers a name that is taken. Whatever else goes wrong
            inside a plug-in is raised as it is.
    """
    for plugin in plugins:
        for registry in (REDUCERS, TASKS):
            registry.names()  # names that are there already belong to whoever has them, not to the plug-in
        if plugin.endswith(".py"):
            _import_file(_place(plugin))
        else:
            _import_module(plugin)


def is_loaded(plugin: str) -> bool:
    """Return whether a plug-in was imported already: by name, or as part of an installed package's entry points."""
    for registry in (REDUCERS, TASKS):
        registry.names()
    return (_module_name(_place(plugin)) if plugin.endswith(".py") else plugin) in sys.modules


def file_of(plugin: str) -> Path | None:
    """Return the file that a plug-in is read from, `__init__.py` of a package; None if there is none."""
    if plugin.endswith(".py"):
        place = _place(plugin)
        return place if place.is_file() else None
    try:
        spec = importlib.util.find_spec(plugin)
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _import_module(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the plug-in was found; something that it imports was not
        raise ElipError(f"there is no module {name!r}. For a file, give its path with .py at the end.") from error


def _import_file(path: Path) -> None:
    name = _module_name(path)
    if name in sys.modules:
        return
    if not path.is_file():
        raise ElipError(f"there is no file {path}.")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data-loader workers and dataclasses look the module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        for registry in (REDUCERS, TASKS):
            registry.discard(name)  # so that the file can be tried again once it is mended
        raise


def _place(plugin: str) -> Path:
    return Path(plugin).expanduser().resolve()


def _module_name(path: Path) -> str:
    return f"elip_plugin_{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"


def _where(cls: type) -> str:
    try:
        line = inspect.getsourcelines(cls)[1]
        return f"{cls.__qualname__} ({inspect.getsourcefile(cls)}:{line})"
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"


REDUCERS: Registry = Registry("reducer", builtins="reducers", entry_point_group="elip.reducers", names_errors=True)
TASKS: Registry = Registry("task", builtins="tasks", entry_point_group="elip.tasks")
