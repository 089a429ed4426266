"""MACs of a forward pass, each with the modules it happened in: fvcore's tracing with the handlers of this package."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from elip.efficiency.operators import FREE_OPS, MATRIX_OPS, NORM_OPS, Handler
from elip.errors import ElipError

with warnings.catch_warnings():  # fvcore compiles losses with torch.jit.script when it is imported
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis

Kind = Literal["matrix", "norm"]


class Work(NamedTuple):
    """Where multiply-adds happen.

    Args:
        scopes: paths of the modules whose call they are part of, outermost first, in the model that was counted.
        has_gradient: whether a backward pass would go through them.
        kind: products of matrices, or normalisation.
    """

    scopes: tuple[str, ...]
    has_gradient: bool
    kind: Kind

    @property
    def looked_ahead(self) -> bool:
        """Whether a reducer ran it ahead."""
        return any(scope.rpartition(".")[2] == "look_ahead" for scope in self.scopes)


def count_macs(module: nn.Module, inputs: tuple[Tensor, ...]) -> Counter[Work]:
    """Return the MACs of one forward pass, which is run once.

    Everything that runs is counted, also what the result does not depend on.

    Args:
        module: takes tensors and returns a tensor.
        inputs: for one call.

    Raises:
        ElipError: for an operator of which no handler knows whether it multiplies matrices.
    """
    traced = _Traced(module)
    analysis = FlopCountAnalysis(traced, inputs).clear_op_handles()
    analysis.set_op_handle(**dict.fromkeys(FREE_OPS, _free))
    for kind, table in _TABLES.items():
        analysis.set_op_handle(**{op: _handle(op, handler, kind) for op, handler in table.items()})
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    counts: Counter[Any] = analysis.by_operator()
    _refuse_unknown(analysis, traced)
    return counts


def _free(inputs: list[Any], outputs: list[Any]) -> Counter[Work]:
    return Counter()


_TABLES: dict[Kind, dict[str, Handler]] = {"norm": NORM_OPS, "matrix": MATRIX_OPS}


class _Traced(nn.Module):
    """A module whose whole forward pass ends up in the trace, as it is without one.

    Tracing has habits that would change what is counted. It drops operators whose result is never used: all results are
    given back, so that none is. It hands out sizes as tensors, which many a reducer cannot compute with: they are
    turned back into numbers. And it notes results of convolutions as if they had no gradient: they are noted again.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with _PlainTrace() as trace:
            result = self.module(*inputs)
        return (result, *trace.results)


class _PlainTrace(TorchFunctionMode):
    """Keeps all results of tracing, notes them as they are, and gives sizes as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Size):
            return torch.Size(int(length) for length in out)
        if func in _SIZES:
            return int(out)
        for tensor in _tensors(out):
            torch._C._get_value_trace(tensor).inferTypeFrom(tensor)  # type: ignore[attr-defined]
            self.results.append(tensor)
        return out


_SIZES = {Tensor.size, Tensor.numel, Tensor.nelement, torch.numel}
"""Functions that give a size as one number."""


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, tuple | list):
        for part in out:
            yield from _tensors(part)


def _handle(op: str, handler: Handler, kind: Kind) -> Callable[[list[Any], list[Any]], Counter[Work]]:
    """Return fvcore's form of a handler: graph values in, a count for the place of the operator out."""

    def handle(inputs: list[Any], outputs: list[Any]) -> Counter[Work]:
        try:
            macs = handler([_plain(value) for value in inputs], [_plain(value) for value in outputs])
        except (TypeError, IndexError) as error:
            raise ElipError(f"the handler of operator {op} cannot read its inputs: {error}.") from error
        scopes = [name.removeprefix("module").removeprefix(".") for name in outputs[0].node().scopeName().split("/")]
        has_gradient = any(value.requires_grad() for value in outputs)
        return Counter({Work(tuple(filter(None, scopes)), has_gradient, kind): macs})

    return handle


def _plain(value: Any) -> Any:
    """Return the shape of a graph's tensor, the items of its list, or the value of its constant; None if unknown."""
    if value.isCompleteTensor():
        return tuple(value.type().sizes())
    node = value.node()
    if node.kind() == "prim::ListConstruct":
        return [_plain(item) for item in node.inputs()]
    return value.toIValue() if node.kind() == "prim::Constant" else None


def _refuse_unknown(analysis: FlopCountAnalysis, traced: nn.Module) -> None:
    for op in analysis.unsupported_ops():
        holders = [name for name, _ in traced.named_modules() if analysis.unsupported_ops(name)[op]]
        path = max(holders, key=len)
        module = traced.get_submodule(path)
        raise ElipError(
            f"operator {op} has no handler: whether it multiplies matrices is not known, so the cost of "
            f"{path.removeprefix('module').removeprefix('.') or 'the model'} ({type(module).__name__}) cannot be "
            f"counted. Register one with elip.efficiency.operators.register_handler({op!r}, ...); None marks it as free."
        )
