"""Which GPU or how many threads each worker has, and that nothing a worker does is lost."""

from pathlib import Path

import pytest
import torch

from elip.config import config_to_dict, load_config
from elip.errors import ElipError
from elip.lab.sweep import pool
from elip.lab.sweep.chain import Chain, ChainRunner, Stage, StageState
from tests.conftest import PROJECT
from tests.lab.sweep.stand_ins import StandIns, calls, make_chain, wait_for


@pytest.mark.parametrize(
    ("visible", "there", "expected"),
    [
        (None, 2, ["0", "1", "0"]),
        ("3, 5", 2, ["3", "5", "3"]),
        ("GPU-8f1c,MIG-77a0,GPU-11d2", 3, ["GPU-8f1c", "MIG-77a0", "GPU-11d2"]),
    ],
)
def test_workers_take_turns_with_the_gpus_that_this_process_may_use(
    visible: str | None, there: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert pool.default_jobs() == there
    assert [one["CUDA_VISIBLE_DEVICES"] for one in pool.environments(3)] == expected


def test_without_gpus_workers_share_the_cores_unless_the_user_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {*range(8)}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert pool.default_jobs() == 1
    assert pool.environments(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert pool.environments(20)[0] == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert pool.environments(3) == [{}] * 3


def test_all_chains_are_run_side_by_side_in_turn_and_a_failing_one_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StandIns(tmp_path / "stand_ins", monkeypatch).behave({"tome seed-2 pretrain": "be killed"})
    config = config_to_dict(load_config(PROJECT / "configs/demo/pretrain.yaml"))
    chains = [make_chain(tmp_path, config, seed=seed) for seed in (1, 2, 3)]
    told: list[tuple[int, str]] = []
    pool.run_all(chains, 2, lambda chain, _stage, outcome: told.append((chain.seed, outcome.status)))
    assert sorted(told) == [(1, "done"), (1, "running"), (2, "failed"), (2, "running"), (3, "done"), (3, "running")]
    assert [StageState.of(chain.stages[0].folder).error for chain in chains] == [None, "killed by SIGKILL", None]


def test_a_bug_in_a_worker_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise LookupError("a bug")

    monkeypatch.setattr(ChainRunner, "run", broken)
    with pytest.raises(LookupError, match="a bug"):
        pool.run_all([make_chain(tmp_path, {})], 1, lambda *_: None)


def test_what_is_told_may_fail_and_leaves_no_command_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StandIns(tmp_path / "stand_ins", monkeypatch).behave({"tome seed-2 pretrain": "go on until told"})
    config = config_to_dict(load_config(PROJECT / "configs/demo/pretrain.yaml"))
    chains = [make_chain(tmp_path, config, seed=seed) for seed in (1, 2, 3)]
    half_done = chains[1].stages[0].folder

    def notice(chain: Chain, _stage: Stage, outcome: StageState) -> None:
        if (chain.seed, outcome.status) == (2, "running"):
            wait_for(half_done / "begun")
            raise ElipError("cannot write sweep.json: No space left on device.")

    with pytest.raises(ElipError, match="No space left"):
        pool.run_all(chains, 1, notice)
    assert StageState.of(half_done).status == "waiting"
    assert (half_done / "checkpoint-00000001.pt").exists()
    assert calls(chains[2].stages[0].folder) == []
