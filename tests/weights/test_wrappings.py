"""Wrappings around weights are undone, however many, and said; what is none stays as it is."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from elip.errors import CheckpointError
from elip.weights.wrappings import Unwrapped, unwrap

STATE = {f"blocks.{i}.weight": torch.full((2,), float(i)) for i in range(20)}


def undo(contents: dict[str, Any], *parts: str) -> Unwrapped:
    return unwrap(contents, Path("x.pt"), lambda state: len(state.keys() & STATE.keys()), parts)


def before(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "key", ["model", "state_dict", "module", "model_state", "ema", "teacher", "state_dict_ema", "params"]
)
def test_a_dict_around_the_weights_is_undone(key: str) -> None:
    found = undo({key: OrderedDict(STATE), "epoch": 3})
    assert (found.state, found.beside, found.undone) == (STATE, {"epoch": 3}, (f"key {key!r}",))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "visual.", "encoder.", "backbone.", "student.", "_forward_module."]
)
def test_a_beginning_of_all_names_is_undone(prefix: str) -> None:
    found = undo(before(prefix))
    assert found.state == STATE
    assert len(found.undone) == 1
    assert repr(prefix) in found.undone[0]


def test_wrappings_are_undone_as_often_as_there_are_any() -> None:
    found = undo({"state_dict": {"model": {"module": before("module._orig_mod.model.encoder.module.")}}})
    assert found.state == STATE
    assert found.undone[:3] == ("key 'state_dict'", "key 'model'", "key 'module'")
    assert found.undone[3:] == (
        "'_orig_mod.' in names",
        "'module.' before all names",
        "'model.' before all names",
        "'encoder.' before all names",
        "'module.' before all names",
    )


def test_names_that_mean_something_keep_their_beginning() -> None:
    known = before("model.")
    found = unwrap(known, Path("x.pt"), lambda state: len(state.keys() & known.keys()))
    assert (found.state, found.undone) == (known, ())


def test_names_that_mean_nothing_stay_as_they_are() -> None:
    assert undo({"model.layer1": torch.ones(1)}).state == {"model.layer1": torch.ones(1)}


def test_weights_in_training_are_taken_before_a_mean_of_them_and_the_choice_is_said() -> None:
    found = undo({"model_ema": {"blocks.0.weight": torch.ones(2)}, "state_dict": STATE})
    assert found.state == STATE
    assert found.undone == ("key 'state_dict' ('model_ema' beside it not taken)",)


def test_a_few_names_without_the_beginning_keep_theirs() -> None:
    odd = {"queue": torch.ones(1)}
    found = undo({**before("module."), **odd})
    assert found.state == {**STATE, **odd}
    assert found.undone == ("'module.' before all names but 1",)


def test_a_part_of_a_larger_model_is_taken_and_the_rest_is_told() -> None:
    others = before("text_encoder.", dict(list(STATE.items())[:15]))
    found = undo({**before("visual_encoder."), **others}, "visual_encoder.")
    assert (found.state, set(found.other_parts)) == (STATE, set(others))
    assert found.undone == ("part 'visual_encoder.'",)


def test_the_count_of_an_averaged_model_is_no_weight() -> None:
    averaged = AveragedModel(nn.Linear(2, 2)).state_dict()
    found = unwrap(averaged, Path("x.pt"), lambda state: "weight" in state)
    assert set(found.state) == {"weight", "bias"}
    assert set(found.beside) == {"n_averaged"}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "x.pt holds no weights: .*it is empty"),
        ({"model": {"module": {}}}, "it is empty"),
        ({"model": {"blocks": [1]}}, "'blocks' is no tensor"),
        ({"unknown": STATE}, "'unknown' is no tensor"),
    ],
)
def test_what_holds_no_weights_is_refused(contents: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        undo(contents)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(2, dtype=torch.int8), r"quantised, int8"),
        (torch.ones(2).to(torch.float8_e4m3fn), r"quantised, float8_e4m3fn"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
        (torch.ones(2, 2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "without values, on the meta device"),
    ],
)
def test_tensors_that_no_model_computes_with_are_refused_by_name(tensor: Tensor, kind: str) -> None:
    with pytest.raises(CheckpointError, match=rf"x\.pt: no weights in full precision: a\.weight \({kind}\)\. "):
        unwrap({"model": {"a.weight": tensor, "a.bias": torch.ones(2)}}, Path("x.pt"), len)


def test_an_adapted_model_of_another_library_is_undone() -> None:
    found = undo(before("base_model.model."))
    assert (found.state, len(found.undone)) == (STATE, 2)
