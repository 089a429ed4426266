"""tools/scaling.py: the page, the picture, the figures, and mistakes in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from elip.efficiency.task_cost import BATCH_SIZE, task_cost
from tests.tasks.small import small_task
from tools.scaling import main

SIZES = ["--batch", "1", "2", "4", "--image", "32", "48", "--tokens", "0", "0.5", "1", "--text", "10", "20"]
QUICK = [*SIZES, "--queue", "40", "400", "--no-times"]


def test_the_page_names_its_command_laws_and_what_fits(
    config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    out, plot, figures = tmp_path / "docs/costs.md", tmp_path / "docs/costs.png", tmp_path / "figures.json"
    size = f"train.batch_size={BATCH_SIZE}"
    command = ["--config", str(config), *tiny, size, *QUICK, "--image", "32"]
    files = ["--out", str(out), "--plot", str(plot), "--json", str(figures)]
    assert main([*command, *files]) == 0
    assert capsys.readouterr().out == ""
    text = out.read_text()
    assert "`python tools/scaling.py --config" in text
    assert "![Bytes and multiply-adds of a step along each size](costs.png)" in text
    assert "Not taken by this config: batch 1: train.batch_size: pretrain needs at least 2 pairs" in text
    assert "## Time" not in text
    with Image.open(plot) as picture:
        assert picture.size[0] > 600
    found = json.loads(figures.read_text())
    assert list(found["axes"]) == ["batch", "image size", "tokens kept", "text length", "queue"]
    saved = task_cost(small_task("pretrain", [*tiny, size])).saved_bytes
    assert found["axes"]["batch"]["points"][0]["saved_bytes"] == BATCH_SIZE * saved
    law = found["axes"]["batch"]["laws"]["saved MB"]
    assert f"| {law['per_unit']:.4g} x" in text or f"+ {law['per_unit']:.4g} x" in text
    _every_batch_fits(found, text)


def _every_batch_fits(found: dict[str, Any], text: str) -> None:
    """Check the table of batches against the formula beside it."""
    rows = {
        row.split(" | ")[0]: row.split(" | ")[1:] for row in re.findall(r"^\| (\d+ px, .*) \|$", text, re.MULTILINE)
    }
    assert [*rows] == ["32 px, elip, fp32", "32 px, none, fp32", "32 px, elip, bf16"]
    for one in found["trainings"]:
        cells = rows[f"{one['image_size']} px, {one['reducer']}, {one['precision']}"]
        for card, batch in zip((24, 80), cells, strict=False):
            fit = one["fits"]["none"]
            taken = sum(fit["held"].values()) + fit["fixed"] + fit["per_item"] * int(batch)
            assert 0.9 * card * 2**30 - fit["per_item"] <= taken <= 0.9 * card * 2**30
    assert found["held"] == found["trainings"][0]["fits"]["none"]["held"]


def test_times_are_of_small_batches_and_of_the_first_value_of_each_size(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = tmp_path / "figures.json"
    sizes = [*SIZES, "--image", "32", "--queue", "40", "80", "--rounds", "1", "--threads", "1"]
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    before = torch.get_num_threads()
    assert main(["--config", str(config), *tiny, "train.batch_size=2", *sizes, "--json", str(figures)]) == 0
    assert asked == [1, before]
    captured = capsys.readouterr()
    times = json.loads(figures.read_text())["times"]
    assert [(one["axis"], one["value"], one["items"]) for one in times] == [
        *(("batch", size, size) for size in (2, 3, 4)),
        ("image size", 32, 2),
        ("tokens kept", 0, 2),
        ("text length", 10, 2),
        ("queue", 40, 2),
    ]
    assert [one["macs_ratio"] for one in times[:3]] == [1, 1.5, 2]
    assert times[4]["macs_ratio"] > 1
    assert all(one["range"][0] <= one["ratio"] <= one["range"][1] for one in times)
    title = re.search(r"Time of a whole step, median of 1 rounds; (.*)\*\*", captured.out)
    assert title is not None
    assert "torch" in title[1]
    assert "Seconds of a step on this machine: " in captured.out
    assert "timing tokens kept 0 ..." in captured.err


def test_a_config_without_some_sizes_goes_along_the_others(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--config", str(config), *(one for one in tiny if not one.startswith("reducer.")), "reducer.name=none"]
    assert main([*args, *QUICK, "--image", "32", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["axes"]) == ["batch", "image size", "text length", "queue"]
    assert {one["reducer"] for one in found["trainings"]} == {"none"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds: expected a number above 0, got 0"),
        (["--threads", "-1"], "--threads: expected a number above 0, got -1"),
        (["--plot", "costs.jpeg"], "the name must end in .png"),
        (["--json", "-", "--out", "-"], "only one of --json and --out"),
        (["train.batch_sise=2"], "batch_sise"),
        (["--batch", "1", "--image", "33", "--tokens", "1", "--text", "9", "--queue", "40"], "nothing to fit"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str], message: str, config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), *tiny, *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *told, error = captured.err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert all(line.endswith(" ...") for line in told)
