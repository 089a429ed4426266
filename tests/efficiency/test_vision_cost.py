"""The cost of an image: look-ahead apart, tokens, published figures; what else tells reducers apart."""

import pytest
import timm
import torch
from torch import Tensor

from elip.config.schema import VisionConfig
from elip.efficiency.vision_cost import NOISE_IMAGES, BlockTrace, Spread, measure_properties, vision_cost
from elip.models.vision import VisionEncoder, create_vit
from elip.reduction.encoder import EncoderInfo
from elip.reduction.reducer import Needs, ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS
from tests.efficiency.counts import look_ahead_macs, vit_macs
from tests.efficiency.models import KeepBright, Peek, make_encoder, make_reducer


def published(name: str, image_size: int = 224) -> VisionEncoder:
    """Return a timm model with its head, its weights whatever the memory holds."""
    with torch.device("meta"):
        vit = timm.create_model(name, img_size=image_size)
    return VisionEncoder(vit.to_empty(device="cpu"))


def gmacs(name: str) -> float:
    return vision_cost(published(name)).total / 1e9


def test_no_reducer_and_the_baseline_cost_the_same() -> None:
    encoder = make_encoder()
    assert vision_cost(encoder) == vision_cost(encoder, make_reducer("none", encoder))


def test_elips_look_ahead_is_apart_and_cheaper_than_published() -> None:
    encoder = make_encoder()
    ours = vision_cost(encoder, make_reducer("elip", encoder))
    full = vision_cost(encoder, make_reducer("elip", encoder, full_look_ahead=True))
    norm = (2 * 17 + 17 + 14) * 32 * 5  # two norms of a whole block, one of a block that stops at its attention row
    assert ours.look_ahead == look_ahead_macs(32, [(17, 2), (14, 1)], full=False) + norm
    assert full.look_ahead == look_ahead_macs(32, [(17, 2), (14, 1)], full=True) + norm + (17 + 14) * 32 * 5
    assert ours.total - ours.look_ahead == full.total - full.look_ahead


def test_look_ahead_of_any_reducer_is_apart() -> None:
    encoder = make_encoder()
    cost = vision_cost(encoder, Peek(encoder.info()))
    block = 12 * 17 * 32**2 + 2 * 17**2 * 32 + 2 * 17 * 32 * 5
    assert cost.look_ahead == 2 * block
    assert cost.forward_backward == 3 * (cost.total - 2 * block) + 2 * block


def test_tokens_are_those_of_each_block() -> None:
    encoder = make_encoder()
    tokens = vision_cost(encoder, make_reducer("elip", encoder)).tokens
    assert tokens == [BlockTrace(17, 17), BlockTrace(14, 14), BlockTrace(10, 10)]


class AfterAttention(TokenReducer):
    """Drops patches inside block 1."""

    def needs(self, block: int) -> Needs:
        return Needs.CLS_ROW

    def after_attention(self, block: int, tokens: Tokens, attention: object, context: ReductionContext) -> Tokens:
        return tokens.keep(torch.arange(6).unsqueeze(0)) if block == 1 else tokens


def test_a_reduction_inside_a_block_tells_its_attention_from_its_mlp() -> None:
    tokens = vision_cost(make_encoder(), AfterAttention()).tokens
    assert tokens == [BlockTrace(17, 17), BlockTrace(17, 7), BlockTrace(7, 7)]


def test_a_reducer_whose_counts_differ_between_images_costs_their_mean_and_has_a_spread() -> None:
    torch.manual_seed(0)
    encoder, images = make_encoder(), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        left = [encoder(image.unsqueeze(0), KeepBright()).blocks[-1].mlp for image in images]
    assert len(set(left)) > 1
    norm = [5 * 32 * (2 * 17 + 5 * n) for n in left]  # two in each of three blocks, and the last one
    costs = [vit_macs(encoder, [17, n, n], [17, n, n]) + k for n, k in zip(left, norm, strict=True)]

    cost = vision_cost(encoder, KeepBright(), list(images))
    assert cost.total == pytest.approx(sum(costs) / 3)
    assert cost.tokens[-1].mlp == pytest.approx(sum(left) / 3)
    assert cost.spread is not None
    assert (cost.spread.images, cost.spread.least, cost.spread.most) == (3, min(costs), max(costs))
    assert cost.spread.std == pytest.approx(torch.tensor(costs, dtype=torch.float64).std(correction=0).item())


