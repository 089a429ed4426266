"""Tasks that train on pairs take them from tar shards too, the others say that they cannot."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from elip.engine.step import StepRunner
from tests.conftest import PROJECT, tiny_run
from tests.tasks.conftest import PAIRS_EACH, SHARDS
from tests.tasks.small import small_run, small_task
from tools import train

ON_PAIRS = ("nlvr_pretrain", "retrieval", "grounding")
NOT_ON_PAIRS = ("vqa", "ve", "nlvr")


@pytest.fixture
def sharded(digits: Path, shards: Path) -> Callable[..., list[str]]:
    """Returns the overrides of a run of seconds on the shards, in a folder of its own."""

    def overrides(name: str, folder: Path, *further: str) -> list[str]:
        run = small_run(name, digits, tiny_run(digits, folder))
        return [*run, f"data.train=['{shards}/pairs-{{00..03}}.tar']", "data.val=[]", "train.batch_size=4", *further]

    return overrides


def losses(folder: Path) -> Sequence[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k.startswith(("loss", "step"))} for entry in entries if "loss" in entry]


class PowerCutError(Exception):
    """Ends a run without warning."""


@pytest.mark.parametrize("name", ON_PAIRS)
def test_a_run_on_shards_cut_short_goes_on_as_if_it_had_not_been(
    name: str, sharded: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(PROJECT / f"configs/demo/{name}.yaml")
    steps = ["train.max_steps=2", "train.save_every=1", "data.test=[]"]
    assert train.main([config, *sharded(name, tmp_path / "whole", *steps)]) == 0
    arguments, step, done = [config, *sharded(name, tmp_path / "cut", *steps)], StepRunner.step, []

    def fragile(runner: StepRunner, *args: Any) -> Any:
        if done:
            raise PowerCutError
        done.append(runner)
        return step(runner, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StepRunner, "step", fragile)
        with pytest.raises(PowerCutError):
            train.main(arguments)
    assert train.main([*arguments, "--resume"]) == 0
    assert [entry["step"] for entry in losses(tmp_path / "whole")] == [1, 2]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.parametrize("name", ["retrieval", "grounding"])
def test_each_sample_of_a_shard_counts_as_a_picture_of_its_own_in_every_epoch(
    name: str, sharded: Callable[..., list[str]], tmp_path: Path
) -> None:
    stream: Any = small_task(name, sharded(name, tmp_path)).train_dataset()
    epochs = []
    for epoch in range(2):
        stream.start(epoch)
        epochs.append({sample["caption"]: sample["image_id"] for sample in stream})
    assert epochs[0] == epochs[1]
    assert len(set(epochs[0].values())) == SHARDS * PAIRS_EACH


@pytest.mark.parametrize("name", NOT_ON_PAIRS)
def test_a_task_that_cannot_train_on_pairs_says_so_in_one_line(
    name: str, sharded: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([str(PROJECT / f"configs/demo/{name}.yaml"), *sharded(name, tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "pairs-{00..03}.tar is a tar shard. Shards hold pairs of picture and caption" in said
    assert said.startswith("error: data.train: ")
    assert said.count("\n") == 1


def test_shards_to_evaluate_on_are_refused_naming_the_key(
    sharded: Callable[..., list[str]], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = sharded("retrieval", tmp_path, f"data.val=[{shards}/pairs-00.tar]")
    assert train.main([str(PROJECT / "configs/demo/retrieval.yaml"), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: data.val: {shards}/pairs-00.tar is a tar shard.")
