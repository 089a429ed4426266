"""What one operator of a forward pass costs, in multiply-adds (MACs).

Every operator is in one of three tables: it multiplies matrices and is counted exactly; it normalises and is counted as
the published figures do; or it is elementwise work, a reduction or data movement, and is free. One that is in none of
them cannot be costed, which is an error that asks for a handler:

    register_handler("my_library::mix", lambda inputs, outputs: prod(outputs[0]) * inputs[0][-1])
    register_handler("my_library::shuffle", None)  # free

Operators are those that torch dispatches to a device. Others are made of them (`linear` of `addmm`, `einsum` of `bmm`),
and so is what an `autograd.Function` runs; one whose kernel is no operator of torch's is known as
`autograd::ClassName`.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from elip.errors import ElipError

Handler = Callable[[Sequence[Any], Sequence[Any]], int]
"""(inputs, outputs) of an operator to its MACs. A tensor is given as its shape, a list of tensors as a list of shapes,
anything else as its value."""

NORM_MACS = 5
"""MACs of a normalisation layer per element (4 without scale and shift): fvcore's estimate, and part of the figures
that are published for ViTs."""


def register_handler(op: str, handler: Handler | None) -> None:
    """Make an operator known to all counts from now on.

    Args:
        op: its name, `namespace::name`.
        handler: gives its MACs; None if it multiplies no matrices and is free.

    Raises:
        ElipError: if the name has no namespace.
    """
    if "::" not in op:
        raise ElipError(f"an operator is named with its namespace, as in 'aten::mm'; got {op!r}.")
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
        return norm_macs(inputs[0], inputs[scale] is not None)

    return handler


def norm_macs(shape: Sequence[int], scaled: bool) -> int:
    """Return the MACs of a normalisation layer.

    Args:
        shape: of its input.
        scaled: whether it has scale and shift of its own.
    """
    return prod(shape) * (NORM_MACS if scaled else NORM_MACS - 1)


MATRIX_OPS: dict[str, Handler] = {
    "aten::linear": _inner,
    "aten::mm": _inner,
    "aten::bmm": _inner,
    "aten::mv": _inner,
    "aten::dot": _inner,
    "aten::vdot": _inner,
    "aten::_cdist_forward": _inner,  # distances between two sets of vectors cost what their dot products do
    "aten::_euclidean_dist": _inner,
    "aten::addmm": _plus_inner,
    "aten::addmv": _plus_inner,
    "aten::baddbmm": _plus_inner,
    "aten::addbmm": _addbmm,
    "aten::convolution": _convolution,
    # fused attention, by the kernel that torch chose; where it chooses none, the products come one by one
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
}
"""Operators that multiply matrices."""

NORM_OPS: dict[str, Handler] = {
    "aten::native_layer_norm": _norm(2),
    "aten::native_group_norm": _norm(1),
    "aten::native_batch_norm": _norm(1),
    "aten::_native_batch_norm_legit": _norm(1),
    "aten::_batch_norm_with_update": _norm(1),
    "aten::cudnn_batch_norm": _norm(1),
}
"""Normalisation layers. RMSNorm is no operator everywhere; the count knows it by its function."""

_ELEMENTWISE = """
    abs acos acosh add addcdiv addcmul addr angle asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min complex conj_physical copysign cos
    cosh deg2rad digamma div elu eq erf erfc erfinv exp exp2 expm1 floor floor_divide fmax fmin fmod frac frexp gcd ge
    gelu glu gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot i0 isinf isnan isneginf isposinf lcm ldexp le
    leaky_relu lerp lgamma log log10 log1p log2 log_sigmoid_forward logaddexp logaddexp2 logical_and logical_not
    logical_or logical_xor logit lt maximum minimum mish mul nan_to_num ne neg nextafter polar pow rad2deg reciprocal
    relu remainder round rrelu_with_noise rsqrt rsub sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink
    sqrt sub tan tanh threshold trunc where xlogy _masked_scale _prelu_kernel
    __lshift__ __rshift__ __ilshift__ __irshift__
"""
_REDUCTION = """
    all allclose amax amin aminmax any argmax argmin binary_cross_entropy binary_cross_entropy_with_logits bincount
    bucketize count_nonzero cummax cummin cumprod cumsum dist equal histc huber_loss isin kthvalue linalg_cross
    linalg_vector_norm logcumsumexp logsumexp max mean median min mode mse_loss multi_margin_loss
    multilabel_margin_loss_forward nanmedian nansum native_norm nll_loss_forward nll_loss2d_forward norm prod renorm
    searchsorted segment_reduce smooth_l1_loss soft_margin_loss sort std std_mean sum topk trace unique_consecutive
    unique_dim unique_dim_consecutive var var_mean _aminmax _cummax_helper _cummin_helper _embedding_bag
    _embedding_bag_forward_only _is_all_true _is_any_true _log_softmax _logcumsumexp _masked_softmax _safe_softmax
    _softmax _unique _unique2 _weight_norm_interface _fused_rms_norm
    adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
    avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices
    affine_grid_generator grid_sampler_2d grid_sampler_3d upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
"""
_MOVEMENT = """
    alias as_strided as_strided_scatter block_diag cat channel_shuffle clone col2im constant_pad_nd copy detach
    diag_embed diagonal diagonal_scatter embedding expand fill flip gather im2col index index_add index_copy index_fill
    index_put index_reduce index_select is_pinned is_same_size lift lift_fresh masked_fill masked_scatter masked_select
    nonzero nonzero_static permute pixel_shuffle pixel_unshuffle put record_stream reflection_pad1d reflection_pad2d
    reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d resize resize_as
    roll rot90 scatter scatter_add scatter_reduce select select_scatter set slice slice_scatter split split_with_sizes
    squeeze stack t take transpose tril triu unbind unfold unsafe_split unsafe_split_with_sizes unsqueeze view
    view_as_complex view_as_real zero
    _assert_async _assert_scalar _assert_tensor_metadata _conj _copy_from _fused_sdp_choice _index_put_impl _lazy_clone
    _local_scalar_dense _neg_view _pin_memory _reshape_alias _resize_output _stack _to_copy _unsafe_index
    _unsafe_index_put _unsafe_masked_index _unsafe_view
    arange empty empty_like empty_permuted empty_strided eye full full_like linspace logspace new_empty
    new_empty_strided new_full new_ones new_zeros ones ones_like scalar_tensor tril_indices triu_indices zeros
    zeros_like _efficientzerotensor
    bernoulli binomial cauchy exponential geometric log_normal multinomial native_dropout normal poisson rand rand_like
    randint randint_like randn randn_like random randperm uniform _fill_mem_eff_dropout_mask _fused_dropout
"""
FREE_OPS: set[str] = {
    f"aten::{name}{in_place}" for name in f"{_ELEMENTWISE} {_REDUCTION} {_MOVEMENT}".split() for in_place in ("", "_")
}
"""Operators without matrix arithmetic: elementwise, reductions (pooling and resampling among them), data movement,
new tensors, random numbers."""
