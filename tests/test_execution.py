"""What is recomputed gives the same bits, and is not kept; what is compiled is shared by what is alike."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elip.efficiency.resources import saved_bytes
from elip.execution import Execution, linear_of

ROWS, WIDTH, WIDE = 6, 8, 12
Layers = tuple[nn.Linear, Callable[[Tensor], Tensor]]


@pytest.fixture(params=["norm", "gelu"])
def layers(request: pytest.FixtureRequest) -> Layers:
    torch.manual_seed(0)
    norm = nn.LayerNorm(WIDTH)
    nn.init.normal_(norm.weight)
    return nn.Linear(WIDTH, WIDE), norm if request.param == "norm" else F.gelu


def model_of(layers: Layers) -> nn.ModuleList:
    return nn.ModuleList(layer for layer in layers if isinstance(layer, nn.Module))


def gradients(layers: Layers, call: Callable[..., Tensor], precision: torch.dtype) -> list[Tensor]:
    """The result, and its gradients in the input and in all parameters."""
    torch.manual_seed(1)
    x = torch.randn(2, ROWS, WIDTH, requires_grad=True)
    with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
        out = call(*layers, x * 1.5)
    grads = torch.autograd.grad(out.float().square().sum(), [x, *model_of(layers).parameters()])
    return [out.detach(), *grads]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_made_again_gives_the_same_bits(layers: Layers, precision: torch.dtype) -> None:
    kept = gradients(layers, lambda linear, cheap, x: linear(cheap(x)), precision)
    again = gradients(layers, linear_of, precision)
    assert [a.dtype for a in kept] == [b.dtype for b in again]
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_just_the_cheap_result_is_not_kept(layers: Layers, precision: torch.dtype) -> None:
    x = torch.randn(2, ROWS, WIDTH, requires_grad=True)

    def kept(call: Callable[[], Tensor]) -> int:
        with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
            return saved_bytes(call, model_of(layers))

    linear, cheap = layers
    result = x.numel() * precision.itemsize
    assert kept(lambda: linear(cheap(x))) - kept(lambda: linear_of(linear, cheap, x)) == result


def test_without_gradient_nothing_is_made_twice() -> None:
    calls = []

    def cheap(x: Tensor) -> Tensor:
        calls.append(x)
        return x.exp()

    linear = nn.Linear(WIDTH, WIDE)
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    with torch.no_grad():
        linear_of(linear, cheap, x)
    assert len(calls) == 1
    linear_of(linear, cheap, x).sum().backward()
    assert len(calls) == 3


class Scaled(nn.Linear):
    """Reads its input twice, as adapters do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("linear", [nn.Linear(WIDTH, WIDE), Scaled(WIDTH, WIDE)], ids=["plain", "scaled"])
@pytest.mark.parametrize("cheap", [partial(F.silu, inplace=True), partial(F.relu, inplace=True)], ids=["silu", "relu"])
def test_what_changes_its_input_or_is_no_plain_layer_is_as_without(
    linear: nn.Linear, cheap: Callable[[Tensor], Tensor]
) -> None:
    kept = gradients((linear, cheap), lambda linear, cheap, x: linear(cheap(x)), torch.bfloat16)
    again = gradients((linear, cheap), linear_of, torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_an_input_that_is_changed_later_is_told(layers: Layers) -> None:
    x = torch.randn(2, ROWS, WIDTH)
    out = linear_of(layers[0], layers[1], x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        out.sum().backward()


class Block(nn.Module):
    """Draws, as dropout does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.5).relu()

    def half(self, x: Tensor, scale: float) -> Tensor:
        return self.forward(x) * scale


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_blocks_that_are_alike_share_what_is_compiled(recompute: str, counting_compiler: list[int]) -> None:
    blocks = [Block() for _ in range(4)]
    plain, compiled = Execution(), Execution(recompute, compiled=True)  # type: ignore[arg-type]

    def run(execution: Execution, rows: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(2)
        x = torch.randn(rows, WIDTH, requires_grad=True)
        out = x
        for block in blocks:
            out = execution(block.half, execution(block, out), 2.0)
        return out.detach(), torch.autograd.grad(out.sum(), x)[0]

    for rows in (5, 6, 7):
        for mine, right in zip(run(compiled, rows), run(plain, rows), strict=True):
            torch.testing.assert_close(mine, right)
    assert len(counting_compiler) == 2  # a block, and a half of one