def test_without_images_the_mean_is_over_noise() -> None:
    cost = vision_cost(make_encoder(), KeepBright())
    assert cost.spread is not None
    assert cost.spread.images == NOISE_IMAGES


def test_reducers_that_keep_the_same_number_everywhere_are_counted_once() -> None:
    class NoImage:
        def __iter__(self) -> None:
            pytest.fail("an image was asked for")

    cost = vision_cost(make_encoder(), make_reducer("random", make_encoder()), NoImage())
    assert cost.spread is None
    assert Spread.of([1.0]) is None


def test_the_encoder_is_left_as_it_was() -> None:
    encoder = make_encoder().train()
    encoder.norm.eval()
    random = torch.get_rng_state()
    vision_cost(encoder, make_reducer("random", encoder))
    assert torch.equal(torch.get_rng_state(), random)
    assert encoder.training
    assert not encoder.norm.training


def test_parameters_of_the_reducer_count() -> None:
    encoder = make_encoder()
    assert vision_cost(encoder, Peek(encoder.info())).parameters == vision_cost(encoder).parameters + 33 * 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deit_tiny_patch16_224", 1.26),
        ("deit_small_patch16_224", 4.61),
        ("deit_base_patch16_224", 17.58),
        ("vit_large_patch16_224", 61.60),
    ],
)
def test_published_gmacs_are_met_to_the_printed_digit(name: str, expected: float) -> None:
    assert round(gmacs(name), 2) == expected


def test_elips_published_gmacs_on_vit_base_at_256_px_are_met_to_the_printed_digit() -> None:
    encoder = VisionEncoder(create_vit(VisionConfig(name="vit_base_patch16_224", image_size=256), num_classes=1000))
    info: EncoderInfo = encoder.info(encoder.width)
    dense = vision_cost(encoder)
    as_published = vision_cost(encoder, REDUCERS.build("elip", info, full_look_ahead=True))
    ours = vision_cost(encoder, REDUCERS.build("elip", info))
    reduced = as_published.total - as_published.look_ahead

    assert round(dense.total / 1e9, 1) == 23.2
    assert round(reduced / 1e9, 1) == 16.4
    assert round(as_published.look_ahead / 1e9, 1) == 16.7
    assert round(as_published.total / 1e9, 1) == 33.0
    assert round(as_published.forward_backward / dense.forward_backward, 2) == 0.94
    assert ours.look_ahead < 0.75 * as_published.look_ahead
    assert [block.mlp for block in ours.tokens] == [257] * 2 + [232] * 2 + [168] * 6 + [104] * 2


def test_a_pruner_drops_in_training_and_has_a_source_map() -> None:
    encoder = make_encoder()
    dense = measure_properties(encoder, make_reducer("none", encoder))
    pruned = measure_properties(encoder, make_reducer("random", encoder))
    assert (dense.drops_in_training, dense.has_source, dense.added_parameters) == (False, True, 0)
    assert (pruned.drops_in_training, pruned.has_source, pruned.added_parameters) == (True, True, 0)
    assert pruned.saved_bytes < 0.9 * dense.saved_bytes


def test_parameters_are_the_reducers_own() -> None:
    encoder = make_encoder()
    assert measure_properties(encoder, Peek(encoder.info())).added_parameters == 33 * 5


class Soft(TokenReducer):
    """Mixes all patches into four, in inference only; its loss has the whole image in it."""

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        context.state["image"] = tokens.x
        return tokens if block or context.training else tokens.mix(tokens.x.unflatten(1, (4, -1)).mean(dim=2))

    def auxiliary_losses(self, tokens: Tokens, context: ReductionContext) -> dict[str, Tensor]:
        return {"loss_soft": torch.exp(context.state["image"]).mean()}


def test_soft_mixing_has_no_source_and_a_reducer_for_inference_drops_nothing_in_training() -> None:
    encoder = make_encoder()
    found = measure_properties(encoder, Soft())
    assert (found.drops_in_training, found.has_source) == (False, False)


def test_what_a_reducers_own_loss_keeps_is_counted() -> None:
    encoder = make_encoder()
    dense = measure_properties(encoder, make_reducer("none", encoder))
    assert measure_properties(encoder, Soft()).saved_bytes == dense.saved_bytes + 4 * 16 * 32  # the exponential
