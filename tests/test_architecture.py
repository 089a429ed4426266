"""How the project is built: who may import whom, what is loaded when, how long files are, what nobody does."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
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

LOW = {"errors", "mistakes", "registry", "distributed", "atomic", "rng", "execution", "undisturbed"}
MODELS = {"reduction", "hosts", "objectives", "models"}
USES = {
    "errors": set(),
    "distributed": set(),
    "rng": set(),
    "execution": set(),
    "atomic": {"errors"},
    "mistakes": {"errors"},
    "registry": {"errors"},
    "undisturbed": {"rng"},
    "reduction": {"errors", "execution", "registry"},
    "hosts": {"errors", "execution", "reduction"},
    "objectives": LOW,
    "config": LOW,
    "data": {*LOW, "config"},
    "sheets": {*LOW, "data"},
    "models": {*LOW, "config", "reduction", "hosts", "objectives"},
    "weights": {*LOW, *MODELS, "config", "data"},
    "task": {*LOW, *MODELS, "config", "data", "weights", "sheets"},
    "engine": {*LOW, "config", "data", "weights", "task"},
    "efficiency": {*LOW, *MODELS, "config", "data", "weights", "task"},
    "testing": {*LOW, *MODELS, "config", "data", "weights", "task"},
    "front": {*LOW, *MODELS, "config", "data", "weights", "task", "efficiency"},
    "trained": {*LOW, *MODELS, "config", "data", "weights", "task"},
    "benchmark": {*LOW, *MODELS, "config", "data", "weights", "task", "engine", "efficiency"},
    "lab": {
        *LOW,
        *MODELS,
        *("config", "data", "weights", "task", "engine", "efficiency", "front", "trained", "benchmark"),
    },
}
"""What each part of elip may use of the others, from the lowest part up: each uses only parts that stand above it."""

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


@pytest.mark.parametrize("path", [path for path in FILES if top_of(path) == "elip"], ids=name_of)
def test_a_part_of_the_library_uses_the_parts_it_may(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":  # the front door
        return
    others = set(imported_parts(path)) - {part}
    assert others <= USES[part], f"{name_of(path)} uses elip.{', elip.'.join(others - USES[part])}"


def test_parts_of_the_library_use_lower_parts_only() -> None:
    parts = list(USES)
    for place, (part, used) in enumerate(USES.items()):
        assert used <= {*parts[:place]}, f"{part} stands too low in the list to use {used - {*parts[:place]}}"
    there = {path.name.removesuffix(".py") for path in (PROJECT / "elip").iterdir() if not path.name.startswith("__")}
    assert there == {*USES}


def test_no_module_uses_one_that_uses_it() -> None:
    modules = {".".join(path.relative_to(PROJECT).with_suffix("").parts): path for path in FILES}
    used = {name: _used(path, modules) - {name} for name, path in modules.items() if not name.endswith(".__init__")}
    while free := [name for name, others in used.items() if not others & used.keys()]:
        for name in free:
            del used[name]
    assert not used, f"modules in a circle, or above one: {', '.join(sorted(used))}"


def _used(path: Path, modules: Mapping[str, Path]) -> set[str]:
    """Return the modules that a file imports, or imports names from."""
    return {module for name in imported(path) for module in (name, name.rpartition(".")[0]) if module in modules}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_registry_imports_by_a_name_that_is_no_import_statement(path: Path) -> None:
    hidden = {name.split(".")[0] for name in imported(path)} & {"importlib", "runpy", "pkgutil"}
    allowed = {"importlib"} if name_of(path) == "elip/registry.py" else set()
    assert hidden <= allowed


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
