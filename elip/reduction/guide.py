"""What a forward pass through the image encoder is given beside the image, and what it is asked to give back.

Legend: B images, P patches, N patch tokens, L text tokens, D width of the image encoder, d width of a head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """The text of each image, as the text-only layers leave it.

    Args:
        states: [B, L, width of the text], last hidden states.
        mask: [B, L], True or 1 where there is a token.
    """

    states: Tensor
    mask: Tensor

    @property
    def cls(self) -> Tensor:
        """Hidden states at [CLS], [B, width of the text]."""
        return self.states[:, 0]

    def mixed_into(self, cls: Tensor, share: float) -> Tensor:
        """Return CLS tokens of images, of which a share is the text's [CLS] instead (ELIP, section 3). [B, 1, D]."""
        return (1 - share) * cls + share * self.cls.unsqueeze(1)

    def repeat(self, count: int) -> "Text":
        """Return all texts `count` times over: for the first images of all texts, then for their second ones, ..."""
        return Text(self.states.repeat(count, 1, 1), self.mask.repeat(count, 1))


@dataclass(frozen=True)
class TeacherNeeds:
    """What a reducer wants to know of a pass of the momentum encoder, which sees whole images and runs first.

    False where it wants nothing. What is not asked for is not computed.

    Args:
        cls_rows: blocks, counted from 0, whose attention of CLS to the patches it wants.
        mixed_rows: blocks in which it wants that of a CLS that is mixed with the text's [CLS], and the text's share in
            it. The text is the momentum encoder's own, as its text-only layers leave it.
        keys: blocks whose keys of the patches, averaged over heads, it wants.
        tokens: whether it wants the patch tokens after the final norm.
    """

    cls_rows: tuple[int, ...] = ()
    mixed_rows: Mapping[int, float] = field(default_factory=dict)
    keys: tuple[int, ...] = ()
    tokens: bool = False

    def __bool__(self) -> bool:
        return bool(self.cls_rows or self.mixed_rows or self.keys or self.tokens)

    def watch(self) -> "Watch":
        """Return what to ask of the teacher's pass; its tokens come in any case."""
        return Watch(cls_rows=self.cls_rows, mixed_rows=self.mixed_rows, keys=self.keys)


@dataclass(frozen=True)
class Teacher:
    """What the momentum encoder has seen of the same images, without gradient: as much as `TeacherNeeds` asked for.

    Shape:
        cls_rows, mixed_rows: by block, [B, heads, P]
        keys: by block, [B, P, d]
        tokens: [B, P, D] or None
    """

    cls_rows: Mapping[int, Tensor] = field(default_factory=dict)
    mixed_rows: Mapping[int, Tensor] = field(default_factory=dict)
    keys: Mapping[int, Tensor] = field(default_factory=dict)
    tokens: Tensor | None = None


@dataclass(frozen=True)
class Guide:
    """What may decide which patches of an image to keep, beside the image.

    Args:
        text: of each image; None where images are encoded alone.
        progress: share of the training done, in [0, 1], for schedules; 1 in evaluation.
        teacher: what the momentum encoder saw; None in evaluation and where nothing was asked for.
    """

    text: Text | None = None
    progress: float = 1.0
    teacher: Teacher | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Guide":
        """Return the same guide with `function` of every tensor in it."""
        text, teacher = self.text, self.teacher
        return Guide(
            None if text is None else Text(function(text.states), function(text.mask)),
            self.progress,
            None
            if teacher is None
            else Teacher(
                cls_rows={block: function(row) for block, row in teacher.cls_rows.items()},
                mixed_rows={block: function(row) for block, row in teacher.mixed_rows.items()},
                keys={block: function(keys) for block, keys in teacher.keys.items()},
                tokens=None if teacher.tokens is None else function(teacher.tokens),
            ),
        )


@dataclass(frozen=True)
class Watch:
    """What the caller of an image encoder wants back beside the tokens. What is not asked for is not computed.

    Args:
        cls_rows: blocks, counted from 0, whose attention of CLS to the patches to give back.
        mixed_rows: blocks in which to give back that of a CLS that is mixed with the text's [CLS], and the text's share
            in it. The mixed token stands in the place of CLS in front of the block, query and key; what the block gives
            does not change.
        keys: blocks whose keys of the patches, averaged over heads, to give back.
        attention: block whose whole attention to give back, as a part of the graph; it is not fused then.
        source: keep track of which token each patch lives in.
    """

    cls_rows: tuple[int, ...] = ()
    mixed_rows: Mapping[int, float] = field(default_factory=dict)
    keys: tuple[int, ...] = ()
    attention: int | None = None
    source: bool = False

    @property
    def blocks(self) -> set[int]:
        """All blocks that are watched."""
        return {
            *self.cls_rows,
            *self.mixed_rows,
            *self.keys,
            *(() if self.attention is None else (self.attention,)),
        }


def text_of_cls(cls: Tensor) -> Text:
    """Return a text that is known by its [CLS] alone. cls: [B, width of the text]."""
    return Text(cls.unsqueeze(1), torch.ones(len(cls), 1, dtype=torch.bool, device=cls.device))
