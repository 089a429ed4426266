"""Chains as jobs: with submitit's executor for this machine, which calls what Slurm would call."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from elip.config import config_to_dict, load_config
from elip.errors import ConfigError
from elip.lab.sweep import chain, slurm
from elip.lab.sweep.file import SlurmSection
from elip.lab.sweep.slurm import ChainJob, Cluster
from tests.conftest import PROJECT
from tests.lab.sweep.chain_job import ChainJobWithStandIns
from tests.lab.sweep.fake_slurm import fake_slurm
from tests.lab.sweep.stand_ins import StandIns, calls, make_chain, wait_for


@pytest.fixture
def config() -> dict[str, Any]:
    return config_to_dict(load_config(PROJECT / "configs/demo/pretrain.yaml"))


@pytest.mark.slow  # two processes, one after the other, that import all there is
def test_a_job_that_must_stop_saves_and_goes_on_when_it_is_queued_again(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins = StandIns(tmp_path / "stand_ins", monkeypatch)
    stand_ins.behave({"tome seed-1 pretrain": "go on until told"})
    monkeypatch.setattr(slurm, "ChainJob", lambda: ChainJobWithStandIns(tmp_path / "stand_ins"))
    monkeypatch.setattr(slurm, "_ROOT", PROJECT)
    one = make_chain(tmp_path, config, stages=("pretrain", "retrieval"))
    file = tmp_path / "chain.json"
    one.write(file)
    cluster = Cluster(tmp_path, SlurmSection(gpus=0, time=10), "lab", kind=slurm.LOCAL)
    (job,) = cluster.hand_over([file])
    first, second = (stage.folder for stage in one.stages)
    wait_for(first / "begun")
    stand_ins.behave({})
    os.kill(int((first / "parent").read_text()), signal.SIGUSR1)  # as Slurm does before it takes a job's node away
    assert job.result() == "done"
    assert calls(first) == ["train", "train --resume", "evaluate checkpoint-00000002.pt test"]
    assert calls(second) == ["train", "evaluate checkpoint-00000002.pt test"]
    assert json.loads((tmp_path / "job.json").read_text()) == {"job": job.job_id}


def test_what_is_asked_of_slurm_is_what_the_file_says() -> None:
    section = SlurmSection(partition="gpu", time=90, gpus=1, cpus=6, max_jobs=4, additional={"constraint": "a100"})
    assert slurm._parameters(section, "lab") == {
        "name": "lab",
        "timeout_min": 90,
        "gpus_per_node": 1,
        "cpus_per_task": 6,
        "tasks_per_node": 1,
        "slurm_partition": "gpu",
        "slurm_array_parallelism": 4,
        "slurm_additional_parameters": {"constraint": "a100"},
    }


def test_without_submitit_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"needs submitit, which is not installed: pip install 'elip\[slurm\]'"):
        Cluster(tmp_path, SlurmSection(), "lab")


def test_away_from_a_cluster_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no sbatch here"):
        Cluster(tmp_path, SlurmSection(), "lab")


def test_chains_become_an_array_of_jobs_and_those_that_slurm_still_has_are_known(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = fake_slurm(tmp_path, monkeypatch, {"4711_0": "RUNNING", "4711_1": "COMPLETED"})
    files = []
    for seed in (1, 2):
        files.append(tmp_path / f"seed-{seed}" / "chain.json")
        make_chain(tmp_path, config, seed=seed).write(files[-1])
    cluster = Cluster(tmp_path, SlurmSection(partition="gpu", max_jobs=2), "lab")
    assert not cluster.has(files[0])
    jobs = cluster.hand_over(files)
    assert [job.job_id for job in jobs] == ["4711_0", "4711_1"]
    submitted = (programs / "submitted.sh").read_text()
    for line in ("--array=0-1%2", "--partition=gpu", "--signal=USR1@"):
        assert f"#SBATCH {line}" in submitted
    assert [cluster.has(file) for file in files] == [True, False]


def test_a_job_calls_the_chain_in_its_file(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins = StandIns(tmp_path / "stand_ins", monkeypatch)
    assert tmp_path / "stand_ins" == chain._ROOT
    stand_ins.behave({"tome seed-1 pretrain": "fail"})
    one = make_chain(tmp_path, config)
    one.write(tmp_path / "chain.json")
    assert ChainJob()(str(tmp_path / "chain.json")) == "failed"
