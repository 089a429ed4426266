"""The documents' examples run as they are printed."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import PROJECT


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PROJECT / "docs" / document).read_text(encoding="utf-8"), re.S)


def readme_commands(tool: str = r"\w+") -> list[list[str]]:
    """Return the words of each command of the README that calls a tool, from the tool's name on."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M)
    lines = "\n".join(block for language, block in fenced if not language).replace("\\\n", " ").splitlines()
    found = (re.search(rf"tools/({tool})\.py.*", line) for line in lines if line.startswith((".venv", "torchrun")))
    return [
        shlex.split(match[0].replace("tools/", "").replace(".py", "", 1), comments=True) for match in found if match
    ]


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_options_of_the_readmes_commands_exist(words: list[str]) -> None:
    tool, *arguments = words
    importlib.import_module(f"tools.{tool}").parse_args(arguments)


def test_what_the_readme_and_the_documents_point_to_is_there() -> None:
    for document in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        text = document.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#:]+)\)", text)
        named = re.findall(r"\b((?:configs|docs)/[\w/]+\.\w+)", text)
        for path in [*(document.parent / link for link in links), *(PROJECT / name for name in named)]:
            assert path.exists(), f"{document.name}: {path}"


@pytest.mark.slow
def test_own_pictures_are_trained_on_offline_as_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    (tmp_path / "images").mkdir()
    for split, start in (("train", 0), ("val", 16)):
        items = []
        for number in range(start, start + 16):
            colour = (number * 8, 255 - number * 8, number * 5)
            Image.new("RGB", (40 + number, 50), colour).save(tmp_path / f"images/{number}.png")
            items.append({"image": f"{number}.png", "caption": [f"picture number {number}", f"a {number} of paint"]})
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (making,) = readme_commands("make_vocab")
    training = next(words for words in readme_commands("train") if words[1] == "configs/small.yaml")
    evaluation = next(words for words in readme_commands("evaluate") if words[1] == "runs/mine")
    tiny = ["train.max_steps=6", "train.batch_size=8", "train.log_every=1", "data.num_workers=0"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "ELIP_CACHE": str(tmp_path / "cache")}
    for tool, *arguments in (making, [*training, *tiny], evaluation):
        done = subprocess.run(
            [sys.executable, str(PROJECT / f"tools/{tool}.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, **offline, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "runs/mine/log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if entry["event"] == "train"]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    about = json.loads((tmp_path / "runs/mine/eval/val/about.json").read_text())
    assert (about["checkpoint"], about["reducer"]) == ("best.pt", "none")


@pytest.mark.slow
def test_the_task_of_the_example_trains_evaluates_and_is_costed(digits: Path, tiny: list[str], tmp_path: Path) -> None:
    task, maker, check = blocks("adding_a_task.md", "python")
    (config,) = blocks("adding_a_task.md", "yaml")
    (tmp_path / "matching.py").write_text(task)
    (tmp_path / "matching.yaml").write_text(config)
    (tmp_path / "make_matching.py").write_text(maker)
    (tmp_path / "check_matching.py").write_text(check)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/digitscenes").symlink_to(digits)
    (tmp_path / "configs").symlink_to(PROJECT / "configs")

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    own = ("data.train", "data.val", "data.test", "task.", "output_dir")
    smaller = [override for override in tiny if not override.startswith(own)]
    run("make_matching.py", str(digits))
    run("check_matching.py")
    run(str(PROJECT / "tools/train.py"), "matching.yaml", *smaller)
    assert "accuracy" in run(str(PROJECT / "tools/evaluate.py"), "runs/matching", "--plugins", "matching.py")
    metrics = json.loads((tmp_path / "runs/matching/eval/val/metrics.json").read_text())
    assert 0 <= metrics["accuracy"] <= 100
    log = [json.loads(line) for line in (tmp_path / "runs/matching/log.jsonl").read_text().splitlines()]
    losses = [entry["loss_cls"] for entry in log if entry["event"] == "train"]
    assert len(losses) == 30  # two epochs of 24 pictures with 5 captions each, 8 a batch
    assert "elip" in run(str(PROJECT / "tools/flops.py"), "--config", "matching.yaml", *smaller)
