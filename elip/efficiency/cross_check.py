"""fvcore's count of a forward pass, to hold our own against.

fvcore traces a pass (torch.jit), which works for plain ViTs and not for most reducers. It passes over fused attention
without a word: a handler is added.
"""

import warnings
from math import prod
from typing import Any

from torch import Tensor, nn


def fvcore_macs(module: nn.Module, image: Tensor, *, norms: bool = True) -> int:
    """Return what fvcore counts in one pass, in multiply-adds.

    Args:
        module: takes an image and returns a tensor, without a reducer.
        image: [B, 3, H, W].
        norms: count normalisation layers as fvcore does, 5 an element; else nothing for them.
    """
    with warnings.catch_warnings():  # fvcore compiles losses with torch.jit.script when it is imported
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import FlopCountAnalysis

    def attention(inputs: list[Any], outputs: list[Any]) -> int:
        query, key, out = (part.type().sizes() for part in (inputs[0], inputs[1], outputs[0]))
        return (prod(query) + prod(out)) * key[-2]

    analysis = FlopCountAnalysis(module, image).set_op_handle("aten::scaled_dot_product_attention", attention)
    if not norms:
        analysis.set_op_handle("aten::layer_norm", lambda inputs, outputs: 0)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return int(analysis.total())
