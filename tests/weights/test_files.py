"""Files of weights in every form: read alike, written whole, and clear about what is wrong with them."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from elip.errors import CheckpointError
from elip.weights.files import Form, read_weights, write_weights

WORDS, POSITIONS = torch.rand(5, 2), torch.rand(3, 2)
OURS = {
    "model.albef.text_encoder.embeddings.word_embeddings.weight": WORDS,
    "model.albef.text_encoder.embeddings.position_embeddings.weight": POSITIONS,
    "model.mlm_head.bias": torch.rand(5),
    "model.albef.reducer.score.weight": torch.rand(2),
}
RUN = {"config": {"task": {"name": "pretrain"}}, "step": 7, "epoch": 2}


def assert_equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("form", ["elip", "albef"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_weights_and_their_run_come_back_from_every_form(form: Form, name: str, tmp_path: Path) -> None:
    count = write_weights(tmp_path / name, OURS, form, RUN)
    read = read_weights(tmp_path / name)
    assert read.form == form
    assert_equal(read.state, OURS)
    assert read.run == RUN
    assert len(read.derived) == (3 if form == "albef" else 0)
    assert count == len(OURS) + len(read.derived)


@pytest.mark.parametrize("bare", [True, False])
def test_a_published_file_is_read_with_its_weights_under_model_or_by_themselves(bare: bool, tmp_path: Path) -> None:
    state = {"temp": torch.tensor(0.07), "itm_head.bias": torch.zeros(2)}
    torch.save(state if bare else {"model": state, "epoch": 29, "optimizer": {}}, tmp_path / "ALBEF.pth")
    read = read_weights(tmp_path / "ALBEF.pth")
    assert_equal(read.state, {f"model.{name}": tensor for name, tensor in state.items()})
    assert read.left_out == (() if bare else ("epoch", "optimizer"))
    assert read.run == {}


def test_wrappings_are_undone_and_said_whosever_names_the_file_has(tmp_path: Path) -> None:
    theirs = {"visual_encoder.norm.weight": torch.ones(2), "temp": torch.tensor(0.07)}
    renamed = {"model.albef.visual_encoder.norm.weight": torch.ones(2), "model.temp": torch.tensor(0.07)}
    for inner, expected in ((OURS, OURS), (theirs, renamed)):
        prefix = "_orig_mod.module." if inner is OURS else "module.model."
        torch.save({"state_dict": {prefix + n: t for n, t in inner.items()}}, tmp_path / "wrapped.pth")
        read = read_weights(tmp_path / "wrapped.pth")
        assert_equal(read.state, expected)
        assert "undone: key 'state_dict'" in read.describe()
        assert "undone: 'module.' before all names" in read.describe()


@pytest.mark.parametrize(
    "wrapping", ["", "module.", "model.module.", "_orig_mod.module.model.module.", "_forward_module."]
)
def test_the_model_of_a_task_alone_is_taken_for_ours_however_it_is_wrapped(wrapping: str, tmp_path: Path) -> None:
    inner = {name.removeprefix("model."): tensor for name, tensor in OURS.items()}
    torch.save({f"{wrapping}{name}": tensor for name, tensor in inner.items()}, tmp_path / "model.pt")
    read = read_weights(tmp_path / "model.pt")
    assert read.form == "elip"
    assert_equal(read.state, OURS)
    assert "undone: no 'model.' before names" in read.describe()


def test_a_run_of_another_toolkit_with_a_config_and_a_step_does_not_pass_for_ours(tmp_path: Path) -> None:
    state = {"visual_encoder.norm.weight": torch.ones(2)}
    torch.save({"model": state, "config": {"lr": 1}, "step": 3, "epoch": 1}, tmp_path / "other.pth")
    read = read_weights(tmp_path / "other.pth")
    assert (read.form, read.run, list(read.state)) == ("albef", {}, ["model.albef.visual_encoder.norm.weight"])
    assert "names of ALBEF" in read.describe()


def test_damage_to_safetensors_of_ours_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(path, OURS, "elip", RUN)
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{path} is damaged: its tensors or metadata are not those of its"):
        read_weights(path)


def test_metadata_of_others_under_our_key_are_told(tmp_path: Path) -> None:
    save_file({"temp": torch.ones(1)}, tmp_path / "x.safetensors", {"elip": "{"})
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged: its metadata"):
        read_weights(tmp_path / "x.safetensors")


def test_a_safetensors_file_of_others_is_read(tmp_path: Path) -> None:
    save_file({"temp": torch.tensor(0.07)}, tmp_path / "albef.safetensors")
    assert list(read_weights(tmp_path / "albef.safetensors").state) == ["model.temp"]


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    shared = torch.rand(4)
    write_weights(tmp_path / "a.safetensors", {"model.a": shared, "model.b": shared, "model.c": shared[1:]}, "elip", {})
    assert_equal(load_file(tmp_path / "a.safetensors"), {"model.a": shared, "model.b": shared, "model.c": shared[1:]})


def test_a_file_with_python_objects_is_refused_with_a_way_out(tmp_path: Path) -> None:
    torch.save({"model": {"temp": torch.ones(1)}, "args": argparse.Namespace(lr=1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth holds Python objects .* keep its weights only"):
        read_weights(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"model": {"temp": 1}}, "'temp' is no tensor"),
        ({"state": {"temp": torch.ones(1)}}, "'state' is no tensor"),
        ({}, "it is empty"),
        ([torch.ones(1)], "but a list"),
    ],
)
def test_a_file_without_weights_is_refused(contents: object, message: str, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "other.pt")


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors"])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=name):
        read_weights(tmp_path / name)


def test_a_damaged_safetensors_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(CheckpointError, match=r"cut\.safetensors cannot be read as safetensors"):
        read_weights(tmp_path / "cut.safetensors")
