"""How the project is built: who may import whom, what is loaded when, how long files are, what nobody does."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_reducer_imports import imported

PROJECT = Path(__file__).parents[1]
PACKAGES = ("elip", "reducers", "tasks", "tools")
MAX_LINES = 450

MAY_IMPORT = {
    "elip": {"elip"},
    "tasks": {"tasks", "elip"},
    "tools": {"tools", "tasks", "reducers", "elip"},
}
"""Packages of ours, by the package that uses them; for reducers see tests/test_reducer_imports.py."""

KEEP_APART = {
    "models": {"data", "engine", "efficiency"},
    "data": {"models", "engine", "efficiency"},
    "objectives": {"models", "data", "engine", "efficiency"},
    "engine": {"efficiency"},
}
"""Parts of elip, by the part that must not use them."""

FILES = sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def top_of(path: Path) -> str:
    return path.relative_to(PROJECT).parts[0]


def part_of(path: Path) -> str:
    """Return the part of a package that a file is in: `models` for elip/models/vision.py."""
    return path.relative_to(PROJECT).parts[1].removesuffix(".py")


def imported_parts(path: Path) -> Iterator[str]:
    """Yield the parts of elip that a file imports."""
    for name in imported(path):
        package, *rest = name.split(".")
        if package == "elip" and rest:
            yield rest[0]


@pytest.mark.parametrize("path", [path for path in FILES if top_of(path) in MAY_IMPORT], ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    package = top_of(path)
    ours = {name.split(".")[0] for name in imported(path)} & {*PACKAGES, "tests", "configs"}
    assert ours <= MAY_IMPORT[package], f"{name_of(path)} imports {ours - MAY_IMPORT[package]}"


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) in KEEP_APART], ids=name_of)
def test_parts_of_the_library_keep_apart(path: Path) -> None:
    forbidden = set(imported_parts(path)) & KEEP_APART[part_of(path)]
    assert not forbidden, f"{name_of(path)} imports elip.{', elip.'.join(forbidden)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_registry_imports_by_a_name_that_is_no_import_statement(path: Path) -> None:
    hidden = {name.split(".")[0] for name in imported(path)} & {"importlib", "runpy", "pkgutil"}
    allowed = {"importlib"} if name_of(path) == "elip/registry.py" else set()
    assert hidden <= allowed


def test_the_rules_name_parts_that_exist() -> None:
    for part in {*KEEP_APART}.union(*KEEP_APART.values()):
        assert (PROJECT / "elip" / part).is_dir(), part


@pytest.mark.parametrize("path", [*FILES, *sorted((PROJECT / "tests").rglob("*.py"))], ids=name_of)
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_unpickles_what_it_has_not_made(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), f"{name_of(path)}:{node.lineno}"
            if called == "torch.load":
                safe = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert safe.get("weights_only") == "True", f"{name_of(path)}:{node.lineno}"


EVERYTHING = """
import importlib, pkgutil, sys, types
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")  # tensorboard's own switch to leave TensorFlow alone
for package in {packages}:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        importlib.import_module(found.name)
print(sorted({unwanted} & sys.modules.keys()))
"""


@pytest.mark.slow
def test_importing_everything_loads_no_other_framework(tmp_path: Path) -> None:
    unwanted = {"jax", "flax", "tensorflow"}
    for name in unwanted:  # there to be imported by whoever tries
        (tmp_path / f"{name}.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING.format(packages=PACKAGES, unwanted=unwanted)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": f"{PROJECT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
