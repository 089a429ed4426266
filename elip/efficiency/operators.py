"""What one operator of a traced forward pass costs, in multiply-adds (MACs).

Every operator is in one of three tables: it multiplies matrices and is counted exactly; it normalises and is counted as
fvcore and the published figures do; or it is elementwise work, a reduction or data movement, and is free. One that is
in none of them cannot be costed, which is an error that asks for a handler:

    register_handler("my_library::mix", lambda inputs, outputs: prod(outputs[0]) * inputs[0][-1])
    register_handler("my_library::shuffle", None)  # free

A Python `autograd.Function` appears as `prim::PythonOp.ClassName`.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from elip.efficiency.einsum import einsum_macs
from elip.errors import ElipError

Handler = Callable[[Sequence[Any], Sequence[Any]], int]
"""(inputs, outputs) of an operator to its MACs. A tensor is given as its shape, a list of tensors as a list of shapes,
anything else as its value, and what is not known before the model runs as None."""

NORM_MACS = 5
"""MACs of a normalisation layer per element (4 without scale and shift): fvcore's estimate, and part of the figures
that are published for ViTs."""


def register_handler(op: str, handler: Handler | None) -> None:
    """Make an operator known to all counts from now on.

    Args:
        op: its name in a traced graph, `namespace::name`.
        handler: gives its MACs; None if it multiplies no matrices and is free.

    Raises:
        ElipError: if the name has no namespace.
    """
    if "::" not in op:
        raise ElipError(f"an operator is named with its namespace, as in 'aten::matmul'; got {op!r}.")
    if handler is None:
        MATRIX_OPS.pop(op, None)
        FREE_OPS.add(op)
    else:
        FREE_OPS.discard(op)
        MATRIX_OPS[op] = handler


def _inner(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Each number that comes out is a sum over the last axis of the first operand."""
    return prod(outputs[0]) * inputs[0][-1]


