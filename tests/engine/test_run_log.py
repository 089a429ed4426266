"""The log's three forms."""

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest, Status
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from torch.utils.tensorboard import SummaryWriter

from elip.config.schema import ReducerConfig
from elip.engine.log_file import JsonLines
from elip.engine.run_log import Console, RunLog
from elip.engine.step import StepReport
from elip.engine.tensorboard import hyperparameters
from elip.errors import DataError, ElipError
from tests.engine.conftest import read_log, train
from tests.engine.stub import harm_at, stub_config

REPORT = StepReport(1.0, {"loss_fit": 1.0}, {}, grad_norm=1.0, skipped=0, skipped_here=[], stop=False)


def open_log(folder: Path, **options: Any) -> RunLog:
    """Return the log of a run of 4 steps of which every one is logged."""
    (folder / "config.yaml").touch()
    sizes = {"start": 0, "total_steps": 4, "steps_per_epoch": 4, "samples_per_step": 8, "every": 1}
    return RunLog(folder, **{**sizes, **options})


def events_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_entries_after_the_start_and_half_written_ones_are_cut_away(tmp_path: Path) -> None:
    train_lines = [{"event": "train", "step": step} for step in (1, 2, 3)]
    evaluation = {"event": "eval", "step": 2, "split": "val", "metrics": {"accuracy": 1.0, "error": None}}
    lines = [*train_lines[:2], evaluation, train_lines[2]]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 2, "lo')
    log = JsonLines(tmp_path, start=2)
    log.train({"event": "train", "step": 3, "again": 1})
    log.close()
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        *lines[:3],
        {"event": "train", "step": 3, "again": 1},
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
    monkeypatch.setattr("elip.engine.run_log.time.perf_counter", lambda: now[0])
    log = open_log(tmp_path, every=2)
    for step in range(1, 5):
        now[0] += 2
        log.train(step, 0.1, REPORT, skipped=0)
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


def test_tensorboard_has_every_figure_the_config_and_the_sheets(tmp_path: Path) -> None:
    config = stub_config(tmp_path, max_steps=6)
    train(stub_config(tmp_path, max_steps=5))
    train(config, resume=True)
    events = events_of(tmp_path)
    scalars = events.Tags()["scalars"]
    logged = read_log(tmp_path)[0].keys() - {"event", "step"}
    assert {f"train/{name}" for name in logged} < {*scalars}
    assert {"train/images_per_second", "train/memory_process_peak_mib", "val/accuracy"} < {*scalars}
    assert [event.step for event in events.Scalars("train/loss")] == [*range(1, 7)]
    assert {*events.Tags()["images"]} == {"val/sheet"}
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "batch_size: 4" in text


@pytest.mark.parametrize(
    "odd",
    [
        b"{}",
        b'{"event": "train"}',
        b'{"step": "2"}',
        b'{"step": 2}',
        b'{"event": "note", "step": 2}',
        b'{"event": "train", "step": 2, "loss": "low"}',
        b'{"event": "train", "step": 2, "loss": [1]}',
        b'{"event": "eval", "step": 2}',
        b'{"event": "eval", "step": 2, "split": 3, "metrics": {}}',
        b'{"event": "eval", "step": 2, "split": "val", "metrics": [1]}',
        b'{"event": "eval", "step": 2, "split": "val", "metrics": {"accuracy": "high"}}',
        b'{"event": "train", "step": 2.0}',
        b'{"step": true}',
        b'{"step": null}',
        b"2",
        b"null",
        b"[1, 2]",
        b'"step"',
        b"\0" * 40,
        b'\0\0{"step": 2}',
        b'{"step": 2, "lo',
        b"\xff\xfe{\0",
        b'{"step": 2, "name": "\xe9"}',
        b"[" * 100_000,
        b'{"step": ' + b"9" * 5000 + b"}",
        b"Warning: something printed here",
    ],
)
def test_lines_that_are_no_entries_are_dropped_and_told(
    tmp_path: Path, odd: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b'{"event": "train", "step": 1}\n'
        + odd
        + b'\n\n{"event": "train", "step": 2}\n{"event": "train", "step": 3}\n{"st'
    )
    log = JsonLines(tmp_path, start=2)
    log.train({"event": "train", "step": 3, "again": 1})
    log.close()
    assert (
        path.read_bytes()
        == b'{"event": "train", "step": 1}\n{"event": "train", "step": 2}\n{"event": "train", "step": 3, "again": 1}\n'
    )
    assert caplog.messages == [f"{path}: lines that are no entries are dropped: 1, the first of them line 2"]


