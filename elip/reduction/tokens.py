"""The patch tokens that flow between the blocks of a ViT, and the moves a reducer makes with them.

Prefix tokens (CLS, registers) are not part of `Tokens`: the encoder holds them back.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


def take(x: Tensor, index: Tensor) -> Tensor:
    """Return the tokens of each image at its own places.

    Shape:
        x: [B, N, ...];  index: [B, K];  returns [B, K, ...]
    """
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand(*index.shape, *x.shape[2:]))


@dataclass(frozen=True)
class Tokens:
    """Patch tokens of a batch, and what each stands for.

    Args:
        x: [B, N, D].
        grid: rows and columns of the patches the image was cut into; P = rows * columns.
        size: [B, N], how many patches each token stands for; None while every token is one patch.
        mask: [B, N] bool, False for places that hold no token; None while all do. Only for reducers whose kept count
            differs between images.
        source: [B, P], for each original patch the token it now lives in, or -1 once it is dropped; None when it was
            not asked for, or when tokens have been mixed softly so that no patch lives in one token.
    """

    x: Tensor
    grid: tuple[int, int]
    size: Tensor | None = None
    mask: Tensor | None = None
    source: Tensor | None = None

    @classmethod
    def start(cls, x: Tensor, grid: tuple[int, int], track_source: bool = False) -> "Tokens":
        """Return the tokens of a whole image, one a patch. x: [B, P, D]."""
        source = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1) if track_source else None
        return cls(x, grid, source=source)

    @property
    def num_tokens(self) -> int:
        """N, places that hold no token included."""
        return self.x.shape[1]

    @property
    def num_patches(self) -> int:
        """P, the patches of the whole image."""
        return self.grid[0] * self.grid[1]

    @property
    def sizes(self) -> Tensor:
        """[B, N], how many patches each token stands for, in float32: half precision cannot count past 256."""
        return self.x.new_ones(self.x.shape[:2], dtype=torch.float32) if self.size is None else self.size

    def with_x(self, x: Tensor) -> "Tokens":
        """Return the same tokens with other values. x: [B, N, D]."""
        return replace(self, x=x)

    def keep(self, index: Tensor, mask: Tensor | None = None) -> "Tokens":
        """Return the tokens at `index`, in that order, without the others.

        Args:
            index: [B, K], places to keep, none twice.
            mask: [B, K] bool, False for places of `index` whose tokens go, too, so that images may keep different
                numbers; None for none.
        """
        if mask is not None and self.mask is not None:
            mask = mask & take(self.mask, index)
        elif self.mask is not None:
            mask = take(self.mask, index)
        return Tokens(
            x=take(self.x, index),
            grid=self.grid,
            size=None if self.size is None else take(self.size, index),
            mask=mask,
            source=self._moved(index, mask),
        )

    def keep_and_fuse(self, index: Tensor, rest: Tensor, weight: Tensor) -> "Tokens":
        """Return the tokens at `index`, then one more: the sum of the tokens at `rest`, times their weights.

        The patches at `rest` live on in the last token.

        Args:
            index: [B, K], places to keep, in the order wanted.
            rest: [B, R], all other places.
            weight: [B, R], as they are; normalising is the caller's choice.
        """
        kept = self.keep(index)
        fused = torch.einsum("br,brd->bd", weight.to(self.x.dtype), take(self.x, rest)).unsqueeze(1)
        sizes = self.sizes
        fused_size = take(sizes, rest).sum(1, keepdim=True)
        source = kept.source
        if source is not None and self.source is not None:
            lost = (source < 0) & (self.source >= 0)
            source = torch.where(lost, index.shape[1], source)
        mask = None if kept.mask is None else torch.cat([kept.mask, kept.mask.new_ones(len(index), 1)], dim=1)
        return Tokens(
            x=torch.cat([kept.x, fused], dim=1),
            grid=self.grid,
            size=torch.cat([take(sizes, index), fused_size], dim=1),
            mask=mask,
            source=source,
        )

    def merge(self, x: Tensor, group: Tensor) -> "Tokens":
        """Return the groups that tokens were merged into; sizes add up, patches follow their token.

        Args:
            x: [B, M, D], the new tokens.
            group: [B, N], the new token that each old one is part of, in [0, M).
        """
        size = x.new_zeros(x.shape[:2], dtype=torch.float32).scatter_add(1, group, self.sizes)
        source = None
        if self.source is not None:
            source = torch.where(self.source < 0, -1, group.gather(1, self.source.clamp_min(0)))
        return Tokens(x=x, grid=self.grid, size=size, source=source)

    def mix(self, x: Tensor) -> "Tokens":
        """Return new tokens that each draw on many old ones, so that no patch lives in one of them. x: [B, M, D]."""
        return Tokens(x=x, grid=self.grid)

    def restore(self, values: Tensor | None = None, fill: float = 0.0) -> Tensor:
        """Return per-token values back on the patch grid: each patch gets its token's value.

        Args:
            values: [B, N, ...]; the tokens themselves by default.
            fill: what patches that were dropped get.

        Returns:
            [B, rows, columns, ...]

        Raises:
            ValueError: if the source of the tokens was not tracked, or they were mixed softly.
        """
        if self.source is None:
            raise ValueError(
                "these tokens have no source map: watch it (Watch(source=True)); "
                "a reducer that mixes tokens softly cannot give one"
            )
        values = self.x if values is None else values
        painted = take(values, self.source.clamp_min(0))
        dropped = (self.source < 0).view(*self.source.shape, *[1] * (values.dim() - 2))
        return painted.masked_fill(dropped, fill).unflatten(1, self.grid)

    def kept(self) -> Tensor:
        """Return which patches still have a token to themselves, on the patch grid: [B, rows, columns] bool."""
        return self.restore(self.sizes) == 1

    def _moved(self, index: Tensor, mask: Tensor | None) -> Tensor | None:
        """Source map after keeping `index` where there are tokens."""
        if self.source is None:
            return None
        place = torch.full(self.x.shape[:2], -1, dtype=torch.long, device=self.x.device)
        new = torch.arange(index.shape[1], device=index.device).expand_as(index)
        place = place.scatter(1, index, new if mask is None else new.where(mask, -1))
        return torch.where(self.source < 0, -1, place.gather(1, self.source.clamp_min(0)))
