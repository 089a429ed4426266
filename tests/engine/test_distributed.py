"""Two processes train and evaluate as one does: equal weights everywhere, nothing seen twice, nothing lost."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.errors import CheckpointError
from elip.weights import run_folder
from tests.engine.conftest import assert_close, read_log, train
from tests.engine.stub import EvalPoints, stub_config

Parts = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes under torchrun have left what they did."""
    folder = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.engine.two_processes", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    """What each rank kept."""
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def grad_norms(folder: Path) -> list[float]:
    """The gradients tell what AdamW hides: it takes the same step on a gradient of twice the size."""
    return [entry["grad_norm"] for entry in read_log(folder) if entry["event"] == "train"]


@pytest.mark.parametrize("name", ["plain", "accumulated", "whole", "resumed"])
def test_both_ranks_end_with_equal_parameters_and_buffers(parts: Parts, name: str) -> None:
    first, second = (part[name]["weights"] for part in parts)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_two_processes_train_like_one_with_the_doubled_batch(parts: Parts, folder: Path, tmp_path: Path) -> None:
    alone, outcome = train(stub_config(tmp_path, batch_size=4), dropout=0.0)
    assert_close(alone, parts[0]["plain"]["weights"])
    assert grad_norms(folder / "plain") == pytest.approx(grad_norms(tmp_path), rel=1e-4)
    assert parts[0]["plain"]["metrics"] == pytest.approx(outcome["metrics"], rel=1e-4)


def test_accumulation_over_two_processes_trains_like_one_big_batch(parts: Parts, folder: Path, tmp_path: Path) -> None:
    alone, _ = train(stub_config(tmp_path, batch_size=4), dropout=0.0, queue=False)
    assert_close(alone, parts[0]["accumulated"]["weights"])
    assert grad_norms(folder / "accumulated") == pytest.approx(grad_norms(tmp_path), rel=1e-4)


def test_a_signal_to_one_process_stops_both_and_both_resume_exactly(parts: Parts, folder: Path) -> None:
    assert [part["stopped"]["stopped"] for part in parts] == [True, True]
    for part in parts:
        assert part["resumed"]["metrics"] == part["whole"]["metrics"]
        assert all(
            torch.equal(value, part["resumed"]["weights"][key]) for key, value in part["whole"]["weights"].items()
        )
    assert len(run_folder.load(folder / "whole" / "best.pt")["rng"]) == 2


def test_a_signal_to_one_process_in_an_evaluation_stops_both_and_it_is_made_up_for(parts: Parts, folder: Path) -> None:
    assert [part["cut"]["stopped"] for part in parts] == [True, True]
    assert read_log(folder / "cut") == read_log(folder / "whole")
    for part in parts:
        assert part["made up"]["metrics"] == part["whole"]["metrics"]


def test_a_loss_that_is_no_number_on_one_rank_stops_both(parts: Parts) -> None:
    for part in parts:
        assert part["spoilt"]["error"].startswith("step 7: loss_spread is nan.")


def test_a_run_of_two_processes_is_not_resumed_by_one(parts: Parts, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="comes from a run with 2 processes, this one has 1"):
        train(stub_config(folder / "whole"), resume=True)


@pytest.mark.parametrize(("name", "length"), [("seven", 7), ("one", 1)])
def test_evaluations_come_whole_and_in_order_to_both_ranks(parts: Parts, name: str, length: int) -> None:
    for part in parts:
        rows = part[name]
        assert rows["index"].tolist() == [*range(length)]
        assert rows["names"] == [f"item {index}" for index in range(length)]
        assert rows["odd"].tolist() == [index % 2 == 1 for index in range(length)]
        assert torch.equal(rows["half"], torch.stack([EvalPoints(length)[i]["x"] for i in range(length)]).half())


def test_an_evaluation_of_nothing_gives_nothing(parts: Parts) -> None:
    assert [part["none"] for part in parts] == [{}, {}]


def test_shares_that_are_not_gathered_are_complete_even_where_a_rank_has_no_item(parts: Parts) -> None:
    assert [part["shares"]["index"].tolist() for part in parts] == [[0, 1, 2], [3, 4, 5, 6]]
    empty, full = (part["share of one"] for part in parts)
    assert full["names"] == ["item 0"]
    assert empty["names"] == []
    assert empty["half"].shape == (0, 3)
    assert empty["odd"].dtype is torch.bool
