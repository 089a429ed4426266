import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tools.make_demo_data import main

ROOT = Path(__file__).parents[2]
SMALL = ["--train", "2", "--val", "2", "--test", "2"]


def run(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "make_demo_data.py"), *args]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def test_it_makes_the_set_and_says_so(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "set"), *SMALL, "--image-size", "32", "--seed", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'set'}: 6 pictures made\n"
    assert len(list((tmp_path / "set" / "images").rglob("*.jpg"))) == 6


def test_the_example_of_the_help_works_as_typed(tmp_path: Path) -> None:
    last = run("--help").stdout.splitlines()[-1]
    example = re.fullmatch(r"  python tools/make_demo_data\.py (.+)", last)
    assert example, last
    done = run(*shlex.split(example[1]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "digitscenes" / "meta.json").exists()


def test_a_second_run_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--out", str(tmp_path / "set"), *SMALL]
    assert main(args) == 0
    written = (tmp_path / "set" / "meta.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(args) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'set'}: already there\n"
    assert (tmp_path / "set" / "meta.json").stat().st_mtime_ns == written


def test_other_settings_need_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--out", str(tmp_path / "set"), *SMALL]
    assert main(args) == 0
    assert main([*args, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "seed: 0 there, 1 asked for" in error
    assert main([*args, "--seed", "1", "--force"]) == 0


def test_clutter_is_asked_for_by_its_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--out", str(tmp_path / "set"), *SMALL, "--image-size", "96"]
    assert main([*args, "--clutter", "1"]) == 0
    assert '"clutter": 1' in (tmp_path / "set" / "meta.json").read_text()
    assert main([*args, "--clutter", "2"]) == 2
    assert "clutter: 1 there, 2 asked for" in capsys.readouterr().err
    assert main([*args, "--clutter", "3", "--force"]) == 2
    assert capsys.readouterr().err == "error: DigitScenes: clutter must be between 0 and 2, got 3\n"


def test_a_mistake_is_one_line_and_code_2(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "set"), "--train", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: DigitScenes: num_train must be between 2 and 1000000, got 0\n"


def test_a_place_that_cannot_be_written_is_one_line_and_code_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("--out", str(tmp_path / "file" / "set"), *SMALL)
    assert done.returncode == 2
    assert re.fullmatch(r"error: cannot use .*file/set.*: Not a directory\n", done.stderr)


def test_an_unknown_option_is_code_2() -> None:
    done = run("--out", "x", "--trian", "3")
    assert done.returncode == 2
    assert "--trian" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file without space")
def test_a_full_disk_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set").mkdir()
    assert main(["--out", str(tmp_path / "set"), *SMALL]) == 0
    (tmp_path / "set" / "ve_val.json").unlink()
    (tmp_path / "set" / "ve_val.json").symlink_to("/dev/full")
    capsys.readouterr()
    assert main(["--out", str(tmp_path / "set"), *SMALL, "--force"]) == 2
    assert re.fullmatch(r"error: cannot use .*: No space left on device\n", capsys.readouterr().err)