def test_a_last_line_without_an_end_is_kept_if_it_is_an_entry_and_dropped_quietly_if_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.jsonl"
    for last, kept in (
        (b'{"event": "train", "step": 2}', b'{"event": "train", "step": 2}\n'),
        (b'{"event": "train", "step": 2', b""),
        (b"\0\0", b""),
    ):
        path.write_bytes(b'{"event": "train", "step": 1}\n' + last)
        JsonLines(tmp_path, start=2)
        assert path.read_bytes() == b'{"event": "train", "step": 1}\n' + kept
    assert caplog.messages == []


def test_a_log_with_odd_lines_does_not_stop_a_resume(tmp_path: Path) -> None:
    train(stub_config(tmp_path / "whole"))
    config = stub_config(tmp_path / "odd")

    def crash() -> None:
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        train(config, before_step=harm_at(7, crash))
    with (tmp_path / "odd" / "log.jsonl").open("ab") as file:
        file.write(b'{"event": "train"}\n{"event": "eval", "step": 5}\n\xff\n{"step": 6, "lo')
    train(config, resume=True)
    assert read_log(tmp_path / "odd") == read_log(tmp_path / "whole")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_log_that_is_no_file_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "log.jsonl")
    with pytest.raises(ElipError, match=r"log\.jsonl is not a file\. Move it out of the way"):
        JsonLines(tmp_path, start=0)


def test_a_run_that_fails_before_its_first_step_leaves_no_log(tmp_path: Path) -> None:
    def fail() -> None:
        raise DataError("nothing to read")

    with pytest.raises(DataError, match="nothing to read"):
        train(stub_config(tmp_path), before_step=harm_at(0, fail))
    assert not (tmp_path / "log.jsonl").exists()
    assert not (tmp_path / "tensorboard").exists()


def remove(folder: Path) -> None:
    """Remove a folder in one step, since another thread may be writing into it."""
    gone = folder.rename(folder.with_name(f"{folder.name}-gone"))
    shutil.rmtree(gone, ignore_errors=True)


def test_what_is_removed_during_a_run_is_there_again_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(stub_config(tmp_path / "whole"))
    folder = tmp_path / "harmed"

    def remove_files() -> None:
        (folder / "log.jsonl").unlink()
        remove(folder / "tensorboard")

    train(stub_config(folder), before_step=harm_at(7, remove_files))
    assert read_log(folder) == read_log(tmp_path / "whole")
    assert "harmed/log.jsonl was removed during the run: it is there again, with all its entries" in caplog.text
    assert "was removed during the run: there is a new one, without earlier sheets" in caplog.text
    harmed, whole = events_of(folder), events_of(tmp_path / "whole")
    for tag in ("train/loss", "train/grad_norm", "val/accuracy"):
        assert [(e.step, e.value) for e in harmed.Scalars(tag)] == [(e.step, e.value) for e in whole.Scalars(tag)]
    assert "_hparams_/session_start_info" in harmed.PluginTagToContent("hparams")


def test_an_output_folder_removed_during_a_run_is_there_again_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(stub_config(tmp_path / "whole"))
    folder = tmp_path / "deep" / "harmed"
    train(stub_config(folder), before_step=harm_at(7, lambda: remove(tmp_path / "deep")))
    assert read_log(folder) == read_log(tmp_path / "whole")
    assert [event.step for event in events_of(folder).Scalars("train/loss")] == [*range(1, 11)]
    assert (folder / "checkpoint-00000010.pt").is_file()
    assert f"{folder} was removed" in caplog.text


def test_a_log_that_is_replaced_during_a_run_goes_on_in_the_new_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.jsonl"

    def edit() -> None:
        (tmp_path / "copy").write_bytes(path.read_bytes())
        (tmp_path / "copy").replace(path)

    train(stub_config(tmp_path), before_step=harm_at(2, edit))
    assert [entry["step"] for entry in read_log(tmp_path) if entry["event"] == "train"] == [*range(1, 11)]
    assert "log.jsonl was replaced during the run" in caplog.text


