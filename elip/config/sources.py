"""What a config is put together from: YAML files, each on top of its `base:`, and `key=value` from the command line.

Sources are read in order, and each may change what the ones before it say: mappings are merged key by key, anything
else (lists too) is replaced. Only the shape is known here; what the keys mean is checked in `elip.config.loading`.
"""

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from elip.errors import ConfigError, did_you_mean

Key = tuple[str, ...]
"""Place of a value: ("optim", "lr") for optim.lr."""

COMMAND_LINE = "command line"

_NAMED: tuple[Key, ...] = (("task",), ("reducer",), ("eval", "reducer"))  # sections whose other keys depend on `name`
_KEPT = ("strict", "until")  # of those other keys, the ones that outlive a change of the name
_PROJECT = Path(__file__).parents[2]
CONFIGS = _PROJECT / "configs"
"""Folder of the configs that come with the toolkit."""
_MAX_BYTES = 1 << 18  # of a config file
_MAX_VALUES = 100_000  # of a config, with every alias written out: a few lines of aliases of aliases fill any memory
_MAX_BITS = 63  # of a whole number
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """What one file, or the command line, says.

    Args:
        name: of the source, for messages.
        values: nested mappings with text as keys.
        folder: folder of the file, None for what is no file.
    """

    name: str
    values: dict[str, Any]
    folder: Path | None = None

    def sets(self, key: Key) -> bool:
        """Return whether this source gives a value at `key`, or one in place of the mapping that would hold it."""
        value: Any = self.values
        for part in key:
            if not isinstance(value, dict):
                break
            if part not in value:
                return False
            value = value[part]
        return True