def _plus_inner(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """What is added comes before the operands."""
    return _inner(inputs[1:], outputs)


def _addbmm(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return prod(outputs[0]) * inputs[1][0] * inputs[1][-1]


def _tensordot(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return prod(outputs[0]) * prod(inputs[0][axis] for axis in inputs[2])


def _einsum(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return einsum_macs(inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None)


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Queries times keys, then probabilities times values; a mask or causality saves nothing."""
    query, key, out = inputs[0], inputs[1], outputs[0]
    return prod(out[:-1]) * key[-2] * (query[-1] + out[-1])


def _convolution(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Each output (each input, of a transposed convolution) meets one filter. Weight: [out, in / groups, ...]."""
    x, weight, transposed = inputs[0], inputs[1], inputs[6]
    return prod(x if transposed else outputs[0]) * prod(weight[1:])


def _norm(scale: int) -> Handler:
    """Return a handler for a layer whose scale, or None, is the input at that place."""

    def handler(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        return prod(inputs[0]) * (NORM_MACS - (inputs[scale] is None))

    return handler


MATRIX_OPS: dict[str, Handler] = {
    "aten::linear": _inner,
    "aten::matmul": _inner,
    "aten::linalg_matmul": _inner,
    "aten::mm": _inner,
    "aten::bmm": _inner,
    "aten::mv": _inner,
    "aten::dot": _inner,
    "aten::vdot": _inner,
    "aten::inner": _inner,
    "aten::cdist": _inner,  # distances between two sets of vectors cost what their dot products do
    "aten::addmm": _plus_inner,
    "aten::addmv": _plus_inner,
    "aten::baddbmm": _plus_inner,
    "aten::addbmm": _addbmm,
    "aten::tensordot": _tensordot,
    "aten::einsum": _einsum,
    "aten::scaled_dot_product_attention": _attention,
    "aten::_convolution": _convolution,
}
"""Operators that multiply matrices."""

NORM_OPS: dict[str, Handler] = {
    "aten::layer_norm": _norm(2),
    "aten::rms_norm": _norm(2),
    "aten::group_norm": _norm(2),
    "aten::instance_norm": _norm(1),
    "aten::batch_norm": _norm(1),
}
"""Normalisation layers."""

_ELEMENTWISE = """
    abs absolute acos acosh add addcdiv addcmul angle asin asinh atan atan2 atanh bitwise_and bitwise_left_shift
    bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip conj copysign cos
    cosh deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmax fmin
    fmod frac gcd ge gelu glu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot isclose
    isfinite isinf isnan isneginf isposinf lcm ldexp le leaky_relu lerp less less_equal lgamma log log10 log1p log2
    log_sigmoid logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt maximum minimum mish mul
    multiply nan_to_num ne neg negative nextafter not_equal outer polar positive pow prelu rad2deg real reciprocal relu
    relu6 remainder round rrelu rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink
    sqrt square sub subtract tan tanh threshold true_divide trunc where xlogy
    __and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__
"""
_REDUCTION = """
    all allclose amax amin aminmax any argmax argmin argsort binary_cross_entropy binary_cross_entropy_with_logits
    bincount bucketize cosine_embedding_loss cosine_similarity count_nonzero cross cross_entropy_loss cummax cummin
    cumprod cumsum diff dist embedding_bag equal frobenius_norm histc huber_loss is_nonzero isin kl_div kthvalue l1_loss
    linalg_cross linalg_norm linalg_vecdot linalg_vector_norm log_softmax logcumsumexp logsumexp
    margin_ranking_loss max mean median min mode mse_loss msort nanmean nanmedian nansum nll_loss nll_loss_nd norm
    pairwise_distance prod quantile renorm searchsorted smooth_l1_loss soft_margin_loss softmax sort std std_mean sum
    topk trace triplet_margin_loss unique_consecutive unique_dim var var_mean _unique2 _weight_norm
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d avg_pool1d
    avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    affine_grid_generator grid_sampler upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa
"""
_MOVEMENT = """
    adjoint alias as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cat chunk clone
    col2im column_stack concat concatenate constant_pad_nd contiguous copy cpu cuda detach diag diag_embed diagonal
    dsplit dstack embedding expand expand_as fill fill_diagonal flatten flip fliplr flipud gather hsplit hstack im2col
    index index_add index_copy index_fill index_put index_reduce index_select lift lift_fresh mH mT masked_fill
    masked_scatter masked_select matrix_H meshgrid moveaxis movedim narrow nonzero nonzero_numpy numpy_T one_hot pad
    permute pixel_shuffle pixel_unshuffle put ravel reflection_pad2d repeat repeat_interleave replication_pad2d
    requires_grad reshape reshape_as resize resolve_conj resolve_neg roll rot90 scatter scatter_add scatter_reduce
    select select_scatter slice slice_scatter split split_with_sizes squeeze stack swapaxes swapdims t take
    take_along_dim tensor_split tile to transpose tril triu type_as unbind unflatten unfold unsafe_chunk unsafe_split
    unsqueeze view view_as vsplit vstack zero
    Bool Float FloatImplicit Generator Int IntImplicit ScalarImplicit Size dim item numel size
    arange as_tensor empty empty_like eye full full_like linspace new_empty new_full new_ones new_zeros ones ones_like
    scalar_tensor tensor tril_indices triu_indices zeros zeros_like
    alpha_dropout bernoulli dropout exponential feature_dropout multinomial native_dropout normal rand
    rand_like randint randint_like randn randn_like random randperm uniform
"""
FREE_OPS: set[str] = {
    f"aten::{name}{in_place}" for name in f"{_ELEMENTWISE} {_REDUCTION} {_MOVEMENT}".split() for in_place in ("", "_")
}
"""Operators without matrix arithmetic: elementwise, reductions (pooling and resampling among them), data movement,
new tensors, random numbers."""
