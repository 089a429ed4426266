"""tools/benchmark.py: tables and files of ratios, and mistakes in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elip import execution
from elip.config import load_config
from elip.efficiency.resources import saved_bytes
from elip.efficiency.task_cost import BATCH_SIZE, full_force, task_cost
from elip.registry import TASKS
from elip.undisturbed import undisturbed
from tests.conftest import PROJECT
from tests.tasks.small import small_task, without_reducer
from tools.benchmark import main

SMALL = ["--vit", "vit_tiny_patch16_224", "--image-size", "64", "--batch", "2", "--rounds", "2", "--device", "cpu"]


@pytest.mark.parametrize("mode", [[], ["--train"]])
def test_ratios_of_time_stand_beside_ratios_of_cost(mode: list[str], tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    params = "{name: evit, keep_ratio: 0.5}"
    assert main([*SMALL, *mode, "--reducer", params, "--reducer", "elip", "--json", str(file)]) == 0
    none, evit, elip = json.loads(file.read_text())
    assert (none["reducer"], none["time_ratio"], none["macs_ratio"]) == ("none", 1.0, 1.0)
    assert evit["reducer"] == "evit keep_ratio=0.5"
    assert evit["macs_ratio"] < 1 < elip["macs_ratio"] + 0.5
    least, most = evit["time_ratio_range"]
    assert 0 < least <= evit["time_ratio"] <= most
    assert "torch" in evit["machine"]


def test_training_is_set_beside_the_cost_of_forward_and_backward(tmp_path: Path) -> None:
    # ELIP's look-ahead is in the forward pass, and has no backward pass
    ratios = []
    for mode in ([], ["--train"]):
        file = tmp_path / "times.json"
        assert main([*SMALL, *mode, "--reducer", "elip", "--rounds", "1", "--json", str(file)]) == 0
        ratios.append(json.loads(file.read_text())[1]["macs_ratio"])
    assert ratios[1] < ratios[0] - 0.1


def test_the_table_names_machine_and_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--reducer", "random"]) == 0
    title, header, none, random = capsys.readouterr().out.splitlines()
    assert "Time of forward, batch 2, median of 2 rounds" in title
    assert header.endswith("MACs ratio of forward")
    assert header.split("  ")[0] == "reducer"
    assert (none.split()[0], random.split()[0]) == ("none", "random")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--reducer", "evitt"], "Did you mean 'evit'"),
        (["--reducer", "evit", "--rounds", "0"], "--rounds: expected a number above 0, got 0"),
    ],
)
def test_a_mistake_is_told_in_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *args]) == 2
    assert message in capsys.readouterr().err


Figures = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def figures(config: Path, tiny: list[str], tmp_path: Path) -> Figures:
    """Gives the figures of the small config under options."""

    def run(*options: str) -> list[dict[str, Any]]:
        file = tmp_path / "figures.json"
        assert main(["--config", str(config), *tiny, "--rounds", "2", "--json", str(file), *options]) == 0
        return json.loads(file.read_text())

    return run


def test_columns_stand_beside_the_config_in_the_order_of_the_command_line(
    figures: Figures, config: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"base: {config}\ntrain: {{clip_grad_norm: 1.0}}\n")
    found = figures("--with", "reducer.name=none train.accumulate=2", "--against", str(other), "--reducer", "elip")
    assert [one["name"] for one in found][:3] == [str(config), "reducer.name=none train.accumulate=2", str(other)]
    assert found[3]["name"].startswith("elip begin=[1, 2]")
    assert [one["items"] for one in found] == [8, 16, 8, 8]
    assert [one["macs_ratio"] for one in found] == [1.0, pytest.approx(found[1]["macs_ratio"]), 1.0, 1.0]
    assert found[1]["macs_ratio"] > 1.05
    for one in found:
        least, most = one["time_ratio_range"]
        assert 0 < least <= one["time_ratio"] <= most
        assert one["milliseconds_per_image"] == pytest.approx(one["milliseconds"] / one["items"])
        assert "torch" in one["machine"]
    assert found[0]["time_ratio_range"] == [1.0, 1.0]


def test_ratios_are_those_of_the_time_of_an_image(figures: Figures) -> None:
    first, second = figures("--batch", "8", "--with", "train.batch_size=4", "--rounds", "1")
    assert (first["batch_size"], second["batch_size"]) == (8, 4)
    assert second["time_ratio"] == pytest.approx(second["milliseconds_per_image"] / first["milliseconds_per_image"])


def test_saved_bytes_are_those_of_the_same_step_per_image_and_as_a_ratio(figures: Figures, tiny: list[str]) -> None:
    size = f"train.batch_size={BATCH_SIZE}"
    with_reducer, without = figures("--memory", size, "--with", "reducer.name=none")
    for found, overrides in ((with_reducer, tiny), (without, [*without_reducer(tiny), "reducer.name=none"])):
        assert found["saved_bytes_per_image"] == task_cost(small_task("pretrain", [*overrides, size])).saved_bytes
        assert found["saved_bytes"] == BATCH_SIZE * found["saved_bytes_per_image"]
        assert found["peak_cuda_bytes"] is None
    assert without["saved_bytes_ratio"] == pytest.approx(without["saved_bytes"] / with_reducer["saved_bytes"])


def test_arithmetic_and_device_hold_for_all_columns(figures: Figures, tiny: list[str]) -> None:
    first, second = figures("--memory", "--amp", "bf16", "--device", "cpu", "--with", "train.precision=fp32")
    task = TASKS.build("pretrain", load_config(PROJECT / "configs/demo/pretrain.yaml", tiny))
    batch = task.example_batch(8)
    with undisturbed(task, training=True):
        full = saved_bytes(lambda: task.total_loss(task.training_step(batch, full_force(task)).losses), task)
    assert second["saved_bytes"] == full > first["saved_bytes"]


def test_loading_is_told_in_images_a_second_of_a_core(figures: Figures) -> None:
    first, second = figures("--loader", "--batch", "3", "--with", "data.randaugment=true data.flip=true")
    assert first["images_per_core_second"] == pytest.approx(1e3 / first["milliseconds_per_image"])
    assert first["time_ratio"] == 1.0
    assert second["time_ratio"] > 0


def test_reranking_is_told_in_milliseconds_a_pair(figures: Figures, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = figures("--evaluate", "--with", "task.k_test=6", "--rounds", "1")
    assert (first["pairs"], second["pairs"]) == (2 * 4, 2 * 6)  # `tiny` has task.k_test=4
    for one in (first, second):
        assert one["milliseconds_per_pair"] == pytest.approx(one["milliseconds"] / one["pairs"])
    assert second["time_ratio"] == pytest.approx(second["milliseconds_per_pair"] / first["milliseconds_per_pair"])
    title, header, *_ = capsys.readouterr().out.splitlines()
    assert title.startswith("Re-ranking, ratios a pair, median of 1 rounds; ")
    assert re.sub(" {2,}", "|", header) == "run|pairs|ms a pair|time ratio|of all rounds"
    (batch,) = figures("--evaluate", "--batch", "3", "--amp", "bf16", "--rounds", "1")
    assert batch["pairs"] == 2 * 3


def test_the_table_of_a_config_names_batch_machine_and_units(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rounds", "1", "--memory", "--threads", "1"]
    assert main(["--config", str(config), *tiny, *options]) == 0
    title, header, row = capsys.readouterr().out.splitlines()
    assert title.startswith("Training step, batch 8, ratios an image, median of 1 rounds; ")
    assert "1 threads" in title
    assert re.sub(" {2,}", "|", header) == (
        "run|ms a step|ms an image|time ratio|of all rounds|MACs ratio|saved, MB|MB an image|ratio"
    )
    assert row.startswith(str(config))


def test_threads_are_those_asked_for_and_afterwards_as_before(
    figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    before = torch.get_num_threads()
    figures("--threads", "3", "--rounds", "1")
    figures("--loader", "--rounds", "1", "--batch", "1")
    assert asked == [3, before, 1, before]


def test_the_time_of_compiling_is_told_apart(
    config: Path,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, compiled_functions = tmp_path / "figures.json", []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled_functions.append(function) or function)
    monkeypatch.setattr(execution, "_compiled", execution._compiled.__wrapped__)  # what it remembers is for other tests
    options = ["--rounds", "1", "--with", "train.compile=true", "--json", str(file)]
    assert main(["--config", str(config), *tiny, *options]) == 0
    assert compiled_functions
    plain, compiled = json.loads(file.read_text())
    assert "compile_seconds" not in plain
    assert compiled["compile_seconds"] >= 0
    _, header, *rows = capsys.readouterr().out.splitlines()
    assert header.endswith("compiling, s")
    assert [row.split()[-1] for row in rows] == ["-", f"{compiled['compile_seconds']:.1f}"]


CONFIG_MODE = ["--config", "configs/demo/pretrain.yaml"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--vit", "vit_tiny_patch16_224"], "--vit: name the reducers to time, e.g. --reducer evit"),
        ([*SMALL, "--reducer", "evit", "train.seed=1"], "'train.seed=1': key=value changes a config"),
        ([*SMALL, "--reducer", "evit", "--loader"], "--loader goes with --config"),
        ([*SMALL, "--reducer", "evit", "--memory"], "--memory does not go with --vit, but with --config"),
        ([*SMALL, "--reducer", "evit", "--with", "a=1"], "--with does not go with --vit"),
        ([*CONFIG_MODE, "--image-size", "64"], "--image-size does not go with --config, but with --vit"),
        ([*CONFIG_MODE, "--train"], "--train does not go with --config, but with --vit"),
        ([*CONFIG_MODE, "--threads", "0"], "--threads: expected a number above 0, got 0"),
        (
            [*CONFIG_MODE, "--loader", "--compile"],
            "--compile does not go with --config with --loader, but with --config",
        ),
        ([*CONFIG_MODE, "--loader", "--threads", "2"], "--threads does not go with --config with --loader"),
        ([*CONFIG_MODE, "--loader", "data.train=[]"], "data.train: name at least one file"),
        ([*CONFIG_MODE, "--loader", "--evaluate"], "--loader and --evaluate are two things to time"),
        ([*CONFIG_MODE, "--evaluate", "--compile"], "--compile does not go with --config with --evaluate"),
        ([*CONFIG_MODE, "--evaluate", "--memory", "train.device=cpu"], "--memory: re-ranking saves nothing"),
        (["--config", "configs/demo/ve.yaml", "--evaluate"], "task.name: ve has no re-ranking to time"),
        ([*CONFIG_MODE, "--with", "none"], "--with 'none': expected KEY=VALUE"),
        ([*CONFIG_MODE, "--with", "a='b"], "--with a='b: No closing quotation"),
        ([*CONFIG_MODE, "--with", "reducer.nam=none"], "reducer.nam"),
        ([*CONFIG_MODE, "--against", "nowhere.yaml"], "nowhere.yaml"),
        ([*CONFIG_MODE, "train.device=cpu", "--with", "train.device=meta"], "train.device: cpu and meta"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CONFIG_MODE, "--device", "cuda"]) == 2
    assert "--device: there is no CUDA device here; take cpu" in capsys.readouterr().err
