"""DynamicViT's training pass beside the authors' implementation: predictor, masked softmax, losses, gradients."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from elip.hosts.timm import self_attention
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, Teacher
from elip.reduction.reducer import ReductionContext, Wishes
from elip.reduction.tokens import Tokens
from elip.reduction.walk import VisionOutput
from elip.registry import REDUCERS
from reducers.dynamicvit import DynamicViT, masked_softmax
from tests.golden.vit import LOGITS, TOKENS, Reference, load_reference, small_vit

LOSS = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def reference(golden_reducers: Path) -> Reference:
    return load_reference(golden_reducers / "dynamicvit_train.safetensors")


def build(folder: Path, reference: Reference, distance: str = "mse") -> tuple[VisionEncoder, DynamicViT]:
    """Return encoder and reducer in training mode, the reducer drawing the stored noise."""
    settings, encoder = reference.settings, small_vit(folder)
    reducer = REDUCERS.build(
        "dynamicvit",
        encoder.info(),
        begin=settings["locations"],
        keep_ratio=settings["ratios"],
        ratio_weight=settings["ratio_weight"],
        distill_weight=settings["distill_weight"],
        distance=distance,
    )
    reducer.load_state_dict(reference.run("weights.").tensors)
    noise = iter([reference.tensors[f"train.noise.block{block}"] for block in settings["locations"]])
    reducer.noise = lambda like: next(noise)
    return encoder.train(), reducer.train()


def train_pass(folder: Path, reference: Reference, distance: str) -> tuple[VisionEncoder, DynamicViT, VisionOutput]:
    encoder, reducer = build(folder, reference, distance)
    train = reference.run("train.").tensors
    return encoder, reducer, encoder(train["image"], reducer, Guide(teacher=Teacher(tokens=train["teacher_tokens"])))


def test_the_predictor_agrees(golden_reducers: Path, reference: Reference) -> None:
    _, reducer = build(golden_reducers, reference)
    given = reference.run("predictor.").tensors
    found = reducer.score_predictor[0](given["x"], given["policy"].squeeze(-1))
    torch.testing.assert_close(found, given["out"], **TOKENS)


def test_masked_softmax_agrees(reference: Reference) -> None:
    given = reference.run("softmax.").tensors
    found = masked_softmax(given["logits"], given["policy"].squeeze(-1))
    torch.testing.assert_close(found, given["out"], rtol=1e-5, atol=1e-7)


def test_a_block_with_masked_attention_agrees(golden_reducers: Path, reference: Reference) -> None:
    encoder, reducer = build(golden_reducers, reference)
    x, policy = reference.tensors["block0.x"], reference.tensors["softmax.policy"].squeeze(-1)
    context = ReductionContext(blocks=None, training=True, prefix=x[:, :1])
    context.state["decisions"] = [policy[:, 1:]]
    function = reducer.attention(0, Tokens(x[:, 1:], (1, x.shape[1] - 1)), context)
    out, _ = self_attention(encoder.blocks[0].attn, x, 1, Wishes(function=function))
    torch.testing.assert_close(out, reference.tensors["block0.attn_out"], **TOKENS)


@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_a_training_pass_agrees_in_decisions_and_losses(
    golden_reducers: Path, reference: Reference, distance: str
) -> None:
    encoder, _, output = train_pass(golden_reducers, reference, distance)
    settings, train = reference.settings, reference.run("train.").tensors
    last = train[f"decision.block{settings['locations'][-1]}"]
    assert torch.equal(output.tokens.mask, last > 0.5)
    torch.testing.assert_close(output.tokens.x, train["features"], **TOKENS)
    torch.testing.assert_close(encoder.classify(output.embeds), train["logits"], **LOGITS)
    expected = reference.run(f"train.loss_{distance}.").tensors
    stages = len(settings["locations"])
    ratio = output.losses["loss_ratio"] / settings["ratio_weight"] * stages
    token = output.losses["loss_token"] / settings["distill_weight"]
    torch.testing.assert_close(ratio.unsqueeze(0), expected["ratio"], **LOSS)
    torch.testing.assert_close(token.unsqueeze(0), expected["token"], **LOSS)


def test_gradients_agree(golden_reducers: Path, reference: Reference) -> None:
    encoder, reducer, output = train_pass(golden_reducers, reference, "mse")
    settings, train = reference.settings, reference.run("train.").tensors
    logits = encoder.classify(output.embeds)
    distilled = F.kl_div(
        logits.log_softmax(-1), train["teacher_logits"].log_softmax(-1), reduction="batchmean", log_target=True
    )
    total = settings["clf_weight"] * F.cross_entropy(logits, train["labels"])
    total = total + settings["distill_weight"] * distilled + sum(output.losses.values())
    torch.testing.assert_close(total.detach().unsqueeze(0), train["loss_mse.total"], **LOSS)
    total.backward()
    parameters = {**dict(encoder.named_parameters()), **dict(reducer.named_parameters())}
    expected = reference.run("train.grad.").tensors
    assert expected
    for name, want in expected.items():
        found = parameters[name].grad
        assert (found - want).norm() <= 1e-4 * want.norm(), name


def test_the_ratio_loss_agrees(golden_reducers: Path, reference: Reference) -> None:
    _, reducer = build(golden_reducers, reference)
    given = reference.run("ratio.").tensors
    masks = [given[f"mask{stage}"] for stage in range(len(reference.settings["locations"]))]
    torch.testing.assert_close(reducer.ratio_loss(masks).unsqueeze(0), given["loss_per_image"], **LOSS)
