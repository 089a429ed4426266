"""MACs of einsum are those of the matrix products that torch makes of it."""

import pytest
import torch
from torch import nn

from elip.efficiency.einsum import einsum_macs
from tests.efficiency.counts import torch_macs


class Einsum(nn.Module):
    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, *operands: torch.Tensor) -> torch.Tensor:
        return torch.einsum(self.equation, *operands)


CASES = [
    ("br,brd->bd", [(2, 3), (2, 3, 4)]),
    ("bnd,bmd->bnm", [(2, 3, 4), (2, 5, 4)]),
    ("b n d, b m d", [(2, 3, 4), (2, 5, 4)]),
    ("...ij,...jk->...ik", [(2, 3, 4, 5), (3, 5, 6)]),
    ("i...,...j->ij...", [(2, 3, 4), (3, 4, 5)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ("ab,bc,cd,de->ae", [(2, 3), (3, 4), (4, 5), (5, 6)]),
    ("ij,k->k", [(2, 3), (4,)]),
    ("bij->bi", [(2, 3, 4)]),
]


@pytest.mark.parametrize(("equation", "shapes"), CASES)
def test_the_count_is_that_of_the_products_torch_makes(equation: str, shapes: list[tuple[int, ...]]) -> None:
    expected = torch_macs(Einsum(equation), [torch.ones(shape) for shape in shapes])
    assert einsum_macs(equation, shapes, None) == expected


def test_operands_are_contracted_along_the_path_that_torch_was_given() -> None:
    shapes = [(2, 3), (3, 4), (4, 5)]
    assert einsum_macs("ij,jk,kl->il", shapes, [1, 2, 0, 1]) == 3 * 4 * 5 + 2 * 3 * 5
    assert einsum_macs("ij,jk,kl->il", shapes, None) == 2 * 3 * 4 + 2 * 4 * 5


def test_a_product_without_a_sum_is_elementwise() -> None:
    assert einsum_macs("bn,bn->bn", [(2, 3), (2, 3)], None) == 0
