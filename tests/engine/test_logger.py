"""The log's three forms."""

import json
import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elip.engine.logger import JsonLines, RunLog
from elip.engine.step import StepReport
from tests.engine.conftest import read_log, train
from tests.engine.stub import stub_config


def test_entries_after_the_start_and_half_written_ones_are_cut_away(tmp_path: Path) -> None:
    lines = [{"step": 1}, {"step": 2}, {"step": 2, "event": "eval"}, {"step": 3}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 2, "lo')
    log = JsonLines(tmp_path, start=2)
    log.train({"step": 3, "again": True})
    log.close()
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        *lines[:3],
        {"step": 3, "again": True},
    ]


def test_figures_keep_their_precision_and_those_that_json_lacks_are_null(tmp_path: Path) -> None:
    log = JsonLines(tmp_path, start=0)
    log.train({"step": 1, "third": 1 / 3, "none": float("nan"), "much": float("inf")})
    log.close()
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, "third": 1 / 3, "none": None, "much": None}


def test_the_first_the_last_and_every_nth_step_are_logged(tmp_path: Path) -> None:
    train(stub_config(tmp_path, log_every=4))
    assert [entry["step"] for entry in read_log(tmp_path) if entry["event"] == "train"] == [1, 4, 8, 10]


def test_pauses_do_not_count_for_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("elip.engine.logger.time.perf_counter", lambda: now[0])
    (tmp_path / "config.yaml").touch()
    log = RunLog(tmp_path, start=0, total_steps=4, steps_per_epoch=4, samples_per_step=8, every=2)
    report = StepReport({"loss_fit": 1.0}, {}, grad_norm=1.0, skipped=0, skipped_here=[], stop=False)
    for step in range(1, 5):
        now[0] += 2
        log.train(step, 0.1, report, skipped=0)
        with log.pause():
            now[0] += 1000
    log.close()
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["images_per_second"] for entry in entries] == [4.0] * 3
    assert entries[-1]["seconds"] == 8


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train(stub_config(tmp_path, log_every=5))
    lines = [message for message in caplog.messages if message.startswith("step 5")]
    assert lines[0].startswith("step 5/10, epoch 0: loss ")
    assert lines[0].endswith("0:00:00 left")
    assert lines[1].startswith("step 5, val: accuracy ")


def test_tensorboard_has_every_figure_the_config_and_the_pictures(tmp_path: Path) -> None:
    config = stub_config(tmp_path, max_steps=6)
    train(stub_config(tmp_path, max_steps=5))
    train(config, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = events.Tags()["scalars"]
    logged = read_log(tmp_path)[0].keys() - {"event", "step"}
    assert {f"train/{name}" for name in logged} < {*scalars}
    assert {"train/images_per_second", "train/memory_process_peak_mib", "val/accuracy"} < {*scalars}
    assert [event.step for event in events.Scalars("train/loss")] == [*range(1, 7)]
    assert {*events.Tags()["images"]} == {"val/sheet", "val/train_batch"}
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "batch_size: 4" in text
