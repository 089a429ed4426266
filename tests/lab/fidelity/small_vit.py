"""A small ViT of timm with weights in a file, and pictures for it."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer, vit_tiny_patch16_224

from elip.lab.fidelity.subjects import VitSubject

NAME, SIDE = "lab_vit", 64
"""4 blocks of 16 patches, 32 wide."""

RANDOM = "{name: random, begin: [1], keep_ratio: [0.5]}"
TOME = "{name: tome, r: 1}"
TOPK = "{name: topk, begin: [1], keep_ratio: [0.25]}"
SIT = "{name: sit, begin: [1], keep_ratio: [0.5]}"
POOL = "{name: pool, begin: [2]}"
ELIP = "{name: elip, begin: [1], look_ahead: [2], keep_ratio: [0.5]}"


@register_model
def lab_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    return vit_tiny_patch16_224(pretrained, **{"depth": 4, "embed_dim": 32, "num_heads": 2, **options})


def small_vit(**options: Any) -> VisionTransformer:
    """Return the ViT with random weights, large enough for attention to choose, the same each time."""
    generator = torch.Generator().manual_seed(0)
    vit = timm.create_model(NAME, img_size=SIDE, **options)
    with torch.no_grad():
        for name, weight in vit.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.3, generator=generator)
    return vit.eval()


def weights_file(folder: Path) -> Path:
    """Return a file of its weights, with a classifier."""
    path = folder / "vit.safetensors"
    save_file(small_vit(num_classes=5).state_dict(), path)
    return path


def vit_subject(weights: Path) -> VitSubject:
    """Return the ViT as the lab measures it."""
    return VitSubject(NAME, SIDE, str(weights), torch.device("cpu"))


def class_folders(folder: Path, classes: int = 3, each: int = 5) -> Path:
    """Return a folder of pictures, a folder a class, which differ by their colour, and each by its own patches."""
    rng = np.random.default_rng(0)
    for kind in range(classes):
        (folder / f"kind{kind}").mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 160, (4, 4, 3))
            pixels[..., kind] += 60
            Image.fromarray(pixels.astype(np.uint8)).resize((SIDE, SIDE), 0).save(folder / f"kind{kind}/{number}.png")
    return folder
