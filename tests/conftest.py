"""Settings of the whole suite, small files, and the tiny pictures and config that tests train on."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from elip import execution
from elip.data.digitscenes import build
from elip.registry import REDUCERS, TASKS

torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
settings.register_profile("elip", deadline=None, max_examples=50)  # no test is judged by its speed
settings.load_profile("elip")

PROJECT = Path(__file__).parents[1]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no test after bytes: archives hold the time they were made at, and all workers must find the same tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _plug_ins_end_with_their_test() -> Iterator[None]:
    """Forget the plug-ins that a test loads: "all reducers" must mean the same whatever ran before in the process."""
    before = {registry: set(registry.names()) for registry in (REDUCERS, TASKS)}
    yield
    for registry, names in before.items():
        for name in set(registry.names()) - names:
            module = registry.get(name).__module__
            registry.discard(module)
            sys.modules.pop(module, None)


@pytest.fixture
def counting_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let what is compiled be traced, counted, and run as it was traced: machine code would take minutes to make.

    Its value has the number of operators of each graph so far.
    """
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    execution._compiled.cache_clear()
    yield graphs
    execution._compiled.cache_clear()
    torch._dynamo.reset()


WriteJson = Callable[..., Path]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DigitScenes folder of a few small pictures."""
    return build(tmp_path_factory.mktemp("digits") / "set", num_train=24, num_val=6, num_test=5, image_size=32)


@pytest.fixture
def tiny(digits: Path, tmp_path: Path) -> list[str]:
    """Overrides that turn configs/demo/pretrain.yaml into a run of seconds, in a folder of its own."""
    return tiny_run(digits, tmp_path)


def tiny_run(digits: Path, folder: Path) -> list[str]:
    """Return the overrides of `tiny` for a run under `folder`."""
    return [
        f"data.image_root={digits}/images",
        f"data.train=[{digits}/pretrain_train.json]",
        f"data.val=[{digits}/retrieval_val.json]",
        f"data.test=[{digits}/retrieval_test.json]",
        "data.num_workers=0",
        f"model.text.tokenizer={digits}/tokenizer",
        "model.text.options={hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}",
        "model.text.fusion_layer=1",
        "model.vision.image_size=32",
        "model.vision.options={embed_dim: 32, depth: 3, num_heads: 2}",
        "reducer.begin=[1, 2]",
        "reducer.look_ahead=[1, 1]",
        "reducer.keep_ratio=[0.75, 0.5]",
        "task.queue_size=40",
        "task.k_test=4",
        "train.batch_size=8",
        "train.epochs=2",
        "train.log_every=1",
        f"output_dir={folder}/run",
    ]


@pytest.fixture
def write_json(tmp_path: Path) -> WriteJson:
    """Writes items as a JSON list, or as JSON-lines if the name ends in .jsonl; a text is written as it is."""

    def write(content: Sequence[Any] | str, name: str = "items.json") -> Path:
        path = tmp_path / name
        if isinstance(content, str):
            text = content
        elif path.suffix == ".jsonl":
            text = "".join(json.dumps(item) + "\n" for item in content)
        else:
            text = json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """A folder with pictures 0.png ... 9.png of 12 x 10 coloured noise, each different."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder
