"""tools/benchmark.py: a table and a file of ratios, and mistakes in one line."""

import json
from pathlib import Path

import pytest

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
