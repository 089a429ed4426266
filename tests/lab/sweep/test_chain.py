"""One arm with one seed: what is run, what is left alone, and what is said of what goes wrong."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from elip.config import config_to_dict, load_config
from elip.engine.run_lock import RunLock
from elip.errors import DataError
from elip.lab.sweep.chain import Chain, ChainRunner, StageState
from tests.conftest import PROJECT
from tests.lab.sweep.stand_ins import StandIns, calls, make_chain, wait_for

TWO = ("pretrain", "retrieval")


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    return StandIns(tmp_path / "stand_ins", monkeypatch)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """A config whose data are nowhere, also where the demo has made its own."""
    nowhere = [f"data.{split}=[nowhere/{split}.json]" for split in ("train", "val", "test")]
    return config_to_dict(load_config(PROJECT / "configs/demo/pretrain.yaml", nowhere))


def test_each_stage_is_trained_from_the_first_one_and_evaluated(
    stand_ins: StandIns, config: dict[str, Any], tmp_path: Path
) -> None:
    chain = make_chain(tmp_path, config, stages=TWO)
    assert ChainRunner().run(chain) == "done"
    first, second = (stage.folder for stage in chain.stages)
    for folder in (first, second):
        assert calls(folder) == ["train", "evaluate checkpoint-00000002.pt test"]
        assert StageState.of(folder).metrics == {"test": ["r_mean", 12.5]}
        assert [Path(file).name for file in StageState.of(folder).files] == [f"{config['reducer']['name']}.py"]
    assert load_config(first / "config.yaml").model.init is None
    assert load_config(second / "config.yaml").model.init == str(first / "checkpoint-00000002.pt")


def test_the_config_that_a_run_leaves_is_the_chain_s(
    stand_ins: StandIns, config: dict[str, Any], tmp_path: Path
) -> None:
    reducer = {"name": "tome", "strict": False, "until": 0.5, "r": 3}
    chain = make_chain(tmp_path, {**config, "reducer": reducer})
    ChainRunner().run(chain)
    saved = load_config(chain.stages[0].folder / "config.yaml")
    assert config_to_dict(saved) == chain.stages[0].config


def test_what_is_done_is_not_done_again(stand_ins: StandIns, config: dict[str, Any], tmp_path: Path) -> None:
    chain = make_chain(tmp_path, config, stages=TWO)
    ChainRunner().run(chain)
    before = [calls(stage.folder) for stage in chain.stages]
    assert chain.is_done
    assert ChainRunner().run(chain) == "done"
    assert [calls(stage.folder) for stage in chain.stages] == before


def test_files_that_a_run_was_begun_with_are_kept_in_mind_when_it_goes_on(
    stand_ins: StandIns, config: dict[str, Any], tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.json"
    pairs.write_text("some")
    chain = make_chain(tmp_path, {**config, "data": {**config["data"], "train": [str(pairs)]}})
    folder = chain.stages[0].folder
    stand_ins.behave({"tome seed-1 pretrain": "end early"})
    ChainRunner().run(chain)
    begun_with = StageState.of(folder).files[str(pairs)]
    pairs.write_text("others")
    stand_ins.behave({})
    assert ChainRunner().run(chain) == "done"
    assert StageState.of(folder).files[str(pairs)] == begun_with


def test_another_split_is_evaluated_without_training_again(
    stand_ins: StandIns, config: dict[str, Any], tmp_path: Path
) -> None:
    chain = make_chain(tmp_path, config)
    ChainRunner().run(chain)
    stage = chain.stages[0]
    assert not Chain(chain.arm, chain.seed, "last", chain.stages).is_done
    more = Chain(chain.arm, chain.seed, "last", [type(stage)(stage.name, stage.config, ["test", "val"])])
    assert not more.is_done
    assert ChainRunner().run(more) == "done"
    assert calls(stage.folder)[2:] == [f"evaluate checkpoint-00000002.pt {split}" for split in ("test", "val")]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("fail", "data.train: there is no file pairs.json"),
        ("raise", "RuntimeError: out of ideas"),
        ("be killed", "killed by SIGKILL"),
        ("fail in evaluation", "there are no pictures"),
    ],
)
def test_what_went_wrong_is_told_by_its_last_line_and_follow_ups_wait(
    behaviour: str, said: str, stand_ins: StandIns, config: dict[str, Any], tmp_path: Path
) -> None:
    stand_ins.behave({"tome seed-1 pretrain": behaviour})
    chain = make_chain(tmp_path, config, stages=TWO)
    assert ChainRunner().run(chain) == "failed"
    first, second = (stage.folder for stage in chain.stages)
    assert (StageState.of(first).status, StageState.of(first).error) == ("failed", said)
    assert calls(second) == []
    stand_ins.behave({})
    assert ChainRunner().run(chain) == "done"
    assert StageState.of(first).error is None


def test_a_run_that_only_its_evaluation_failed_of_is_not_trained_again(
    stand_ins: StandIns, config: dict[str, Any], tmp_path: Path
) -> None:
    stand_ins.behave({"tome seed-1 pretrain": "fail in evaluation"})
    chain = make_chain(tmp_path, config)
    ChainRunner().run(chain)
    stand_ins.behave({})
    ChainRunner().run(chain)
    assert [call.split()[0] for call in calls(chain.stages[0].folder)] == ["train", "evaluate", "evaluate"]


def test_a_training_that_ended_before_its_time_is_gone_on_with(
    stand_ins: StandIns, config: dict[str, Any], tmp_path: Path
) -> None:
    stand_ins.behave({"tome seed-1 pretrain": "end early"})
    chain = make_chain(tmp_path, config)
    assert ChainRunner().run(chain) == "waiting"  # it returned 0, as a training that a signal stops does
    assert not chain.is_done
    stand_ins.behave({})
    assert ChainRunner().run(chain) == "done"
    assert calls(chain.stages[0].folder)[:2] == ["train", "train --resume"]


def test_stopping_lets_the_training_save(stand_ins: StandIns, config: dict[str, Any], tmp_path: Path) -> None:
    stand_ins.behave({"tome seed-1 pretrain": "go on until told"})
    chain, runner = make_chain(tmp_path, config, stages=TWO), ChainRunner()
    folder = chain.stages[0].folder
    statuses: list[str] = []
    thread = threading.Thread(target=lambda: statuses.append(runner.run(chain)))
    thread.start()
    wait_for(folder / "begun")
    runner.stop(signal.SIGTERM)
    thread.join()
    assert statuses == ["waiting"]
    assert (folder / "checkpoint-00000001.pt").exists()
    assert StageState.of(folder).error is None
    assert calls(chain.stages[1].folder) == []


def test_a_run_that_still_goes_on_is_waited_for(
    stand_ins: StandIns, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, sleep = threading.Event(), time.sleep
    monkeypatch.setattr(time, "sleep", lambda _: (sleep(0.01), waited.set()))
    chain = make_chain(tmp_path, config)
    folder = chain.stages[0].folder
    folder.mkdir(parents=True)
    lock = RunLock(folder)
    lock.acquire()
    told: list[str | None] = []
    runner = ChainRunner(notice=lambda _chain, _stage, outcome: told.append(outcome.error))
    thread = threading.Thread(target=lambda: runner.run(chain))
    thread.start()
    assert waited.wait(timeout=60)
    assert calls(folder) == []
    lock.release()
    thread.join()
    assert chain.is_done
    (waits,) = filter(None, told)
    assert waits.startswith(f"waits: {folder} is in use by another run: process {os.getpid()}")


def test_a_chain_is_read_as_it_was_written(config: dict[str, Any], tmp_path: Path) -> None:
    chain = make_chain(tmp_path, config, stages=TWO)
    chain.write(tmp_path / "deep" / "chain.json")
    again = Chain.read(tmp_path / "deep" / "chain.json")
    assert (again.arm, again.seed, again.checkpoint, again.stages) == ("tome", 1, "best", chain.stages)
    (tmp_path / "deep" / "chain.json").write_text(json.dumps({"arm": "tome"}))
    with pytest.raises(DataError, match=r"cannot read .*chain\.json .* Start the sweep again"):
        Chain.read(tmp_path / "deep" / "chain.json")
