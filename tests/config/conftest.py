import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elip.config import RunConfig, load_config
from elip.registry import REDUCERS, TASKS

PLUGIN = """
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from elip.config import TaskConfig
from elip.registry import REDUCERS, TASKS


class SortConfig(TaskConfig):
    speed: int = Field(3, gt=0)
    order: Literal["rising", "falling"] = "rising"
    limits: tuple[float, float] = (0.0, 1.0)


@TASKS.register("test_sort")
class Sort:
    Config = SortConfig


@TASKS.register("test_count")
class Count:
    Config = TaskConfig


@REDUCERS.register("test_half")
class Half:
    def __init__(self, encoder, *, keep_ratio: Sequence[float] = (0.5,), r: int | Sequence[int] = 1) -> None: ...


@REDUCERS.register("test_third")
class Third:
    def __init__(self, encoder, *, fuse: bool = True, r=None) -> None: ...


@REDUCERS.register("test_needy")
class Needy:
    def __init__(self, encoder, *, r: int) -> None: ...
"""


@pytest.fixture(scope="module", autouse=True)
def _plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Register the tiny tasks and reducers of these tests, and forget them after each file."""
    path = tmp_path_factory.mktemp("plugins") / "tiny.py"
    path.write_text(PLUGIN)
    config = path.with_suffix(".yaml")
    config.write_text("task: test_sort\nplugins: [tiny.py]")
    load_config(config)
    module = REDUCERS.get("test_half").__module__
    yield
    for registry in (REDUCERS, TASKS):
        registry.discard(module)
    del sys.modules[module]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


Load = Callable[..., RunConfig]


@pytest.fixture
def load(folder: Path) -> Load:
    """A function that loads config text, written to x.yaml beside the other files given, under overrides."""

    def write_and_load(text: str, *overrides: str, **others: str) -> RunConfig:
        for name, content in {**others, "x": text}.items():
            (folder / f"{name}.yaml").write_text(content)
        return load_config(Path("x.yaml"), overrides)

    return write_and_load
