"""A reducer in a package of its own: once installed, the toolkit lists, trains, costs and checks it like its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "tests" / "packages" / "elip_stripes"
Run = Callable[..., str]

pytestmark = pytest.mark.slow


def run_in(folder: Path, *arguments: str, path: Path | None = None) -> str:
    """Return what a Python process prints, which finds the project and the packages installed at `path`."""
    places = [str(place) for place in (path, PROJECT) if place]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package is installed in, from a copy: building leaves files beside the source."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(PACKAGE, folder / "source")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run_in(folder, *install, "--target", str(folder / "packages"), str(source))
    return folder / "packages"


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Runs a Python process that has the package."""
    return lambda *arguments: run_in(tmp_path, *arguments, path=site)


def tool(name: str) -> str:
    return str(PROJECT / "tools" / f"{name}.py")


def test_it_is_installed_apart_from_the_toolkit(site: Path) -> None:
    assert (site / "elip_stripes.py").is_file()
    assert "stripes" not in run_in(site.parent, tool("train"), "--list-reducers")


def test_it_is_found_by_its_entry_point_and_listed(run: Run) -> None:
    lines = [line.split("  ") for line in run(tool("train"), "--list-reducers").splitlines()]
    summary = "Keep patches at even distances, the same in every image."
    assert ["stripes", summary, "[none: an example]"] in [[part.strip() for part in line if part] for line in lines]


def test_it_is_trained_with_only_the_reducer_changed(run: Run, tiny: list[str], tmp_path: Path) -> None:
    others = [override for override in tiny if not override.startswith("reducer.")]
    reducer = "reducer={name: stripes, begin: [1, 2], keep_ratio: [0.5, 0.25]}"
    run(tool("train"), str(PROJECT / "configs/demo/pretrain.yaml"), *others, reducer, "train.max_steps=2")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]


def test_it_is_costed(run: Run) -> None:
    vit = ["--vit", "deit_tiny_patch16_224", "--json", "-"]
    none, stripes = json.loads(run(tool("flops"), *vit, "--reducer", "none", "--reducer", "stripes"))
    assert (none["reducer"], stripes["reducer"]) == ("none", "stripes")
    assert stripes["vision_gmacs"] < 0.75 * none["vision_gmacs"]


def test_it_passes_the_conformance_suite(run: Run) -> None:
    run("-c", "from elip.testing import check_reducer\nfrom elip_stripes import Stripes\ncheck_reducer(Stripes)")
