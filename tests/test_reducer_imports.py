"""Reducers are plug-ins: nobody imports one by name, and each knows `elip.reduction` alone."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
OURS = ("elip", "reducers", "tasks", "tools", "tests", "configs")
LIBRARIES = ("torch", "einops")
REDUCERS = sorted((PROJECT / "reducers").glob("*.py"))
PLUGINS = [
    *(path for path in REDUCERS if path.stem != "__init__"),
    *sorted((PROJECT / "tests" / "plugins").glob("*.py")),
    PROJECT / "tests" / "packages" / "elip_stripes" / "elip_stripes.py",
]
"""Files of one reducer each, other people's among them."""
OTHERS = sorted(path for folder in ("elip", "tasks", "tools") for path in (PROJECT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports, those inside its functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(["", *path.relative_to(PROJECT).parts[: -node.level]]).lstrip(".") if node.level else ""
            module = ".".join(part for part in (package, node.module) if part)
            yield from (f"{module}.{name.name}" for name in node.names)


def of(package: str, names: Iterator[str]) -> list[str]:
    return [name for name in names if name.split(".")[0] == package]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_nobody_outside_imports_a_reducer(path: Path) -> None:
    assert not of("reducers", imported(path))


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
def test_a_reducer_imports_nothing_of_ours_but_elip_reduction_and_elip_errors(path: Path) -> None:
    for name in imported(path):
        package, *rest = name.split(".")
        if package in OURS:
            assert package == "elip", f"{path.name} imports {name}"
            assert len(rest) == 2, f"{path.name} imports {name}: all that reducers use is in elip.reduction itself"
            assert rest[0] in ("reduction", "errors"), f"{path.name} imports {name}"
        else:
            assert package in (*sys.stdlib_module_names, *LIBRARIES), f"{path.name} imports {name}"


def test_the_package_imports_every_reducer_and_registers_each_under_its_files_name() -> None:
    from elip.registry import REDUCERS as REGISTRY

    files = {path.stem for path in REDUCERS if not path.stem.startswith("_")}
    built_in = {name for name in REGISTRY.names() if REGISTRY.get(name).__module__ == f"reducers.{name}"}
    assert built_in == files


def test_imports_are_found_wherever_they_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PROJECT", tmp_path)
    hidden = tmp_path / "tasks" / "mine.py"
    hidden.parent.mkdir()
    hidden.write_text("import os.path\ndef f():\n    from reducers import elip as e, none\n    from . import other\n")
    assert list(imported(hidden)) == ["os.path", "reducers.elip", "reducers.none", "tasks.other"]
