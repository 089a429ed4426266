"""What a reducer may know of the encoder that it is built for."""

from dataclasses import dataclass

from elip.errors import ElipError


@dataclass(frozen=True)
class EncoderInfo:
    """What a reducer may know of the encoder when it is built.

    Args:
        depth: number of blocks.
        width: D.
        num_heads: attention heads of a block.
        grid: rows and columns of patches.
        num_prefix_tokens: CLS and registers.
        has_class_token: whether the first prefix token is CLS.
        text_width: width of the text encoder, None where there is none.
    """

    depth: int
    width: int
    num_heads: int
    grid: tuple[int, int]
    num_prefix_tokens: int = 1
    has_class_token: bool = True
    text_width: int | None = None

    @property
    def num_patches(self) -> int:
        """P, patches of the full grid."""
        return self.grid[0] * self.grid[1]


def require_class_token(encoder: EncoderInfo) -> None:
    """Raise an error for an encoder without a class token: for a reducer that scores patches by it."""
    if not encoder.has_class_token:
        raise ElipError(
            "it scores patches by the attention of the class token, and this ViT has none. "
            "Take a ViT with a class token, or a reducer that needs none (random, or one that merges)."
        )


def require_text_width(encoder: EncoderInfo) -> None:
    """Raise an error for a text encoder of another width: for a reducer that puts its [CLS] among image tokens."""
    if encoder.text_width not in (None, encoder.width):
        raise ElipError(
            f"it puts the text's [CLS] among the image's tokens, so their widths must be equal: the ViT's is "
            f"{encoder.width}, the text encoder's {encoder.text_width}. Take encoders of one width."
        )
