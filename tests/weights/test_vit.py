"""Pretrained weights of the image encoder: every tensor is accounted for, whatever the file is wrapped in."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from elip.config.schema import VisionConfig
from elip.errors import CheckpointError, ConfigError
from elip.models.vision import VisionEncoder
from elip.weights.build import create_vision_encoder

NAME = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2}
State = dict[str, Tensor]


def create(weights: Path | str | None, name: str = NAME, size: int = 32, num_classes: int = 0, **more: Any):
    allow = more.pop("weights_allow", [])
    config = VisionConfig(
        name=name,
        image_size=size,
        weights=None if weights is None else str(weights),
        weights_allow=allow,
        options={**SMALL, **more},
    )
    return create_vision_encoder(config, num_classes)


def random_state(name: str = NAME, size: int = 32, **more: Any) -> State:
    torch.manual_seed(1)
    vit = timm.create_model(name, img_size=size, **{**SMALL, "num_classes": 5, **more})
    return {name: torch.randn_like(tensor) for name, tensor in vit.state_dict().items()}


def without_head(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("head")}


def assert_loaded(encoder: VisionEncoder, state: State) -> None:
    own = encoder.state_dict()
    assert own.keys() == without_head(state).keys()
    for name, tensor in own.items():
        assert torch.equal(tensor, state[name]), name


def saved(contents: Any, path: Path) -> Path:
    torch.save(contents, path)
    return path


def before(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "none": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "ema in state_dict": lambda state: {"state_dict": {"ema": state}},
    "module.": lambda state: before("module.", state),
    "_orig_mod.": lambda state: {"model_state": before("_orig_mod.module.", state)},
    "visual.": lambda state: before("visual.", state),
    "encoder. in model.": lambda state: before("model.encoder.", state),
    "ALBEF": lambda state: {
        "model": {**before("visual_encoder.", state), "temp": torch.ones(1), **before("text_encoder.", state)}
    },
    "ALBEF with a twin": lambda state: {
        **{f"visual_encoder_m.{n}": torch.zeros_like(t) for n, t in state.items()},
        **before("visual_encoder.", state),
    },
    "a run of ours": lambda state: {"model": before("model.albef.visual_encoder.", state), "config": {}, "step": 3},
    "a student with a predictor": lambda state: {**before("backbone.", state), "predictor.weight": torch.ones(2)},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_wrappings_are_undone_and_said(
    wrapping: Callable[[State], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    state = random_state()
    path = saved(wrapping(state), tmp_path / "vit.pth")
    assert_loaded(create(path), state)
    assert f"model.vision.weights: weights from {path}" in caplog.text
    assert f"taken {len(state) - 2} " in " ".join(caplog.text.split())
    assert "left over 2 head (2)" in " ".join(caplog.text.split())
    assert ("(undone: " in caplog.text) == (wrapping is not WRAPPINGS["none"])


def test_other_parts_of_a_larger_model_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    create(saved(WRAPPINGS["ALBEF"](random_state()), tmp_path / "albef.pth"))
    assert "undone: key 'model', undone: part 'visual_encoder.'" in caplog.text
    assert "text_encoder (" in next(line for line in caplog.text.splitlines() if "of other parts" in line)
    assert "temp (1)" in caplog.text


def test_a_classifier_is_taken_where_there_is_one(tmp_path: Path) -> None:
    state = random_state()
    encoder = create(saved(state, tmp_path / "vit.pth"), num_classes=5)
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())


def test_safetensors_in_half_precision_are_read(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in random_state().items()}
    save_file(state, tmp_path / "vit.safetensors")
    encoder = create(tmp_path / "vit.safetensors")
    assert torch.equal(encoder.state_dict()["norm.weight"], state["norm.weight"].float())


def test_position_embeddings_are_resized_as_timm_does_it_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    state = random_state(size=64)
    vit = timm.create_model(NAME, img_size=32, num_classes=0, **SMALL)
    expected = checkpoint_filter_fn(dict(state), vit)["pos_embed"]
    encoder = create(saved(state, tmp_path / "vit.pth"))
    assert torch.equal(encoder.state_dict()["pos_embed"], expected)
    assert "resized 1 pos_embed 4 x 4 to 2 x 2" in " ".join(caplog.text.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: before("resnet.", s), "has nothing in common .*resnet"),
        (lambda s: {"model": {"layer1.weight": torch.ones(2)}}, "has nothing in common .*layer1"),
        (lambda s: {n: t for n, t in s.items() if "blocks.1." not in n}, r"12 missing \(blocks.1.norm1.weight, "),
        (lambda s: {**s, "blocks.2.norm1.weight": torch.ones(16)}, r"1 without a place \(blocks.2.norm1.weight\)"),
        (
            lambda s: {**s, "extra": torch.ones(2)},
            r"1 without a place \(extra\).*'model.vision.weights_allow=\[extra\]'",
        ),
        (lambda s: {**s, "norm.weight": torch.ones(8)}, r"1 differ \(norm.weight \[8\], not \[16\]\)"),
        (lambda s: {**s, "norm.weight": torch.full((16,), torch.nan)}, "NaN or infinite in norm.weight\\."),
        (lambda s: {**s, "norm.weight": torch.ones(16).to(torch.int16)}, r"1 differ \(norm.weight \[16\] int16, not "),
        (lambda s: {**s, "pos_embed": torch.ones(1, 7, 16)}, r"1 differ \(pos_embed \[1, 7, 16\], not \[1, 5, 16\]\)"),
        (lambda s: {**s, "patch_embed.proj.weight": torch.ones(16, 3, 8, 8)}, r"1 differ \(patch_embed.proj.weight "),
    ],
)
def test_what_does_not_fit_is_an_error_with_file_and_examples(
    change: Callable[[State], Any], message: str, tmp_path: Path
) -> None:
    path = saved(change(random_state()), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=rf"model\.vision\.weights: .*{path}.*{message}"):
        create(path)


@pytest.mark.parametrize("allowed", [["extra"], ["extra.weight", "extra.bias"]])
def test_what_is_allowed_by_name_may_be_left_over(allowed: list[str], tmp_path: Path) -> None:
    state = random_state()
    path = saved({**state, "extra.weight": torch.ones(2), "extra.bias": torch.ones(2)}, tmp_path / "vit.pth")
    assert_loaded(create(path, weights_allow=allowed), state)


def test_a_shallower_encoder_from_a_deeper_file_is_asked_for_by_name(tmp_path: Path) -> None:
    path = saved(random_state(depth=3), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"12 without a place \(blocks.2."):
        create(path)
    assert create(path, weights_allow=["blocks.2"]).depth == 2


def test_forms_that_timm_converts_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    name = "vit_small_patch14_reg4_dinov2"
    ours = random_state(name, size=28, num_classes=0)
    theirs = {n: t for n, t in ours.items() if n not in ("reg_token", "pos_embed", "cls_token")}
    theirs |= {
        "register_tokens": ours["reg_token"],
        "mask_token": torch.ones(1, 16),
        "cls_token": ours["cls_token"] - 1,
        "pos_embed": torch.cat([torch.ones(1, 1, 16), ours["pos_embed"]], dim=1),
    }
    own = create(saved({"teacher": before("backbone.", theirs)}, tmp_path / "dino.pth"), name, 28).state_dict()
    assert own.keys() == ours.keys()
    assert all(torch.allclose(own[n], tensor) for n, tensor in ours.items())
    assert "undone: the form that timm converts" in caplog.text


def jax_archive(path: Path, depth: int = 2, width: int = 16) -> Path:
    """Write a ViT as Google's JAX code does, and return its path."""
    draw = np.random.default_rng(0)
    arrays = {
        "embedding/kernel": (16, 16, 3, width),
        "embedding/bias": (width,),
        "cls": (1, 1, width),
        "Transformer/posembed_input/pos_embedding": (1, 5, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, 7),
        "head/bias": (7,),
    }
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}/"
        attention, mlp = block + "MultiHeadDotProductAttention_1/", block + "MlpBlock_3/"
        arrays |= {f"{block}LayerNorm_{n}/{part}": (width,) for n in (0, 2) for part in ("scale", "bias")}
        for part in ("query", "key", "value"):
            arrays |= {f"{attention}{part}/kernel": (width, 2, width // 2), f"{attention}{part}/bias": (2, width // 2)}
        arrays |= {f"{attention}out/kernel": (2, width // 2, width), f"{attention}out/bias": (width,)}
        arrays |= {f"{mlp}Dense_0/kernel": (width, 4 * width), f"{mlp}Dense_0/bias": (4 * width,)}
        arrays |= {f"{mlp}Dense_1/kernel": (4 * width, width), f"{mlp}Dense_1/bias": (width,)}
    np.savez(path, **{name: draw.normal(size=shape).astype(np.float32) for name, shape in arrays.items()})
    return path


def test_a_jax_archive_is_read_as_timm_reads_it(tmp_path: Path) -> None:
    path = jax_archive(tmp_path / "vit.npz")
    vit = timm.create_model(NAME, img_size=32, num_classes=0, **SMALL)
    assert isinstance(vit, VisionTransformer)
    vit.load_pretrained(str(path))
    assert_loaded(create(path), vit.state_dict())


@pytest.mark.parametrize(
    ("depth", "message"), [(1, "timm cannot take"), (3, "has a place for"), (None, "is cut short or damaged")]
)
def test_a_jax_archive_that_does_not_fit_is_an_error(depth: int | None, message: str, tmp_path: Path) -> None:
    path = jax_archive(tmp_path / "vit.npz", depth or 2)
    if depth is None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        create(path)


def test_timms_own_weights_must_fill_the_model(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = random_state()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **kwargs: dict(state))
    assert_loaded(create("timm"), state)
    with pytest.raises(CheckpointError, match=r"timm's weights do not fill .*12 missing \(blocks.2.norm1.weight"):
        create("timm", depth=3)
    create("timm", depth=1)
    assert "of timm's weights, 12 have no place in this model (blocks.1.norm1.weight" in caplog.text


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained", "pretrained_cfg_overlay"])
def test_weights_cannot_come_in_by_an_option_of_timms(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.vision\.options\.{option}: weights are named by"):
        create(None, **{option: "x.pth"})


def test_pixels_that_no_patch_sees_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    create(None, size=48)
    assert caplog.records == []
    create(None, size=45)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "image_size: 45 px are no multiple of the patches' 16 px: the 13 px at the right" in record.message
    assert "take 32 or 48" in record.message


def test_an_image_of_less_than_a_patch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.vision\.image_size: 8 px is less than one patch of 16 px"):
        create(None, size=8)
