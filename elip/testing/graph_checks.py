"""Checks that an encoder under a reducer is one graph: for torch.compile, and for torch.export."""

import torch
from torch import Tensor, nn

from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, text_of_cls
from elip.reduction.reducer import TokenReducer
from elip.testing.trial import ReducerTrial, expect, images, made_up, tiny_vit, with_teacher

REMEDY = "keep Python choices to shapes and parameters, or set static_counts = False if counts depend on the image"


@torch.no_grad()
def compiles(trial: ReducerTrial) -> None:
    """torch.compile takes the pass in evaluation as one graph, where counts are static; the result is the same."""
    if not trial.cls.static_counts:
        return
    model, inputs = _model(trial)
    torch._dynamo.reset()
    try:  # the backend makes no difference to whether the graph breaks, and this one needs no C++ compiler
        compiled = torch.compile(model, backend="eager", fullgraph=True)(*inputs)
    except Exception as error:
        raise AssertionError(f"torch.compile: {_first_line(error)}; {REMEDY}") from error
    finally:
        torch._dynamo.reset()
    _same("torch.compile", compiled, model(*inputs))


@torch.no_grad()
def exports(trial: ReducerTrial) -> None:
    """torch.export takes the pass in evaluation, where counts are static; the result is the same for other images."""
    if not trial.cls.static_counts:
        return
    model, inputs = _model(trial)
    try:
        program = torch.export.export(model, inputs).module()
    except Exception as error:
        raise AssertionError(f"torch.export: {_first_line(error)}; {REMEDY}") from error
    others = tuple(tensor.flip(0) for tensor in inputs)
    _same("torch.export", program(*others), model(*others))


class _Embeds(nn.Module):
    """Encoder and reducer as one module, from tensors to a tensor."""

    def __init__(self, encoder: VisionEncoder, reducer: TokenReducer) -> None:
        super().__init__()
        self.encoder = encoder
        self.reducer = reducer

    def forward(self, image: Tensor, text_cls: Tensor) -> Tensor:
        guide = Guide(text_of_cls(text_cls))
        if self.reducer.requires_teacher:
            guide = with_teacher(self.encoder, self.reducer, image, guide)
        return self.encoder(image, self.reducer, guide).embeds


def _model(trial: ReducerTrial) -> tuple[_Embeds, tuple[Tensor, Tensor]]:
    encoder = tiny_vit()
    model = _Embeds(encoder, trial.reducer(encoder)).eval()
    return model, (images(2, encoder), made_up((2, encoder.width), seed=3))


def _same(tool: str, found: Tensor, wanted: Tensor) -> None:
    same = found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-5)
    expect(same, f"{tool}: another result than without it; {REMEDY}")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
