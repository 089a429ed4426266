"""A sheet of the best and the worst items of an evaluation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Subset

from elip.data.datasets import EvalDataset
from elip.reduction.guide import Watch
from elip.reduction.walk import VisionOutput
from elip.sheets import Box, Example, best_and_worst, examples_sheet
from elip.task.contract import Batch, Evaluator


class Note(NamedTuple):
    """What a sheet says of an item; see `elip.sheets.Example`, whose fields these are."""

    title: str
    lines: Sequence[str]
    heat: Tensor | None = None
    boxes: Sequence[Box] = ()


def draw_best_and_worst(
    data: EvalDataset[Any],
    quality: Tensor,
    describe: Callable[[int], Note],
    encode: Callable[[Batch, Watch], VisionOutput],
    collate: Callable[[list[Any]], Batch],
    names: Sequence[str],
    num_examples: int,
    evaluator: Evaluator,
) -> dict[str, np.ndarray]:
    """Return the sheet `examples`, with the patches that were kept; nothing where there is nothing to show.

    Args:
        data: items that `collate` joins to a batch with a key `image`: [b, 3, H, W], or [b, K, 3, H, W].
        quality: [N], of the items, the higher the better.
        describe: from an item's number to what the sheet says of it.
        encode: a batch, and what to watch, to the tokens of its images, all first ones first.
        names: of the K pictures of an item.
        num_examples: items on the sheet.
        evaluator: spreads the work over ranks.
    """
    best, worst = best_and_worst(quality, num_examples)
    if not best:
        return {}

    def show(batch: Batch) -> dict[str, Tensor]:
        kept = encode(batch, Watch(source=True)).kept
        image = data.to_pixels(batch["image"])
        image = image[:, None] if image.dim() == 4 else image  # [b, K, 3, H, W]
        if not kept:
            return {"image": image}
        return {"image": image, "kept": kept[max(kept)].unflatten(0, (-1, len(image))).transpose(0, 1)}

    shown = evaluator.map(Subset(data, best + worst), show, collate)
    examples = []
    for row, note in enumerate(map(describe, best + worst)):
        examples.append(
            Example(
                image=shown["image"][row],
                title=f"{'best' if row < len(best) else 'worst'}: {note.title}",
                lines=note.lines,
                kept=shown["kept"][row] if "kept" in shown else None,
                heat=note.heat,
                boxes=note.boxes,
            )
        )
    return {"examples": examples_sheet(examples, names)}
