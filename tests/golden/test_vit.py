"""The small ViT of the reducers' numbers, without any reduction."""

from pathlib import Path

from tests.golden.vit import assert_same_pass, load_reference, small_vit


def test_unreduced_vit_agrees_block_by_block(golden_reducers: Path) -> None:
    assert_same_pass(
        small_vit(golden_reducers), None, load_reference(golden_reducers / "vit_plain.safetensors").tensors
    )
