"""MACs of a forward pass, each with the part of the model and the module that it happened in."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from elip.efficiency.operators import FREE_OPS, MATRIX_OPS, NORM_OPS, norm_macs
from elip.efficiency.parts import Kind, Place, Work, places_of, running_part
from elip.errors import ElipError


def count_macs(model: nn.Module, run: Callable[[], Any]) -> Counter[Work]:
    """Return the MACs of a pass, which is run once, on whatever device the model is.

    Each operator that torch dispatches is looked up (`elip.efficiency.operators`). Everything that runs is counted,
    even what the result does not depend on.

    Args:
        model: whose modules say where they happen.
        run: the pass.

    Raises:
        ElipError: for an operator of which no handler knows whether it multiplies matrices.
    """
    works: Counter[Work] = Counter()
    with _modules_running(model) as running:
        operators = _Operators(works, running)
        with _autograd_functions(operators), _RmsNorms(operators), operators:
            run()
    return works


@contextmanager
def _modules_running(model: nn.Module) -> Iterator[list[Place]]:
    """Return a context with the modules of a model whose calls are going on, outermost first."""
    places = places_of(model)
    running: list[Place] = []

    # Modules that are no part of the model have no path in it, and what they run is the caller's.
    def enter(module: nn.Module, _args: Any) -> None:
        if id(module) in places:
            running.append(places[id(module)])

    def leave(module: nn.Module, _args: Any, _output: Any) -> None:
        if id(module) in places:
            running.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


class _Operators(TorchDispatchMode):
    """Looks up each operator that runs on a device, below autograd and whatever is made of several operators.

    Args:
        works: where MACs are added up.
        running: the modules whose calls are going on.
    """

    def __init__(self, works: Counter[Work], running: Sequence[Place]) -> None:
        super().__init__()
        self._works, self._running = works, running
        self.seen: set[str] = set()
        self.under_gradient = False
        self.paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name in FREE_OPS or func.namespace == "prim":  # prim asks for a device and the like
            self.seen.add(name)
            return func(*args, **kwargs)
        if name not in MATRIX_OPS and name not in NORM_OPS:
            with self:  # in inference mode, operators that are made of others come whole
                out = func.decompose(*args, **kwargs)
            if out is NotImplemented:
                raise self.unknown(name)
            return out
        out = func(*args, **kwargs)  # first: what comes out is a part of what it costs
        self.seen.add(name)
        self.look_up(name, [*args, *kwargs.values()], out)
        return out

    def look_up(self, name: str, inputs: Sequence[Any], out: Any) -> None:
        """Enter what an operator costs, by its handler."""
        kind: Kind = "matrix" if name in MATRIX_OPS else "norm"
        handler = (MATRIX_OPS if kind == "matrix" else NORM_OPS)[name]
        shapes = [_shape(value) for value in inputs]
        try:
            macs = handler(shapes, [_shape(value) for value in (out if isinstance(out, tuple | list) else [out])])
        except (TypeError, IndexError) as error:
            raise ElipError(f"the handler of operator {name} cannot read its inputs: {error}.") from error
        self.add(macs, kind, inputs)

    def add(self, macs: int, kind: Kind, inputs: Sequence[Any]) -> None:
        """Enter the MACs of one operator on `inputs`, unless it runs in a function that is counted as a whole."""
        if self.paused:
            return
        # below autograd the outputs do not know yet whether they have a gradient; the inputs do
        has_gradient = self.under_gradient or (torch.is_grad_enabled() and _any_requires_grad(inputs))
        path = self._running[-1].path if self._running else ""
        self._works[Work(running_part(self._running), path, has_gradient, kind)] += macs

    def unknown(self, name: str) -> ElipError:
        """Return the error for an operator that is in no table."""
        path, kind = (self._running[-1].path, self._running[-1].kind) if self._running else ("", "")
        where = f"{path or 'the model'} ({kind})" if kind else "the model"
        return ElipError(
            f"operator {name} has no handler: whether it multiplies matrices is not known, so the cost of {where} "
            f"cannot be counted. Register one with elip.efficiency.operators.register_handler({name!r}, ...); None "
            "marks it as free."
        )


class _RmsNorms(TorchFunctionMode):
    """Enters RMSNorm, which is one normalisation to the figures, and several elementwise operators to some devices."""

    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RMS_NORMS:
            x, weight = args[0], args[2] if len(args) > 2 else kwargs.get("weight")
            self._operators.add(norm_macs(x.shape, weight is not None), "norm", [x, weight])
        return func(*args, **kwargs)


_RMS_NORMS = {getattr(module, "rms_norm", None) for module in (torch, F)} - {None}


@contextmanager
def _autograd_functions(operators: _Operators) -> Iterator[None]:
    """Return a context in which an `autograd.Function` counts as what it runs.

    Its inputs say whether there is a gradient, because inside gradients are off. One that has a handler counts by that.
    One that returns new tensors which no operator has filled has a kernel of its own: only a handler can say what it
    costs, and without one it would pass for free.
    """
    # The forward passes are replaced, not `apply`, which many a module has under a name of its own.
    originals = {function: function.__dict__["forward"] for function in _heirs(Function) if "forward" in vars(function)}
    for function, original in originals.items():
        function.forward = staticmethod(_counted(function.__name__, original.__get__(None, function), operators))
    try:
        yield
    finally:
        for function, original in originals.items():
            function.forward = original


def _counted(name: str, forward: Callable[..., Any], operators: _Operators) -> Callable[..., Any]:
    """Return the forward pass of an `autograd.Function` that is counted."""
    op = f"autograd::{name}"
    has_handler = op in MATRIX_OPS or op in FREE_OPS

    def counted(*args: Any, **kwargs: Any) -> Any:
        outer = operators.seen, operators.paused, operators.under_gradient
        operators.seen, operators.paused = set(), operators.paused or has_handler
        operators.under_gradient |= _differentiates(args)
        try:
            out = forward(*args, **kwargs)
            if not has_handler and _allocates_only(operators.seen) and any(t.numel() for t in _tensors(out)):
                raise operators.unknown(op)
            operators.paused = outer[1]
            if op in MATRIX_OPS:
                operators.look_up(op, [arg for arg in args if not isinstance(arg, FunctionCtx)], out)
        finally:
            operators.seen, operators.paused, operators.under_gradient = outer[0] | operators.seen, *outer[1:]
        return out

    return counted


def _differentiates(args: Sequence[Any]) -> bool:
    """Return whether a backward pass would go through an `autograd.Function`, inside of which gradients are off."""
    if args and isinstance(args[0], FunctionCtx):
        return bool(args[0].next_functions)  # type: ignore[attr-defined]
    return _any_requires_grad(args)


def _heirs(parent: Any) -> Iterator[Any]:
    for heir in parent.__subclasses__():
        yield heir
        yield from _heirs(heir)


_NEW = {f"aten::{name}" for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")}
_VIEWS = {f"aten::{name}" for name in ("alias", "as_strided", "detach", "expand", "permute", "select", "slice", "view")}


def _allocates_only(seen: set[str]) -> bool:
    return bool(seen & _NEW) and seen <= _NEW | _VIEWS


def _any_requires_grad(values: Sequence[Any]) -> bool:
    return any(tensor.requires_grad for tensor in _tensors(values))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def _shape(value: Any) -> Any:
    """Return the shape of a tensor, the items of a list likewise, anything else as it is."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return [_shape(item) for item in value] if isinstance(value, tuple | list) else value
