"""`import elip`: a token reducer on a ViT of one's own."""

import ast
import copy
import io
import logging
import re
import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import elip
from elip.errors import ElipError
from elip.hosts.reduced import Reduced
from elip.reduction import REDUCERS, EncoderInfo, Guide, ReductionContext, Text, TokenReducer, Tokens, Watch
from tests.conftest import PROJECT
from tests.models.test_vision import VITS, small_timm

EVIT = {"begin": [1], "keep_ratio": 0.5}


def picture(vit: nn.Module, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *vit.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return small_timm("deit_tiny_patch16_224")


def test_importing_elip_alone_imports_nothing_heavy() -> None:
    code = "import elip, sys; print(sorted({'torch', 'timm', 'transformers', 'numpy'} & sys.modules.keys()), dir(elip))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")
    assert {"reduced", "cost", "list_reducers", "create_encoder", "load_task"} <= set(ast.literal_eval(done.stdout[3:]))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'elip' has no attribute 'reduce'"):
        _ = elip.reduce


def test_the_readmes_lines_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import elip, timm\n.*?)```", text, re.S)
    assert text.index("## Two commands") < text.index(code) < text.index("## Pre-training on your own pictures")
    vit = code[: code.index("task = ")]
    names: dict[str, Any] = {"images": torch.randn(1, 3, 224, 224)}
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: real(name, depth=3))
    exec(vit, names)
    assert names["logits"].shape == (1, 1000)
    assert names["features"].shape == names["out"].embeds.shape == (1, 197 - 3 * 13, 768)
    assert [block.mlp for block in names["out"].blocks] == [184, 171, 158]


@pytest.mark.parametrize("name", VITS.values(), ids=VITS.keys())
def test_keeping_all_tokens_it_is_the_wrapped_model(name: str) -> None:
    torch.manual_seed(0)
    vit = small_timm(name).double()
    image = picture(vit).double()
    model = elip.reduced(vit, "none")
    for call in (vit.forward_features, vit, lambda x: vit.forward_head(vit.forward_features(x), pre_logits=True)):
        vit.zero_grad()
        expected = call(image)
        expected.square().mean().backward()
        gradients = {key: parameter.grad for key, parameter in vit.named_parameters()}
        vit.zero_grad()
        ours = {vit.forward_features: model.forward_features, vit: model}.get(
            call, lambda x: model.forward_head(model.forward_features(x), pre_logits=True)
        )
        found = ours(image)
        found.square().mean().backward()
        torch.testing.assert_close(found, expected)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[key])
    assert list(model.state_dict()) == list(vit.state_dict())
    for mine, theirs in zip(model.state_dict().values(), vit.state_dict().values(), strict=True):
        assert mine.data_ptr() == theirs.data_ptr()


def test_it_has_the_models_class_and_its_own_interface(vit: VisionTransformer) -> None:
    model = elip.reduced(vit, "evit", begin=[0], keep_ratio=0.5)
    image = picture(vit)
    assert isinstance(model, VisionTransformer)
    assert isinstance(model, Reduced)
    assert model.forward_features(image).shape == (2, 1 + 8 + 1, vit.embed_dim)
    torch.testing.assert_close(model(image), model.forward_head(model.forward_features(image)))
    assert (model(image) - vit(image)).abs().max() > 0
    assert model.num_classes == vit.num_classes
    assert model.get_classifier() is vit.head


def test_the_wrapped_model_stays_as_it_is(vit: VisionTransformer) -> None:
    image = picture(vit)
    calls: list[int] = []
    vit.register_forward_hook(lambda *_: calls.append(1))
    vit.train()
    before, attributes, modules = vit.eval()(image), dict(vars(vit)), dict(vit.named_modules())
    vit.training = True
    model = elip.reduced(vit, "dynamicvit", begin=[1], keep_ratio=[0.5])
    model(image)
    assert vit.training
    assert calls == [1]
    assert type(vit) is VisionTransformer
    assert "forward_features" not in vars(vit)
    assert dict(vit.named_modules()) == modules
    for name, value in attributes.items():
        assert name == "training" or vars(vit)[name] is value
    model.head = nn.Identity()
    torch.testing.assert_close(vit(image), before)


def test_weights_are_those_of_both(vit: VisionTransformer) -> None:
    model, image = elip.reduced(vit, "none"), picture(vit)
    with torch.no_grad():
        model.cls_token.add_(1)
    torch.testing.assert_close(model(image), vit(image))
    model.load_state_dict({name: torch.zeros_like(value) for name, value in vit.state_dict().items()})
    assert not vit(image).any()


def test_a_reducers_parameters_lie_under_its_own_name(vit: VisionTransformer) -> None:
    model = elip.reduced(vit.double(), "dynamicvit", begin=[1], keep_ratio=[0.5])
    added = [name for name, _ in model.named_parameters() if name.startswith("reducer.")]
    assert added
    assert [name for name in model.state_dict() if name not in added] == list(vit.state_dict())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.double}
    model.train()
    output = model.walk(picture(vit).double())
    sum(output.losses.values(), output.embeds.square().mean()).backward()
    assert all(model.get_parameter(name).grad is not None for name in added)


def test_modes_precisions_copies_and_files(vit: VisionTransformer) -> None:
    model, image = elip.reduced(vit, "evit", **EVIT), picture(vit)
    expected = model(image)
    assert model.train().reducer.training
    assert model.training
    assert not model.eval().reducer.training
    copied = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    whole = io.BytesIO()
    torch.save(model, whole)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied(image), expected)
    model.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    torch.testing.assert_close(model(image), expected)
    torch.testing.assert_close(torch.load(io.BytesIO(whole.getvalue()), weights_only=False)(image), expected)
    assert model.half()(image.half()).dtype == torch.half
    assert copied.to(torch.bfloat16).walk(image.bfloat16()).embeds.dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("name", ["tome", "evit"])
def test_it_compiles_and_exports_as_one_graph(vit: VisionTransformer, name: str) -> None:
    model, image = elip.reduced(vit, name, **({"r": 3} if name == "tome" else EVIT)), picture(vit)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)(image)
    torch._dynamo.reset()
    torch.testing.assert_close(compiled, model(image))
    torch.testing.assert_close(torch.export.export(model, (image,)).module()(image), model(image))


def test_recomputed_activations_give_the_same_gradients(vit: VisionTransformer) -> None:
    model = elip.reduced(vit, "evit", **EVIT).train()
    gradients = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        model(picture(vit)).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)
    assert not vit.grad_checkpointing


@torch.no_grad()
def test_the_walk_tells_what_became_of_the_patches(vit: VisionTransformer) -> None:
    model = elip.reduced(vit, "evit", **EVIT)
    out = model.walk(picture(vit), source=True, watch=Watch(cls_rows=(0,)))
    torch.testing.assert_close(out.embeds, model.forward_features(picture(vit)))
    assert [(block.attention, block.mlp) for block in out.blocks] == [(17, 17), (17, 10)]
    assert out.restore().shape == (2, 4, 4, vit.embed_dim)
    assert out.kept[1].sum(dim=(1, 2)).tolist() == [8, 8]
    assert out.cls_rows[0].shape == (2, 3, 16)
    assert model.walk(picture(vit), source=False).tokens.source is None


@torch.no_grad()
def test_a_text_decides_in_the_walk_and_is_missed_elsewhere(
    vit: VisionTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    model = elip.reduced(vit, "elip", begin=[1], look_ahead=[1], keep_ratio=[0.5])
    image, states = picture(vit), torch.randn(2, 5, vit.embed_dim)
    mask = torch.ones(2, 5, dtype=torch.bool)
    found = [model.walk(image, text) for text in (states, states[:, 0], Text(states, mask))]
    found.append(model.walk(image, guide=Guide(Text(states, mask))))
    for out in found:
        assert out.tokens.num_tokens == 8 + 1
        torch.testing.assert_close(out.embeds, found[0].embeds)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(model(image), vit(image))
    assert "all tokens are kept" in caplog.text
    with pytest.raises(ElipError, match="needs a text"):
        elip.reduced(vit, "elip", strict=True, begin=[1], look_ahead=[1], keep_ratio=[0.5])(image)


def test_a_reduction_may_end_within_a_training_of_ones_own(vit: VisionTransformer) -> None:
    model, image = elip.reduced(vit, "evit", until=0.75, **EVIT), picture(vit)
    left = [model.walk(image, guide=Guide(progress=progress)).tokens.num_tokens for progress in (0.7, 0.75)]
    assert left[0] < left[1] == 16
    torch.testing.assert_close(model(image), vit(image))  # as it is after training
    assert elip.cost(model).ratio < 1  # of what is done while it acts
    with pytest.raises(ElipError, match="until: expected a share of the training between 0 and 1, got 1"):
        elip.reduced(vit, "evit", until=1, **EVIT)


class Uneven(TokenReducer):
    """Keeps all patches of the first image, and every other one of the second."""

    def __init__(self, encoder: EncoderInfo) -> None:
        super().__init__()

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if block != 1:
            return tokens
        mask = torch.ones(tokens.x.shape[:2], dtype=torch.bool)
        mask[1, ::2] = False
        return tokens.keep(torch.arange(tokens.num_tokens).expand(2, -1), mask)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "token"])
def test_places_without_a_token_have_no_part_in_pooling(monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    monkeypatch.setitem(REDUCERS._classes, "uneven", Uneven)
    torch.manual_seed(0)
    model = elip.reduced(small_timm("deit_tiny_patch16_224", global_pool=pool), "uneven")
    out = model.walk(picture(model))
    alone = torch.cat([out.embeds[1:, :1], out.tokens.x[1:, out.tokens.mask[1]]], dim=1)
    torch.testing.assert_close(model(picture(model))[1:], model.forward_head(alone))


def test_a_second_reducer_takes_the_place_of_the_first(vit: VisionTransformer) -> None:
    first = elip.reduced(vit, "dynamicvit", begin=[1], keep_ratio=[0.5])
    second = elip.reduced(first, "evit", **EVIT)
    assert type(second) is type(first)
    assert list(second.state_dict()) == list(vit.state_dict())
    assert type(first.reducer).__name__ == "DynamicViT"


@torch.no_grad()
def test_a_vit_with_a_distillation_token_keeps_its_own_ways() -> None:
    torch.manual_seed(0)
    vit = small_timm("deit_tiny_distilled_patch16_224")
    model = elip.reduced(vit, "none")
    assert isinstance(model, type(vit))
    torch.testing.assert_close(model(picture(vit)), vit(picture(vit)))
    assert elip.reduced(vit, "evit", **EVIT).walk(picture(vit)).embeds.shape[1] == 2 + 8 + 1
    torch.testing.assert_close(copy.deepcopy(model)(picture(vit)), vit(picture(vit)))


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet18", "BasicBlock"), ("swin_tiny_patch4_window7_224", "SwinTransformerBlock")]
)
def test_models_of_other_kinds_are_refused_by_name(name: str, blocks: str) -> None:
    model = timm.create_model(name)
    known = r"Known: timm\.models\.vision_transformer\.Block"
    with pytest.raises(ElipError, match=rf"{type(model).__name__} .*{blocks}.*{known}"):
        elip.reduced(model, "tome", r=3)
    with pytest.raises(ElipError, match=known):
        elip.cost(model)


def test_what_is_no_model_or_runs_in_another_way_is_refused(vit: VisionTransformer) -> None:
    with pytest.raises(ElipError, match=r"takes a model, such as timm\.create_model gives, not 'vit_tiny'"):
        elip.reduced("vit_tiny", "tome", r=3)
    with pytest.raises(ElipError, match="Did you mean 'tome'"):
        elip.reduced(vit, "tomme", r=3)
    with pytest.raises(ElipError, match="'tome' has no parameter 'q'"):
        elip.reduced(vit, "tome", q=3)
    with pytest.raises(ElipError, match="Sequential is not a timm VisionTransformer"):
        elip.reduced(nn.Sequential(vit), "tome", r=3)
    model = elip.reduced(vit, "tome", r=3)
    with pytest.raises(ElipError, match="takes no attention mask"):
        model.forward_features(picture(vit), is_causal=True)
    with pytest.raises(ElipError, match=r"walk\(images\)\.restore\(\)"):
        model.forward_intermediates(picture(vit))
    vit.forward_features = lambda x: x
    with pytest.raises(ElipError, match="forward_features of this ViT was replaced"):
        elip.reduced(vit, "tome", r=3)


class OwnWay(VisionTransformer):
    def forward_features(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x


def test_a_subclass_with_a_pass_of_its_own_is_refused() -> None:
    with pytest.raises(ElipError, match="OwnWay has a forward_features of its own"):
        elip.reduced(OwnWay(img_size=32, embed_dim=32, depth=1, num_heads=1), "none")


def test_cost_tells_what_a_reducer_saves(vit: VisionTransformer) -> None:
    dense = elip.cost(vit)
    assert dense.gmacs == dense.dense_gmacs
    assert (dense.ratio, dense.tokens) == (1.0, [17, 17])
    saving = elip.cost(elip.reduced(vit, "evit", **EVIT))
    assert saving.dense_gmacs == dense.gmacs
    assert saving.tokens == [17, 10]
    assert saving.ratio < 1
    assert saving.look_ahead_gmacs == 0
    assert f"ratio {saving.ratio:.2f}" in str(saving)
    assert "after each block: 17 10" in str(saving)
    ahead = elip.cost(elip.reduced(vit, "elip", begin=[1], look_ahead=[1], keep_ratio=[0.5]))
    assert 0 < ahead.look_ahead_gmacs < ahead.gmacs
    assert "run ahead" in str(ahead)
    assert not vit.training


def test_all_reducers_are_listed() -> None:
    assert {"none", "elip", "tome", "evit"} <= set(elip.list_reducers())


def test_an_encoder_is_made_by_name() -> None:
    made = elip.create_encoder("vit_tiny_patch16_224", {"name": "tome", "r": 13}, depth=2)
    assert made(torch.zeros(1, 3, 224, 224)).shape == (1, 192)
    assert elip.cost(made).tokens == [184, 171]
    plain = elip.create_encoder("vit_tiny_patch16_224", image_size=32, num_classes=5, depth=1)
    assert plain(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(ElipError, match="Did you mean 'vit_tiny_patch16_224'"):
        elip.create_encoder("vit_tiny_patch16_22")
