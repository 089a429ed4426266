"""What tells reducers apart, as it is measured."""

import torch
from torch import Tensor

from elip.efficiency.properties import measure_properties
from elip.reduction.reducer import ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from tests.efficiency.models import Peek, make_encoder, make_reducer


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
