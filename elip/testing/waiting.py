"""What asks a device for values, and so waits until it has computed them; found on the CPU, too."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_READ = {
    _aten._local_scalar_dense,
    _aten.equal,
    _aten.is_nonzero,
    _aten.masked_select,
    _aten.nonzero,
    _aten.repeat_interleave,
    _aten._unique2,
    _aten.unique_dim,
    _aten.unique_consecutive,
}
"""Operators whose result, or the size of whose result, is known on the device alone."""
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_TO_PYTHON = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.cpu}
"""What reads memory without an operator, so that only the call is seen."""


@contextmanager
def never_waiting() -> Iterator[None]:
    """Return a context in which an AssertionError names the first operation that would make a device be waited for.

    Copies by `.to("cpu")` are not told from others where all is on the CPU.
    """
    with _NoCalls(), _NoOperators():
        yield


class _NoCalls(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _TO_PYTHON:
            raise AssertionError(f"Tensor.{func.__name__} reads values from the device")
        return func(*args, **(kwargs or {}))


class _NoOperators(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet, kwargs = func.overloadpacket, kwargs or {}
        if packet in _READ and kwargs.get("output_size") is None:
            raise AssertionError(f"{packet} reads values from the device")
        if packet in _INDEXED and any(index.dtype in (torch.bool, torch.uint8) for index in tree_leaves(args[1])):
            raise AssertionError(f"{packet} by a mask has the device count how many places of it are true")
        return func(*args, **kwargs)
