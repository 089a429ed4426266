"""The files that an evaluation leaves."""

import fcntl
import json
import multiprocessing
import os
import threading
from pathlib import Path

from elip.engine.results import write_result
from elip.task import EvalResult, ItemScores


def test_nothing_of_an_earlier_evaluation_stands_beside_the_figures(tmp_path: Path) -> None:
    full = EvalResult(
        {"accuracy": 50.0},
        predictions=[{"image": "a.jpg"}],
        chance={"accuracy": 33.3},
        scores=[ItemScores([50.0], ["a.jpg"])],
    )
    write_result(full, tmp_path / "val", {"checkpoint": "best.pt", "step": 7})
    assert json.loads((tmp_path / "val/about.json").read_text()) == {"checkpoint": "best.pt", "step": 7}
    assert {path.name for path in (tmp_path / "val").iterdir()} == {
        "about.json",
        "metrics.json",
        "chance.json",
        "predictions.jsonl",
        "scores.json",
    }
    assert json.loads((tmp_path / "val/scores.json").read_text()) == [
        {"values": [50.0], "clusters": ["a.jpg"], "weight": 1.0}
    ]
    write_result(EvalResult({"accuracy": 60.0}), tmp_path / "val")
    assert [path.name for path in (tmp_path / "val").iterdir()] == ["metrics.json"]


def _write_often(folder: Path, name: str) -> None:
    for step in range(60):
        result = EvalResult({"accuracy": float(step)}, predictions=[{"by": name, "step": step}])
        write_result(result, folder, {"by": name, "step": step})


def test_what_two_processes_write_into_one_folder_is_that_of_one_of_them(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        writers = [context.Process(target=_write_often, args=(folder, name)) for name in ("a", "b")]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0
        about = json.loads((folder / "about.json").read_text())
        assert json.loads((folder / "predictions.jsonl").read_text()) == about
        assert json.loads((folder / "metrics.json").read_text()) == {"accuracy": about["step"]}


def test_a_writer_waits_for_the_one_that_is_writing(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    other = threading.Thread(target=write_result, args=(EvalResult({"accuracy": 1.0}), tmp_path))
    other.start()
    other.join(0.2)
    assert not [*tmp_path.iterdir()]
    os.close(descriptor)
    other.join(10)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
