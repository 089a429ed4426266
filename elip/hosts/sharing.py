"""Two models over the same weights."""

import copy
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)

REGISTERS = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
"""Where a module keeps what belongs to it, by name."""
_OF_ONE_OBJECT = ("_compiled_call_impl",)
"""What is bound to the very object that it was made for: `module.compile()` leaves its result there."""


def shared(module: nn.Module, cls: type[M]) -> M:
    """Return another module over the same parameters, buffers and submodules, with registers of its own.

    What is later added to it, replaced in it or hooked to it leaves the first module as it is, and so the other way
    round. Weights, and the modes of submodules (`train`, `eval`), are those of both.

    Args:
        module: stays as it is.
        cls: of the new one: the module's own, or a subclass of it.
    """
    twin = cls.__new__(cls)
    nn.Module.__init__(twin)  # not the model's own constructor, which would make new weights
    given = vars(module)
    own = vars(twin)
    for name, value in given.items():
        # Hooks stay with the object that they were given to: the twin has its own, empty ones, by nn.Module.
        if name in REGISTERS or (name not in own and name not in _OF_ONE_OBJECT):
            own[name] = copy.copy(value) if isinstance(value, dict | list | set) else value
    twin.training = module.training
    return twin
