"""Other ways to count the products of matrices in a forward pass, which share no handler with the toolkit's."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from elip.models.vision import VisionEncoder


def torch_macs(module: nn.Module, inputs: Sequence[Any]) -> int:
    """Return what torch's FlopCounterMode counts; attention on the CPU and distances, which it lacks, are added."""

    def attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def distances(x: Any, y: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * prod(x) * y[-2]

    lacking = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._cdist_forward: distances,
        torch.ops.aten._euclidean_dist: distances,
    }
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=lacking) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


def vit_macs(encoder: VisionEncoder, attention: Sequence[int], mlp: Sequence[int]) -> int:
    """Return the closed formula for a plain ViT with its head: 4NC^2 + 2N^2C and 2 * mlp_ratio * NC^2 a block.

    Args:
        encoder: the ViT.
        attention: tokens in the attention of each block, prefix included.
        mlp: tokens in the MLP of each block.
    """
    width, patches = encoder.width, encoder.grid[0] * encoder.grid[1]
    patch = encoder.patch_embed.patch_size[0]
    hidden = encoder.blocks[0].mlp.fc1.out_features
    blocks = sum(
        4 * n * width**2 + 2 * n**2 * width + 2 * m * width * hidden for n, m in zip(attention, mlp, strict=True)
    )
    return blocks + patches * width * 3 * patch**2 + width * encoder.head.out_features


def look_ahead_macs(width: int, stages: Sequence[tuple[int, int]], full: bool) -> int:
    """Return the closed formula for ELIP's look-ahead, of blocks with an MLP four times as wide.

    Args:
        width: C.
        stages: (tokens N, blocks run ahead) of each stage.
        full: run the last block in full, and not only as far as the attention row of CLS.
    """
    total = 0
    for n, ahead in stages:
        block = 12 * n * width**2 + 2 * n**2 * width
        row = width**2 + n * width**2 + n * width  # one query, all keys, their products
        total += (ahead - 1) * block + (block + n * width if full else row)
    return total
