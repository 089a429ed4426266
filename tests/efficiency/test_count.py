"""Counting MACs: operators, agreement of three independent counts, and what cannot be counted."""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elip.efficiency.count import count_macs
from elip.efficiency.cross_check import fvcore_macs
from elip.efficiency.operators import FREE_OPS, MATRIX_OPS, register_handler
from elip.efficiency.parts import Work
from elip.efficiency.vision_cost import VisionCost, vision_cost
from elip.errors import ElipError
from elip.models.vision import VisionEncoder
from elip.reduction.reducer import TokenReducer
from tests.efficiency.counts import look_ahead_macs, torch_macs, vit_macs
from tests.efficiency.models import Classifier, Peek, make_encoder, make_reducer


def total(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> int:
    inputs = [torch.rand(shape) for shape in shapes]
    return sum(count_macs(nn.Module(), lambda: function(*inputs)).values())


def count_call(module: nn.Module, x: Tensor) -> Counter[Work]:
    return count_macs(module, lambda: module(x))


def matrix_macs(cost: VisionCost) -> int:
    return cost.total - cost.norm


OPERATORS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]], int]] = {
    "linear": (F.linear, [(2, 3, 4), (5, 4)], 2 * 3 * 4 * 5),
    "matmul": (torch.matmul, [(7, 2, 3), (3, 4)], 7 * 2 * 3 * 4),
    "matmul, vectors": (torch.matmul, [(4,), (4,)], 4),
    "matmul, broadcast": (torch.matmul, [(2, 1, 3, 4), (5, 4, 6)], 2 * 5 * 3 * 4 * 6),
    "matrix times vector": (torch.mv, [(3, 4), (4,)], 3 * 4),
    "bmm": (torch.bmm, [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "addmm": (torch.addmm, [(5,), (3, 4), (4, 5)], 3 * 4 * 5),
    "addbmm": (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "tensordot": (lambda a, b: torch.tensordot(a, b, ([1, 2], [0, 1])), [(2, 3, 4), (3, 4, 5)], 2 * 3 * 4 * 5),
    "einsum": (lambda a, b: torch.einsum("br,brd->bd", a, b), [(2, 3), (2, 3, 4)], 2 * 3 * 4),
    "distances": (torch.cdist, [(2, 3, 4), (2, 5, 4)], 2 * 3 * 4 * 5),
    "convolution": (F.conv2d, [(2, 3, 8, 8), (4, 3, 2, 2)], 2 * 4 * 7 * 7 * 3 * 2 * 2),
    "grouped": (lambda x, w: F.conv1d(x, w, groups=2), [(1, 4, 9), (6, 2, 3)], 6 * 7 * 2 * 3),
    "transposed": (F.conv_transpose2d, [(2, 3, 5, 5), (3, 4, 2, 2)], 2 * 3 * 5 * 5 * 4 * 2 * 2),
    "attention": (F.scaled_dot_product_attention, [(2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6)], 6 * 4 * 5 * (8 + 6)),
    "masked attention": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        [(2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 8), (4, 5)],
        6 * 4 * 5 * 16,
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_costs_its_multiply_adds(name: str) -> None:
    function, shapes, expected = OPERATORS[name]
    assert total(function, *shapes) == expected


def test_elementwise_work_reductions_and_movement_are_free() -> None:
    def work(x: Tensor) -> Tensor:
        x = F.gelu(x.softmax(-1)) * torch.rand_like(x) + F.dropout(x, 0.5).cumsum(-1).exp_()
        order = x.norm(dim=-1).argsort(dim=-1, descending=True)
        return torch.where(x > 0, x, 0).gather(0, order.unsqueeze(-1).expand_as(x)).flatten(0).topk(3).values

    assert total(work, (4, 5)) == 0


def test_normalisation_costs_five_an_element_and_is_kept_apart() -> None:
    plain, scaled = nn.LayerNorm(4, elementwise_affine=False), nn.LayerNorm(4)
    works = count_call(nn.Sequential(plain, scaled), torch.rand(3, 4))
    assert {work.kind for work in works} == {"norm"}
    assert sum(works.values()) == 3 * 4 * (4 + 5)


@pytest.mark.parametrize("scaled", [False, True])
def test_all_normalisations_cost_the_same_whatever_they_are_made_of(scaled: bool) -> None:
    layers = [
        nn.GroupNorm(2, 4, affine=scaled),
        nn.BatchNorm1d(4, affine=scaled),
        nn.InstanceNorm1d(4, affine=scaled),
        nn.RMSNorm(8, elementwise_affine=scaled),
    ]
    for layer in layers:
        works = count_call(layer, torch.rand(2, 4, 8))
        assert [(work.kind, macs) for work, macs in works.items()] == [("norm", 2 * 4 * 8 * (5 if scaled else 4))]


def test_work_whose_result_is_not_used_is_counted() -> None:
    def wasteful(x: Tensor) -> Tensor:
        x @ x
        return x + 1

    assert total(wasteful, (3, 3)) == 27


def test_work_is_counted_where_it_happens_and_told_from_what_has_no_gradient() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trained, self.frozen = nn.Conv1d(2, 3, 1), nn.Sequential(nn.Conv1d(2, 5, 1))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                fixed = self.frozen(x)
            return self.trained(x).sum() + fixed.sum()

    works = {work.path: (macs, work.has_gradient) for work, macs in count_call(Half(), torch.rand(1, 2, 1)).items()}
    assert works == {"trained": (6, True), "frozen.0": (10, False)}


def test_an_operator_that_no_handler_knows_is_an_error_that_names_it_and_its_module() -> None:
    class Inverse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Identity(), Inverse()])

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](x)

    with pytest.raises(
        ElipError, match=r"operator aten::linalg_inv_ex has no handler: .* layers\.1 \(Inverse\).*register"
    ):
        count_call(Model(), torch.eye(2))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class FromElsewhere(torch.autograd.Function):
    """Has a kernel that is no operator of torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        ctypes.memset(out.data_ptr(), 0, out.numel() * out.element_size())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Reversed(torch.autograd.Function):
    """Turns the gradient round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


def test_an_autograd_function_costs_what_it_runs_with_the_gradient_of_its_inputs() -> None:
    assert total(Double.apply, (2, 2)) == 8
    assert total(Reversed.apply, (2, 2)) == 0
    for requires_grad, enabled in ((False, True), (True, True), (True, False)):
        x = torch.rand(2, 2, requires_grad=requires_grad)
        with torch.set_grad_enabled(enabled):
            (work,) = count_macs(nn.Module(), lambda x=x: Double.apply(x))
        assert work.has_gradient == (requires_grad and enabled)


def test_an_autograd_function_with_a_kernel_from_elsewhere_is_not_passed_over() -> None:
    with pytest.raises(ElipError, match=r"operator autograd::FromElsewhere has no handler"):
        total(FromElsewhere.apply, (2, 2))


def test_operators_that_come_whole_in_inference_mode_are_counted_too() -> None:
    @torch.inference_mode()
    def work(x: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(F.linear(torch.einsum("ab,bc->ac", x, x), weight), (4,))

    assert total(work, (3, 3), (4, 3)) == 27 + 36 + 3 * 4 * 4


@pytest.fixture
def tables_restored() -> Iterator[None]:
    matrix, free = dict(MATRIX_OPS), set(FREE_OPS)
    yield
    MATRIX_OPS.clear()
    MATRIX_OPS.update(matrix)
    FREE_OPS.clear()
    FREE_OPS.update(free)


@pytest.mark.usefixtures("tables_restored")
def test_a_handler_of_ones_own_is_used_until_the_operator_is_made_free() -> None:
    for function in (FromElsewhere, Double):
        register_handler(f"autograd::{function.__name__}", lambda inputs, outputs: prod(outputs[0]) * inputs[0][-1] + 1)
        assert total(function.apply, (2, 2)) == 9
        register_handler(f"autograd::{function.__name__}", None)
        assert total(function.apply, (2, 2)) == 0


@pytest.mark.usefixtures("tables_restored")
def test_an_operator_of_a_library_needs_a_handler() -> None:
    with torch.library._scoped_library("elip_test", "FRAGMENT") as library:
        library.define("mix(Tensor x) -> Tensor")
        library.impl("mix", lambda x: x @ x, "CPU")
        with pytest.raises(ElipError, match=r"operator elip_test::mix has no handler"):
            total(lambda x: torch.ops.elip_test.mix(x), (2, 2))
        register_handler("elip_test::mix", lambda inputs, outputs: prod(outputs[0]) * inputs[0][-1])
        assert total(lambda x: torch.ops.elip_test.mix(x), (2, 2)) == 8


def test_an_operator_without_namespace_is_refused() -> None:
    with pytest.raises(ElipError, match=r"with its namespace, as in 'aten::mm'; got 'matmul'"):
        register_handler("matmul", None)


PLAIN = {
    "class token": {},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "registers, q/k norm, layer scale": {"reg_tokens": 4, "qk_norm": True, "init_values": 0.1},
}


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_four_counts_of_a_plain_vit_agree(options: dict[str, Any]) -> None:
    encoder = make_encoder(**options)
    tokens = [16 + encoder.num_prefix_tokens] * 3
    ours = matrix_macs(vision_cost(encoder))
    assert ours == vit_macs(encoder, tokens, tokens)
    assert ours == torch_macs(Classifier(encoder).eval(), [torch.rand(1, 3, 32, 32)])
    assert ours == fvcore_macs(Classifier(encoder).eval(), torch.rand(1, 3, 32, 32), norms=False)


def three_counts(encoder: VisionEncoder, reducer: TokenReducer, extra: int) -> tuple[int, int, int]:
    """Return the toolkit's count, torch's, and the closed formula with what the reducer multiplies."""
    cost = vision_cost(encoder, reducer)
    side = encoder.grid[0] * encoder.patch_embed.patch_size[0]
    inputs = [torch.rand(1, 3, side, side), torch.rand(1, encoder.width)]
    formula = vit_macs(encoder, [b.attention for b in cost.tokens], [b.mlp for b in cost.tokens]) + extra
    return matrix_macs(cost), torch_macs(Classifier(encoder, reducer).eval(), inputs), formula


@pytest.mark.parametrize("full", [False, True])
def test_three_counts_of_elip_agree(full: bool) -> None:
    encoder = make_encoder()
    fused = (16 - 12) * 32 + (13 - 8) * 32
    extra = look_ahead_macs(32, [(17, 2), (14, 1)], full) + fused
    assert len(set(three_counts(encoder, make_reducer("elip", encoder, full_look_ahead=full), extra))) == 1


def test_three_counts_of_random_agree() -> None:
    encoder = make_encoder()
    assert len(set(three_counts(encoder, make_reducer("random", encoder), 0))) == 1


def test_three_counts_of_a_reducer_with_layers_and_look_ahead_of_its_own_agree() -> None:
    encoder = make_encoder()
    ahead = 2 * (12 * 17 * 32**2 + 2 * 17**2 * 32)
    assert len(set(three_counts(encoder, Peek(encoder.info()), ahead + 16 * 32 * 5))) == 1
