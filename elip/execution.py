"""How encoders are run: in which precision, compiled or not, and what of them a backward pass computes again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

Recompute = Literal["none", "light", "full"]
"""`none` keeps all that the backward pass needs. `light` keeps no results of LayerNorm and GELU, which cost next to
nothing. `full` keeps the inputs of blocks alone (Chen et al., "Training Deep Nets with Sublinear Memory Cost",
arXiv:1604.06174)."""


Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Arithmetic of forward passes, by what configs call it."""


@dataclass(frozen=True)
class Execution:
    """Calls parts of an encoder in training.

    What lies between them, the hooks of reducers above all, is called as it is: it may keep state and draw random
    numbers, which a second call would not find as it was, and may do what no compiler can follow. A function that a
    reducer gives in the place of attention is called within its part. Forward hooks on what is recomputed run again
    then; a module that has hooks of its own is not compiled.

    Args:
        recompute: what the backward pass computes again.
        compiled: compile parts. Blocks that are alike share what is compiled, for whatever number of tokens, so that
            it takes seconds, where a whole model would take minutes.
    """

    recompute: Recompute = "none"
    compiled: bool = False

    @property
    def light(self) -> bool:
        """Whether parts are to call `linear_of` where they can."""
        return self.recompute == "light"

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what a method, or a module, gives for tensors."""
        run = partial(_run_compiled, function) if self.compiled else function
        if self.recompute == "full" and torch.is_grad_enabled():
            return checkpoint(run, *args, use_reentrant=False)
        return run(*args)


AT_ONCE = Execution()
"""Each part is called as it is, and all is kept."""


_KINDS = 64
"""Kinds of calls of one function that are compiled: with and without gradient, with and without a mask, and so on."""


def _run_compiled(method: Any, *args: Any) -> Any:
    if isinstance(method, nn.Module) and (method._forward_hooks or method._forward_pre_hooks):
        return method(*args)
    owner, function = (
        (method, type(method).forward) if isinstance(method, nn.Module) else (method.__self__, method.__func__)
    )
    return _compiled(function)(owner, *args)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the compiled function of a class, in which objects of that class share what they can."""
    config: Any = torch._dynamo.config
    # beyond its limit torch would go on without compiling, and hardly say so
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, limit, max(getattr(config, limit), _KINDS))
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5):  # later it is always so
        config.inline_inbuilt_nn_modules = True  # else each block has code of its own
    return torch.compile(function, dynamic=True)


class _Again(NamedTuple):
    """A view of what is not kept."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: int


_watcher: ContextVar[Callable[[Tensor], object] | None] = ContextVar("watcher", default=None)


def linear_of(linear: Callable[[Tensor], Tensor], cheap: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return linear(cheap(x)), bit for bit; cheap(x) is made again for the backward pass, not kept until then.

    A graph that is compiled is as without this function: the compiler itself makes again what is cheap.

    Args:
        linear: whose gradient needs its input; anything but torch's own layer is run as it is.
        cheap: draws nothing, and keeps x for its own gradient, so that nothing is gained by giving x up.

    Raises:
        RuntimeError: in the backward pass, if x was changed in place after this.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or type(linear) is not nn.Linear:
        return linear(cheap(x))
    kind = "cpu" if x.is_meta else x.device.type  # where nothing is computed, there is no autocast to ask after
    autocast, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    watch = _watcher.get()

    def make(x: Tensor) -> Tensor:
        # in the precision in which the linear layer takes it: what autocast would make of it is a copy that is kept
        made = cheap(x)
        return made.to(dtype) if autocast else made

    version = x._version
    made = make(x)
    if x._version != version:  # changed in place by `cheap`, which cannot be called on it again
        return linear(made)
    own, detached = made.untyped_storage()._cdata, x.detach()

    def pack(tensor: Tensor) -> Tensor | _Again:
        if tensor.untyped_storage()._cdata == own:
            return _Again(tensor.size(), tensor.stride(), int(tensor.storage_offset()))
        if watch is not None:
            watch(tensor)
        return tensor

    def unpack(kept: Tensor | _Again) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        if detached._version != version:
            raise RuntimeError("the input of a block's norm or activation was changed in place after its use")
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=autocast, cache_enabled=False):
            return make(detached).as_strided(*kept)

    with saved_tensors_hooks(pack, unpack):
        return linear(made)


@contextmanager
def watching(watch: Callable[[Tensor], object]) -> Iterator[None]:
    """Return a context in which `watch` is shown what is kept inside of `linear_of`.

    Hooks on saved tensors that are set around it are not asked there.
    """
    token = _watcher.set(watch)
    try:
        yield
    finally:
        _watcher.reset(token)
