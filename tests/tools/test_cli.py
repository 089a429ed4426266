"""What all commands do with mistakes: one line for the user's, a traceback for ours."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from elip.errors import DataError, ElipError
from tools import train
from tools.cli import user_errors


def failing(error: Exception) -> Callable[[], int]:
    @user_errors
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize("error", [ElipError("what to do"), DataError("what to do")])
def test_a_mistake_of_the_users_is_one_line_and_code_2(error: ElipError, capsys: pytest.CaptureFixture) -> None:
    assert failing(error)() == 2
    assert capsys.readouterr() == ("", "error: what to do\n")


@pytest.mark.parametrize("error", [ValueError("bug"), OSError("bug"), KeyError("bug")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="bug"):
        failing(error)()


def test_success_and_other_codes_pass_through() -> None:
    assert [user_errors(lambda code: code)(code) for code in (0, 3)] == [0, 3]  # type: ignore[arg-type]


def without_first_picture(digits: Path, folder: Path, split: str) -> str:
    """Return the override for a copy of the pictures from which the first of a split is gone."""
    shutil.copytree(digits / "images", folder / "images")
    (folder / "images" / json.loads((digits / f"retrieval_{split}.json").read_text())[0]["image"]).unlink()
    return f"data.image_root={folder}/images"


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("split", "file"), [("train", "pretrain_train"), ("val", "retrieval_val")])
def test_broken_data_is_told_in_one_line_whichever_process_reads_it(
    num_workers: int,
    split: str,
    file: str,
    digits: Path,
    config: Path,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    overrides = [without_first_picture(digits, tmp_path, split), f"data.num_workers={num_workers}"]
    assert train.main([str(config), *tiny, *overrides, "train.epochs=1"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "rror" in line]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {digits}/{file}.json item 0: field 'image': {tmp_path}/images/{split}/")
