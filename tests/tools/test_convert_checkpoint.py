"""tools/convert_checkpoint.py: there and back without loss, and weights of any form as a start or to evaluate."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from elip.weights.files import read_weights
from tests.conftest import PROJECT, tiny_run
from tests.tasks.small import small_run
from tools import convert_checkpoint, evaluate, train

from .conftest import Command

PUBLISHED = sorted((PROJECT / "tests/golden/albef").glob("*_weights.safetensors"))


@pytest.fixture(scope="module")
def trained(digits: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of pre-training."""
    folder = tmp_path_factory.mktemp("trained")
    assert train.main([str(config), *tiny_run(digits, folder), "train.epochs=1"]) == 0
    return folder / "run"


def assert_equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
        assert state[name].dtype == tensor.dtype, name


def convert(*arguments: object) -> None:
    assert convert_checkpoint.main([str(one) for one in arguments]) == 0


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_published_checkpoint_goes_there_and_back(path: Path, suffix: str, tmp_path: Path) -> None:
    convert(path, tmp_path / f"ours{suffix}", "--to", "elip")
    convert(tmp_path / f"ours{suffix}", tmp_path / "back.safetensors", "--to", "albef")
    assert_equal(load_file(tmp_path / "back.safetensors"), load_file(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_run_goes_there_and_back_and_is_evaluated_alike(suffix: str, trained: Path, tmp_path: Path) -> None:
    convert(trained, tmp_path / f"theirs{suffix}", "--to", "albef")
    convert(tmp_path / f"theirs{suffix}", tmp_path / "back.pt", "--to", "elip")
    assert_equal(read_weights(tmp_path / "back.pt").state, torch.load(trained / "best.pt", weights_only=True)["model"])
    for path, out in ((trained, "run"), (tmp_path / f"theirs{suffix}", "theirs"), (tmp_path / "back.pt", "back")):
        assert evaluate.main([str(path), "--split", "val", "--out", str(tmp_path / out)]) == 0
    figures = [(tmp_path / out / "metrics.json").read_text() for out in ("run", "theirs", "back")]
    assert len(set(figures)) == 1


def test_what_is_no_weight_is_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    convert(trained, tmp_path / "theirs.pth", "--to", "albef")
    said = capsys.readouterr().out
    assert "task pretrain" in said
    assert "left out, as they are no weights: optimizer" in said


def test_a_task_doubles_the_fusion_layers(tmp_path: Path) -> None:
    pretrained = next(path for path in PUBLISHED if path.stem == "pretrain_weights")
    convert(pretrained, tmp_path / "nlvr.safetensors", "--to", "albef", "--task", "nlvr")
    names = load_file(tmp_path / "nlvr.safetensors")
    assert "text_encoder.bert.encoder.layer.17.crossattention.self.key.weight" in names
    assert "text_encoder.bert.encoder.layer.18.crossattention.self.key.weight" not in names


def test_an_output_layer_of_its_own_is_refused_as_it_would_be_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state = load_file(next(path for path in PUBLISHED if path.stem == "pretrain_weights"))
    state["text_encoder.cls.predictions.decoder.weight"] = state["text_encoder.cls.predictions.decoder.weight"] + 1
    save_file(state, tmp_path / "untied.safetensors")
    assert (
        convert_checkpoint.main([str(tmp_path / "untied.safetensors"), str(tmp_path / "out.pth"), "--to", "elip"]) == 2
    )
    assert "decoder.weight should repeat other weights" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_mistakes_are_told_in_one_line(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments, message in (
        (["missing.pth", "out.pth"], "there is no checkpoint missing.pth"),
        ([str(trained), str(tmp_path / "out.pth"), "--task", "vee"], "Did you mean 've'?"),
        ([str(trained), "/dev/null/out.pth"], "cannot write /dev/null/out.pth"),
    ):
        assert convert_checkpoint.main([*arguments, "--to", "albef"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["ve", "nlvr", "vqa"])
def test_a_run_of_pretraining_is_the_start_of_another_task(
    name: str, trained: Path, digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    overrides = small_run(name, digits, tiny_run(digits, tmp_path))
    config = PROJECT / f"configs/demo/{name}.yaml"
    assert train.main([str(config), *overrides, "train.max_steps=1", "--init", str(trained)]) == 0
    assert f"weights from {trained / 'best.pt'} (task pretrain, step 3)" in caplog.text
    assert "newly initialised" in caplog.text or name == "vqa"
    saved = (tmp_path / "run/config.yaml").read_text()
    assert f"init: {trained}" in saved


def test_a_start_is_not_read_again_where_a_run_goes_on(
    trained: Path, config: Path, tiny: list[str], tmp_path: Path
) -> None:
    weights = tmp_path / "start.pth"
    convert(trained, weights, "--to", "albef")
    arguments = [str(config), *tiny, "train.epochs=1", "--init", str(weights)]
    assert train.main([*arguments, "train.max_steps=1"]) == 0
    weights.unlink()
    assert train.main([*arguments, "--resume"]) == 0


def test_a_file_of_weights_only_is_nothing_to_go_on_with(
    trained: Path, config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    convert(trained, tmp_path / "weights.pt", "--to", "elip")
    assert train.main([str(config), *tiny, "--resume", str(tmp_path / "weights.pt")]) == 2
    assert "holds weights only" in capsys.readouterr().err


def test_weights_without_a_run_are_evaluated_under_a_config(
    trained: Path, config: Path, tiny: list[str], tmp_path: Path
) -> None:
    state = {name: t for name, t in read_weights(trained).state.items() if "momentum" not in name}
    save_file(state, tmp_path / "bare.safetensors")
    shared = ["--split", "val", "--out"]
    assert evaluate.main([str(trained), *shared, str(tmp_path / "a")]) == 0
    assert (
        evaluate.main(
            [str(tmp_path / "bare.safetensors"), "--config", str(config), *tiny, *shared, str(tmp_path / "b")]
        )
        == 0
    )
    figures = [json.loads((tmp_path / out / "metrics.json").read_text()) for out in "ab"]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_the_command_says_what_it_read_and_wrote(trained: Path, tmp_path: Path, command: Command) -> None:
    done = command("convert_checkpoint", trained, tmp_path / "theirs.pth", "--to", "albef")
    assert done.returncode == 0, done.stderr
    assert str(trained / "best.pt") in done.stdout
    assert str(tmp_path / "theirs.pth") in done.stdout
