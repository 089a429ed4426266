"""Two models over the same weights: what they share, and what each has for itself."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from elip.hosts.sharing import shared
from elip.models.vision import VisionEncoder


@pytest.fixture
def vit() -> nn.Module:
    torch.manual_seed(0)
    shape = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **shape).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_weights_are_the_same_objects(vit: nn.Module) -> None:
    twin = shared(vit, type(vit))
    for (name, mine), (other, theirs) in zip(twin.named_parameters(), vit.named_parameters(), strict=True):
        assert name == other
        assert mine is theirs
    assert twin.blocks[0] is vit.blocks[0]
    assert twin.training is vit.training is False


def test_what_is_added_or_replaced_in_one_is_not_in_the_other(vit: nn.Module, image: Tensor) -> None:
    before, logits = set(dict(vit.named_modules())), vit(image)
    twin = shared(vit, type(vit))
    twin.extra = nn.Linear(1, 1)
    twin.head = nn.Linear(32, 5)
    twin.cls_token = nn.Parameter(torch.ones(1, 1, 32))
    twin.pretrained_cfg["mean"] = (0.0, 0.0, 0.0)
    twin.train()
    assert set(dict(vit.named_modules())) == before
    assert not vit.training
    assert vit.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    torch.testing.assert_close(vit.eval()(image), logits)


def test_hooks_stay_with_the_module_that_they_were_given_to(vit: nn.Module, image: Tensor) -> None:
    calls: list[str] = []
    vit.register_forward_hook(lambda *_: calls.append("first"))
    twin = shared(vit, type(vit))
    twin.register_forward_hook(lambda *_: calls.append("second"))
    twin(image)
    vit(image)
    assert calls == ["second", "first"]


def test_a_compiled_call_is_not_taken_over(vit: nn.Module, image: Tensor) -> None:
    vit.compile(backend=lambda *_: pytest.fail("the first module was called"))
    assert shared(vit, type(vit))(image).shape == (2, 3)


def reload(encoder: VisionEncoder) -> VisionEncoder:
    encoder.load_state_dict({name: torch.zeros_like(t) for name, t in encoder.state_dict().items()}, assign=True)
    return encoder


def materialise(encoder: VisionEncoder) -> VisionEncoder:
    encoder = encoder.to("meta").to_empty(device="cpu")
    for parameter in encoder.parameters():
        nn.init.zeros_(parameter)
    return encoder


def copied(encoder: VisionEncoder) -> VisionEncoder:
    twin = copy.deepcopy(encoder)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    return twin


def replaced(encoder: VisionEncoder) -> VisionEncoder:
    for name, parameter in list(encoder.named_parameters()):
        owner, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(owner), last, nn.Parameter(torch.zeros_like(parameter)))
    return encoder


@pytest.mark.parametrize("change", [reload, materialise, copied, replaced])
@torch.no_grad()
def test_an_encoder_computes_with_the_parameters_that_it_has_now(
    vit: nn.Module, image: Tensor, change: Callable[[VisionEncoder], VisionEncoder]
) -> None:
    encoder = change(VisionEncoder(vit))
    output = encoder(image).embeds
    torch.testing.assert_close(output, torch.zeros_like(output))
    torch.testing.assert_close(encoder.classify(output), torch.zeros(2, 3))


@torch.no_grad()
def test_a_copy_of_an_encoder_goes_its_own_way(vit: nn.Module, image: Tensor) -> None:
    encoder = VisionEncoder(vit)
    before = encoder(image).embeds
    copied(encoder)
    torch.testing.assert_close(encoder(image).embeds, before)
    assert vit(image).abs().sum() > 0
