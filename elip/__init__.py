"""Efficient language-image pre-training: token reducers, encoders, objectives, training engine, cost accounting.

What a notebook needs is here: `reduced` puts a token reducer on a ViT, `cost` tells what it saves, `list_reducers` what
there is, `create_encoder` makes a new one, and `load_task` opens a trained run.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elip.front import cost, create_encoder, list_reducers, reduced
    from elip.trained import load_task

__version__ = "0.1.0"
__all__ = ["cost", "create_encoder", "list_reducers", "load_task", "reduced"]


def __getattr__(name: str) -> Any:
    # Looked up when it is first used (PEP 562): torch, timm and transformers take seconds, which whoever imports one
    # small module of this package need not wait for.
    if name == "load_task":
        from elip import trained

        return trained.load_task
    if name in __all__:
        from elip import front

        return getattr(front, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