def fail_to_write(*args: object, **options: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_good_error_is_told_where_the_log_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SummaryWriter, "close", fail_to_write)

    def fail() -> None:
        raise DataError("the reason")

    with pytest.raises(DataError, match="the reason"):
        train(stub_config(tmp_path), before_step=harm_at(3, fail))
    assert "tensorboard: No space left on device. Free some space there" in caplog.text


def test_a_log_that_cannot_be_closed_is_an_error_of_its_own_and_the_other_files_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[object] = []
    monkeypatch.setattr(Console, "close", lambda console: closed.append(console))
    monkeypatch.setattr(SummaryWriter, "close", fail_to_write)
    log = open_log(tmp_path)
    log.train(1, 0.1, REPORT, skipped=0)
    with pytest.raises(ElipError, match=r"cannot write .*tensorboard: No space left on device\. Free some space"), log:
        pass
    assert len(closed) == 1


def test_a_full_disk_stops_the_run_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path)
    log.train(1, 0.1, REPORT, skipped=0)
    monkeypatch.setattr("elip.engine.log_file.os.write", fail_to_write)
    with pytest.raises(ElipError, match=r"cannot write .*log\.jsonl: No space left on device"):
        log.train(2, 0.1, REPORT, skipped=0)
    monkeypatch.undo()
    log.close()


def test_the_thread_of_tensorboard_prints_no_traceback_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = open_log(tmp_path)
    log.train(1, 0.1, REPORT, skipped=0)
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", fail_to_write)
    with pytest.raises(ElipError, match=r"cannot write .*tensorboard: No space left on device"):
        log.evaluation(1, "val", {"accuracy": 1.0}, {})
    monkeypatch.undo()
    with pytest.raises(ElipError):
        log.close()
    assert capfd.readouterr().err == ""


def test_training_goes_on_when_its_terminal_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    log = open_log(tmp_path)
    monkeypatch.setattr(sys.stderr, "write", fail_to_write, raising=False)
    for step in range(1, 5):
        log.train(step, 0.1, REPORT, skipped=0)
    log.close()
    monkeypatch.undo()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_tensorboard_compares_settings_and_metrics_of_runs_with_different_reducers(tmp_path: Path) -> None:
    train(stub_config(tmp_path / "a", max_steps=5))
    train(stub_config(tmp_path / "a", max_steps=6), resume=True)
    reducer = ReducerConfig(name="random", begin=[1], keep_ratio=0.5)
    train(stub_config(tmp_path / "b", optim={"lr": 0.2}, max_steps=5).model_copy(update={"reducer": reducer}))

    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    events.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(events, str(tmp_path)), logdir=str(tmp_path)))
    statuses = [Status.STATUS_UNKNOWN, Status.STATUS_SUCCESS, Status.STATUS_FAILURE, Status.STATUS_RUNNING]
    request = ListSessionGroupsRequest(start_index=0, slice_size=9, allowed_statuses=statuses)
    groups = {group.name: group for group in Handler(RequestContext(), context, "", request).run().session_groups}
    assert groups.keys() == {"a/tensorboard", "b/tensorboard"}  # no runs below those
    shown = {name: group.hparams for name, group in groups.items()}
    assert [shown[name]["optim.lr"].number_value for name in sorted(shown)] == [0.1, 0.2]
    assert [shown[name]["reducer.name"].string_value for name in sorted(shown)] == ["none", "random"]
    assert shown["b/tensorboard"]["reducer.begin"].string_value == "[1]"
    finals = {value.name.tag: value for value in groups["a/tensorboard"].metric_values}
    last = [entry for entry in read_log(tmp_path / "a") if entry["event"] == "eval"][-1]
    assert finals["val/accuracy"].training_step == 6
    assert finals["val/accuracy"].value == pytest.approx(last["metrics"]["accuracy"])


def test_hyperparameters_are_plain_values_by_dotted_key() -> None:
    config = {"task": {"name": "ve"}, "lr": 1e-4, "flip": True, "begin": [1, 2], "steps": None, "deep": {"a": {"b": 3}}}
    assert hyperparameters(config) == {
        "task.name": "ve",
        "lr": 1e-4,
        "flip": "true",
        "begin": "[1, 2]",
        "deep.a.b": 3,
    }
    assert hyperparameters({"huge": 2**60, "inf": float("inf")}) == {"huge": str(2**60), "inf": "Infinity"}
