"""Pre-training from tar shards: as from annotation files, in one process or in two, stopped and resumed."""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from elip.engine.step import StepRunner
from tests.conftest import PROJECT, tiny_run
from tests.tasks.conftest import PAIRS_EACH, SHARDS, add
from tools import train

CONFIG = str(PROJECT / "configs/demo/pretrain.yaml")


def sharded(tiny: list[str], shards: Path, *overrides: str) -> list[str]:
    """Return the arguments of a tiny run on the shards."""
    return [CONFIG, *tiny, f"data.train=['{shards}/pairs-{{00..03}}.tar']", *overrides]


def losses(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in entry.items() if k.startswith(("loss", "step", "grad"))}
        for entry in entries
        if "loss" in entry
    ]


def test_a_run_on_shards_takes_the_steps_that_their_pairs_fill(tiny: list[str], shards: Path, tmp_path: Path) -> None:
    assert train.main(sharded(tiny, shards)) == 0
    log = losses(tmp_path / "run")
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss_itc", "loss_itm", "loss_mlm"} <= log[0].keys()


class PowerCutError(Exception):
    """Ends a run without warning."""


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("num_workers", "cut_after"), [(0, 4), (2, 2), (3, 5)])
def test_a_run_cut_short_resumes_to_the_very_same_log(
    num_workers: int, cut_after: int, digits: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [f"data.num_workers={num_workers}", "data.val=[]", "train.batch_size=4", "train.save_every=2"]
    assert train.main(sharded(tiny_run(digits, tmp_path / "whole"), shards, *workers)) == 0
    arguments = sharded(tiny_run(digits, tmp_path / "cut"), shards, *workers)
    step, done = StepRunner.step, []

    def fragile(runner: StepRunner, *args: Any) -> Any:
        if len(done) == cut_after:
            raise PowerCutError
        done.append(runner)
        return step(runner, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StepRunner, "step", fragile)
        with pytest.raises(PowerCutError):
            train.main(arguments)
    assert train.main([*arguments, "--resume"]) == 0
    whole = losses(tmp_path / "whole/run")
    assert len(whole) == 12
    assert losses(tmp_path / "cut/run") == whole


SPY = '''
    """Note the pairs of each training batch, by process."""
    import os

    from tasks.pretrain import Pretrain

    collate = Pretrain.collate


    def spied(self, samples):
        with open(f"{folder}/rank-{{os.environ['RANK']}}.txt", "a") as file:
            file.write("".join(sample["caption"].split()[-1] + "\\n" for sample in samples))
        return collate(self, samples)


    Pretrain.collate = spied
'''


@pytest.mark.slow
def test_two_processes_with_two_workers_each_see_every_pair_once_an_epoch(
    tiny: list[str], shards: Path, tmp_path: Path
) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text(dedent(SPY).format(folder=tmp_path))
    overrides = ["data.num_workers=2", "train.batch_size=2", "train.epochs=1", "data.val=[]", f"plugins=[{spy}]"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tools.train", *sharded(tiny, shards, *overrides)],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = [(tmp_path / f"rank-{rank}.txt").read_text().split() for rank in range(2)]
    assert [len(seen) for seen in ranks] == [12, 12]
    assert Counter(ranks[0] + ranks[1]) == Counter(map(str, range(SHARDS * PAIRS_EACH)))
    assert len(losses(tmp_path / "run")) == 6


def test_shards_beside_annotation_files_are_refused_naming_the_key(
    tiny: list[str], shards: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([CONFIG, *tiny, f"data.train=[{shards}/pairs-00.tar, pairs.json]"]) == 2
    said = capsys.readouterr().err
    assert f"data.train: {shards}/pairs-00.tar is a tar shard, pairs.json an annotation file" in said
    assert said.count("\n") == 1


def with_broken_pair(shards: Path, folder: Path) -> str:
    """Return the override for a shard that holds sound pairs and one whose picture is none."""
    path = folder / "broken.tar"
    path.write_bytes((shards / "pairs-00.tar").read_bytes())
    with tarfile.open(path, "a") as tar:
        for number in range(90, 93):
            add(tar, f"{number}.jpg", b"not a picture")
            add(tar, f"{number}.txt", b"a red seven")
    return f"data.train=[{path}]"


def test_a_broken_pair_is_told_in_one_line_out_of_a_loader_process(
    tiny: list[str], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    broken = with_broken_pair(shards, tmp_path)
    assert train.main([CONFIG, *tiny, broken, "data.num_workers=1"]) == 2
    error = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert error.startswith(f"error: {tmp_path}/broken.tar sample '9")
    assert "file .jpg: not an image" in error


def test_broken_pairs_up_to_the_stated_share_are_passed_over_and_counted(
    tiny: list[str], shards: Path, tmp_path: Path
) -> None:
    broken = with_broken_pair(shards, tmp_path)
    allowed = ["data.max_broken_ratio=0.5", "train.batch_size=3", "data.val=[]"]
    assert train.main([CONFIG, *tiny, broken, *allowed]) == 0
    entries = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    skipped = [entry["skipped"] for entry in entries if "skipped" in entry][-1]
    assert 6 <= skipped <= 12  # three in each of two epochs, and some again where sound ones fill their places
