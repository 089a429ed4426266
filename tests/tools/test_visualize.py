"""tools/visualize.py: what it draws, and what it says to mistakes."""

from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import tiny_run
from tools import train, visualize


@pytest.fixture(scope="module")
def trained(digits: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps under ELIP."""
    folder = tmp_path_factory.mktemp("drawn")
    assert train.main([str(config), *tiny_run(digits, folder), "train.max_steps=2", "data.val=[]"]) == 0
    return folder / "run"


def pair(digits: Path, number: int, text: str) -> list[str]:
    return ["--pair", str(digits / f"images/test/{number:06d}.jpg"), text]


def drawn(path: Path) -> tuple[int, int]:
    picture = Image.open(path)
    assert len(set(picture.convert("L").tobytes())) > 10
    return picture.size


def test_each_pair_takes_a_row_and_each_stage_a_tile(trained: Path, digits: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    pairs = [pair(digits, 0, "a red seven"), pair(digits, 1, "a blue two in the middle")]
    assert visualize.main([str(trained), *pairs[0], "--out", str(one)]) == 0
    assert visualize.main([str(trained), *pairs[0], *pairs[1], "--out", str(two)]) == 0
    assert drawn(one)[0] == drawn(two)[0]
    assert drawn(one)[1] < drawn(two)[1]


def test_heat_is_drawn_without_reduction_too(trained: Path, digits: Path, tmp_path: Path) -> None:
    reduced, whole = tmp_path / "reduced.png", tmp_path / "whole.png"
    heat = [*pair(digits, 0, "a red seven"), "--heat", "1"]
    assert visualize.main([str(trained), *heat, "--out", str(reduced)]) == 0
    assert visualize.main([str(trained), *heat, "eval.reducer={name: none}", "--out", str(whole)]) == 0
    assert drawn(reduced)[0] > drawn(whole)[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--heat", "0"], "--heat: fusion layers are 1 to 1, got 0."),
        (["eval.reducer={name: none}"], "reducer 'none' drops no patch here"),
        (["--pair", "nowhere.jpg", "a seven"], "--pair 2: field 'IMAGE': "),
        (["--pair", "nowhere.jpg", " "], "--pair 2: field 'TEXT' is empty after cleaning"),
        (["--out", "nowhere/kept.png"], "nowhere"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    args: list[str], message: str, trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(trained), *pair(digits, 0, "a red seven"), "--out", str(tmp_path / "kept.png"), *args]
    assert visualize.main(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
