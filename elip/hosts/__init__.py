"""How each kind of ViT gives the walk over its blocks what it needs (`elip.reduction.walk`).

One module a kind of block. A new one holds a class with the methods of `BlockHalves` and one with those of `Host`, and
is entered in `HOSTS` under the class of the block.
"""

from typing import Protocol

from timm.models.vision_transformer import Block
from torch import nn

from elip.errors import ElipError
from elip.hosts.reduced import Reduced
from elip.hosts.timm import TimmHost
from elip.reduction.walk import Host

__all__ = ["HOSTS", "HostClass", "host_class"]


class HostClass(Protocol):
    """Makes the host of a ViT."""

    def __call__(self, vit: nn.Module, *, light: bool = False) -> Host:
        """Return the host of a ViT, or of a module that has its parts under their names.

        Args:
            light: keep no cheap results for the backward pass (`elip.execution`), where that can be.
        """
        ...

    def reduced_class(self, vit: nn.Module) -> type[Reduced]:
        """Return the class that such a ViT has under a reducer."""
        ...

    def check(self, vit: nn.Module) -> None:
        """Raise an `ElipError` that names the first part of a ViT that is not as this kind of host expects it."""
        ...


HOSTS: dict[type[nn.Module], HostClass] = {Block: TimmHost}
"""The hosts there are, by the class of the blocks of their ViTs."""


def host_class(vit: nn.Module) -> HostClass:
    """Return what makes the host of a ViT, chosen by the class of its blocks.

    Raises:
        ElipError: no host knows such blocks, or something else of the ViT is not as its host expects it.
    """
    for module in vit.modules():
        if found := HOSTS.get(type(module)):
            found.check(vit)
            return found
    known = ", ".join(f"{block.__module__}.{block.__qualname__}" for block in HOSTS)
    raise ElipError(
        f"{type(vit).__name__} has blocks of a kind that no host knows ({_kinds_of_blocks(vit)}). Known: {known}, "
        "which plain ViTs and DeiTs of timm are made of (vit_*, deit_*, deit3_*). elip/hosts says how to add another."
    )


def _kinds_of_blocks(vit: nn.Module) -> str:
    """Return the classes in the longest list of modules, which is where a transformer has its blocks."""
    lists = [module for module in vit.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    longest = max(lists, key=len, default=nn.Sequential())
    return ", ".join(sorted({type(block).__name__ for block in longest})) or "no list of blocks"
