"""The wheel that users install: what is in it, what it asks for, and that it works away from the project."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email import message_from_string
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytest.importorskip("setuptools", minversion="70.1", reason="older ones need the package wheel to build one")
pytestmark = pytest.mark.slow

PACKAGES = ("elip", "reducers", "tasks", "tools", "configs")
METADATA = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
NEEDED = {"torch", "torchvision", "timm", "transformers", "einops", "tensorboard", "ruamel.yaml", "pydantic"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from a copy of the project, in which building may leave what it likes."""
    copy = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in METADATA:
        shutil.copy(PROJECT / name, copy)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(copy / "dist")], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what pip would put into site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def read_metadata(installed: Path, name: str) -> str:
    (folder,) = installed.glob("*.dist-info")
    return (folder / name).read_text(encoding="utf-8")


def test_the_wheel_holds_all_code_and_configs_and_no_tests(installed: Path) -> None:
    expected = {
        path.relative_to(PROJECT)
        for package in PACKAGES
        for pattern in ("*.py", "*.yaml")
        for path in (PROJECT / package).rglob(pattern)
    }
    packed = {
        path.relative_to(installed)
        for path in installed.rglob("*")
        if path.is_file() and not path.relative_to(installed).parts[0].endswith(".dist-info")
    }
    assert packed == expected
    assert {Path("configs/pretrain.yaml"), Path("configs/demo/pretrain.yaml")} <= packed


def tools_with_a_main() -> list[str]:
    sources = {path.stem: path.read_text(encoding="utf-8") for path in (PROJECT / "tools").glob("*.py")}
    return [name for name, source in sources.items() if re.search(r"^def main\(", source, re.MULTILINE)]


def test_every_tool_is_a_command_and_every_command_a_function_that_exists(installed: Path) -> None:
    parser = ConfigParser()
    parser.read_string(read_metadata(installed, "entry_points.txt"))
    commands = dict(parser["console_scripts"])
    assert commands == {f"elip-{name.replace('_', '-')}": f"tools.{name}:main" for name in tools_with_a_main()}
    for target in commands.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


def test_the_wheel_asks_for_what_the_code_imports(installed: Path) -> None:
    metadata = message_from_string(read_metadata(installed, "METADATA"))
    asked = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in asked}
    assert names >= NEEDED
    assert metadata["Requires-Python"] == ">=3.10"


def test_what_is_installed_finds_its_configs_and_plug_ins_from_any_folder(installed: Path, tmp_path: Path) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    origin = run(sys.executable, "-c", "import elip, tools.train as t; print(elip.__file__, t.__file__)")
    assert origin.stdout.split() == [f"{installed}/elip/__init__.py", f"{installed}/tools/train.py"], origin.stderr
    config = "import tools.train as t; raise SystemExit(t.main(['configs/demo/pretrain.yaml', '--list-reducers']))"
    listed = run(sys.executable, "-c", config)
    assert listed.returncode == 0, listed.stderr
    assert {"elip", "none", "random"} <= {line.split()[0] for line in listed.stdout.splitlines()}