class Draft:
    """The values of several sources merged, with where each came from.

    Args:
        sources: later ones win.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self.values: dict[str, Any] = reduce(merge, (source.values for source in sources), {})

    def source(self, key: Key) -> Source:
        """Return the source that set `key`; for a key that no one gave, the last file."""
        for end in range(len(key), 0, -1):
            for source in reversed(self._sources):
                if source.sets(key[:end]):
                    return source
        return next((s for s in reversed(self._sources) if s.folder is not None), self._sources[-1])


def merge(below: Mapping[str, Any], above: Mapping[str, Any], key: Key = ()) -> dict[str, Any]:
    """Return `below` changed by `above`: mappings are merged, anything else is replaced.

    Where `above` gives a task or reducer another name, the parameters of the former one are dropped: they belong to
    something else.
    """
    if key in _NAMED and "name" in below and above.get("name", below["name"]) != below["name"]:
        below = {k: v for k, v in below.items() if k in _KEPT}
    merged = dict(below)
    for part, value in above.items():
        if isinstance(value, dict):
            earlier = below.get(part)
            value = merge(earlier if isinstance(earlier, dict) else {}, value, (*key, part))
        merged[part] = value
    return merged


def read_files(path: Path) -> list[Source]:
    """Return what the file says, after what the files under its `base:` say.

    A path that begins with `configs/` and does not exist is looked up among the configs installed with the toolkit.
    """
    return _read_with_bases(find(path), named_by="", below=())


def find(path: Path) -> Path:
    """Return the path, or where the installed toolkit holds it."""
    installed = _PROJECT / path
    is_ours = path.parts[:1] == ("configs",) and not os.path.exists(path) and os.path.exists(installed)
    return installed if is_ours else path


def read_overrides(overrides: Iterable[str]) -> Source:
    """Return what `key=value` arguments say, values being YAML: `optim.lr=5e-5`, `data.train=[a.json,b.json]`."""
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{COMMAND_LINE}: {override!r} is not KEY=VALUE, such as optim.lr=5e-5.")
        said = _parse(text, f"{COMMAND_LINE}: {key.strip()}", marks=False)
        for part in reversed(parts):
            said = {part: said}
        values = merge(values, _tidy(said, COMMAND_LINE))
    return Source(COMMAND_LINE, values)


def from_mapping(values: Mapping[str, Any], source: str) -> Source:
    """Return a source for values that are at hand."""
    return Source(source, _tidy(dict(values), source))


def _read_with_bases(path: Path, named_by: str, below: tuple[Path, ...]) -> list[Source]:
    """Return the sources of one file. below: the files that lead to it through `base:`, resolved."""
    own = Path(os.path.realpath(_plain_text(str(path), named_by)))
    if own in below:
        chain = " -> ".join(str(p) for p in (*below[below.index(own) :], own))
        raise ConfigError(f"{named_by}base: the files name each other as their base: {chain}.")
    name = str(path)
    values = _parse(_text(path, named_by), name)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: a config is a mapping (lines `key: value`), this file holds one {_kind(values)}.")
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{name}: base: expected a file name or a list of them, got {bases!r}.")
    sources = [
        source
        for base in bases
        for source in _read_with_bases(path.parent / os.path.expanduser(base), f"{name}: ", (*below, own))
    ]
    return [*sources, Source(name, _tidy(values, name), path.parent)]


def _text(path: Path, named_by: str) -> str:
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):  # a pipe or device may never end
            raise ConfigError(f"cannot read {path}: a config is a plain file, this is a pipe, a socket or a device.")
        if found.st_size > _MAX_BYTES:
            raise ConfigError(
                f"{path}: {found.st_size:,} bytes are too many for a config ({_MAX_BYTES:,}). Is it another file?"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        others = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        label = f"{named_by}base: " if named_by else ""
        raise ConfigError(f"{label}there is no config file {path}.{did_you_mean(path.name, others)}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error


def _parse(text: str, where: str, marks: bool = True) -> Any:
    """Return what the YAML 1.2 text means, or raise an error that says on which line it goes wrong."""
    try:
        return _construct(text, where)
    except DuplicateKeyError as error:
        key = (error.problem or "").partition("\n")[0].removeprefix("found duplicate key ")
        raise ConfigError(f"{where}{_line(error, marks)}: key given twice: {key}.") from error
    except MarkedYAMLError as error:
        raise ConfigError(
            f"{where}{_line(error, marks)}: this is not YAML: {error.problem or error.context}. "
            "Text with special characters needs quotes."
        ) from error
    except YAMLError as error:
        raise ConfigError(f"{where}: this is not YAML: {str(error).partition(chr(10))[0]}") from error
    except RecursionError:
        raise _endless(where) from None
    except ConfigError:
        raise
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:  # a date or a number that cannot be
        raise ConfigError(f"{where}: a value is not what YAML takes it for: {error}. Put it in quotes.") from error


def _construct(text: str, where: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    root = yaml.compose(text)
    if root is None:
        return None
    _check_number(root, _nodes_inside, where)  # before merge keys (<<) are followed
    return yaml.constructor.construct_document(root)


def _nodes_inside(node: Node) -> list[Node]:
    if isinstance(node, ScalarNode):
        return []
    return [inner for pair in node.value for inner in pair] if isinstance(node, MappingNode) else node.value


def _values_inside(value: Any) -> Iterable[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []


def _check_number(root: T, inside: Callable[[T], Iterable[T]], where: str) -> None:
    """Raise an error if there are too many values, each counted as often as it is referred to, or one holds itself."""
    numbers: dict[int, int | None] = {}  # by identity; None while a value is being counted

    def count(value: T) -> int:
        if id(value) not in numbers:
            numbers[id(value)] = None
            numbers[id(value)] = 1 + sum(map(count, inside(value)))
        number = numbers[id(value)]
        if number is None:
            raise _endless(where)
        return number

    if (number := count(root)) > _MAX_VALUES:
        many = f"{number:,}" if number < 10**12 else "far too many"
        raise ConfigError(
            f"{where}: {many} values, once aliases (*) are written out; a config has at most {_MAX_VALUES:,}. "
            "Remove aliases of lists of aliases."
        )


def _endless(where: str) -> ConfigError:
    return ConfigError(f"{where}: the values are nested without end. Does an anchor (&) hold itself?")


def _line(error: MarkedYAMLError, marks: bool) -> str:
    mark = error.problem_mark or error.context_mark
    return f":{mark.line + 1}" if marks and mark is not None else ""


def _tidy(values: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the values with a bare name for a task or reducer spelt as a section: `reducer: tome`.

    Raises:
        ConfigError: a key is no text, a value is of a kind that JSON does not have (a date), a text holds what no name
            or path can, an anchor holds itself, or aliases stand for too many values.
    """
    try:
        _check_number(values, _values_inside, source)
        _check_plain(values, source, ())
    except RecursionError:
        raise _endless(source) from None
    for key in _NAMED:
        section: Any = values
        for part in key[:-1]:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(section.get(key[-1]), str):
            section[key[-1]] = {"name": section[key[-1]]}
    return values


def _check_plain(value: Any, source: str, key: Key) -> None:
    where = f"{source}: {'.'.join(key)}: " if key else f"{source}: "
    if isinstance(value, dict):
        for part, item in value.items():
            if not isinstance(part, str):
                raise ConfigError(f"{where}the key {part!r} is not text. Put it in quotes if it is a name.")
            _check_plain(item, source, (*key, _plain_text(part, where)))
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, source, key)
    elif isinstance(value, str):
        _plain_text(value, where)
    elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ConfigError(f"{where}a whole number of {value.bit_length()} bits; at most {_MAX_BITS} make sense.")
    elif not (value is None or isinstance(value, bool | int | float)):
        raise ConfigError(f"{where}{value} is a {_kind(value)} in YAML. Put it in quotes if it is text.")


def _plain_text(text: str, where: str) -> str:
    """Return the text, unless no file, name or message can hold it."""
    if "\0" in text:
        raise ConfigError(f"{where}{text!r} holds a NUL character, which no name and no path has. Remove it.")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError(f"{where}{text!r} is not Unicode text. Give the file or folder a name in UTF-8.")
    return text


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else type(value).__name__
