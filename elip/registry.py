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
    """

    def __init__(self, kind: str, builtins: str, entry_point_group: str) -> None:
        self.kind = kind
        self._builtins = builtins
        self._group = entry_point_group
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
        return self.get(name)(*args, **params)

    def check_params(self, name: str, params: Mapping[str, Any]) -> None:
        """Raise an error that names the first of `params` that the constructor does not take by keyword."""
        signature = inspect.signature(self.get(name))
        known = [p.name for p in signature.parameters.values() if p.kind is not p.POSITIONAL_ONLY]
        if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
            return
        for param in params:
            if param not in known:
                raise ElipError(
                    f"{self.kind} {name!r} has no parameter {param!r}.{did_you_mean(param, known)} "
                    f"It takes: {', '.join(known) or 'none'}."
                )

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


def load_plugins(plugins: Iterable[str]) -> None:
    """Import each plug-in once: a dotted module name, or the path of a .py file."""
    for plugin in plugins:
        if plugin.endswith(".py"):
            _import_file(Path(plugin))
        else:
            try:
                importlib.import_module(plugin)
            except ModuleNotFoundError as error:
                if error.name != plugin.partition(".")[0] and error.name != plugin:
                    raise  # the plug-in was found; something that it imports was not
                raise ElipError(
                    f"plugins: there is no module {plugin!r}. For a file, give its path with .py at the end."
                ) from error


def _import_file(path: Path) -> None:
    path = path.expanduser().resolve()
    name = f"elip_plugin_{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise ElipError(f"plugins: there is no file {path}.")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data-loader workers and dataclasses look the module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _where(cls: type) -> str:
    try:
        line = inspect.getsourcelines(cls)[1]
        return f"{cls.__qualname__} ({inspect.getsourcefile(cls)}:{line})"
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"


REDUCERS: Registry = Registry("reducer", builtins="reducers", entry_point_group="elip.reducers")
TASKS: Registry = Registry("task", builtins="tasks", entry_point_group="elip.tasks")
