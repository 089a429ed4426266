"""Reducers that need more than an image, one file each: checked, costed and trained with nothing else changed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.reduction import REDUCERS, Guide, Stage, Teacher, Text, Tokens
from elip.reduction.reducer import AttentionFacts, ReductionContext
from elip.reduction.stages import StageReducer
from elip.registry import load_plugins
from elip.testing import check_reducer
from elip.testing.trial import tiny_vit
from tools import flops, train

PROJECT = Path(__file__).parents[2]
FILES = {path.stem: path for path in sorted((PROJECT / "tests" / "plugins").glob("*.py"))}
DEPTH = 8
"""Blocks of the small runs: so many that there is a block 6."""


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a reducer whose file is loaded."""
    load_plugins([str(FILES[request.param])])
    return request.param


def built(name: str, **params: Any) -> StageReducer:
    load_plugins([str(FILES[name])])
    return REDUCERS.build(name, tiny_vit().info(), **params)


def test_there_is_one_for_the_text_and_one_for_the_teacher() -> None:
    assert set(FILES) == {"word_similarity", "teacher_keys"}


def test_it_has_every_property_of_a_reducer(name: str) -> None:
    check_reducer(REDUCERS.get(name))


def test_it_is_trained_with_only_the_reducer_changed(name: str, tiny: list[str], tmp_path: Path) -> None:
    others = [override for override in tiny if not override.startswith("reducer.")]
    deeper = f"model.vision.options={{embed_dim: 32, depth: {DEPTH}, num_heads: 2}}"
    mine = [f"plugins=[{FILES[name]}]", f"reducer={name}", "train.max_steps=2"]
    if name == "word_similarity":
        mine.append("reducer.begin=[2, 4, 6]")
    assert train.main([str(PROJECT / "configs/demo/pretrain.yaml"), *others, deeper, *mine]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2]
    assert steps[0][f"tokens/block{DEPTH - 1:02d}"] < 17


def test_it_is_costed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    vit = ["--vit", "deit_tiny_patch16_224", "--plugins", str(FILES[name])]
    assert flops.main([*vit, "--reducer", "none", "--reducer", name, "--json", "-"]) == 0
    none, mine = json.loads(capsys.readouterr().out)
    assert (none["reducer"], mine["reducer"]) == ("none", name)
    assert mine["vision_gmacs"] < 0.75 * none["vision_gmacs"]


def patches(x: list[list[float]]) -> tuple[Tokens, torch.Tensor]:
    values = torch.tensor([x])
    return Tokens.start(values, (1, len(x)), track_source=True), values


def test_any_word_may_save_a_patch_but_none_that_is_padding() -> None:
    reducer = built("word_similarity")
    tokens, _ = patches([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.1, 0.1, 1]])
    text = Text(torch.tensor([[[1.0, 0, 0], [0, 5, 0], [0, 0, 1]]]), torch.tensor([[1, 1, 0]]))
    stage = Stage(3, 0, AttentionFacts(), ReductionContext(None, training=True, guide=Guide(text)))
    assert reducer.reduce(tokens, 2, stage).source.tolist() == [[0, 1, -1, -1]]


def test_the_teachers_keys_decide_where_there_is_a_teacher() -> None:
    reducer = built("teacher_keys")
    tokens, keys = patches([[1.0, 0], [1, 0], [1, 0.1], [0, 1]])
    for teacher, kept in ((None, [-1, -1, -1, 0]), (Teacher(keys={6: keys.flip(1)}), [0, -1, -1, -1])):
        context = ReductionContext(None, training=True, guide=Guide(teacher=teacher))
        assert reducer.reduce(tokens, 1, Stage(3, 0, AttentionFacts(keys=keys), context)).source.tolist() == [kept]
