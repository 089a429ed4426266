"""Grounding without boxes in training: detected boxes ranked by the map of where a text is found in a picture."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elip.data.boxes import BoxList, clip, iou
from elip.data.datasets import EvalDataset
from elip.reduction.guide import Watch
from elip.reduction.walk import VisionOutput
from elip.sheets import Box
from elip.task import Batch, EvalResult, Evaluator, ItemScores
from elip.task.examples import Note, draw_best_and_worst
from elip.task.finite import check_finite
from tasks.grounding.data import Expression, Target

MIN_IOU = 0.5
"""Overlap with the true box from which a chosen one counts as right."""


def evaluate_grounding(
    data: EvalDataset[Expression],
    locate: Callable[[Batch], Tensor],
    encode: Callable[[Batch, Watch], VisionOutput],
    collate: Callable[[list[Any]], Batch],
    num_examples: int,
    evaluator: Evaluator,
) -> EvalResult:
    """Return the share of texts whose best-ranked detection overlaps what is meant, in all and by split of RefCOCO+.

    The chance beside it is that of choosing any of a picture's detections.

    Args:
        data: texts with pictures and boxes.
        locate: a batch to a map [b, rows, columns], the larger the more the text is there.
        encode: a batch, and what to watch in the image encoder, to the tokens of its images.
        collate: items to a batch.
        num_examples: examples on the sheet.
        evaluator: spreads the work over ranks.
    """
    maps = evaluator.map(data, lambda batch: {"map": locate(batch).float()}, collate)["map"]
    check_finite(maps, "maps of where a text is")
    targets = [example.target for example in data.examples]
    outcomes = [_choose(target, heat) for target, heat in zip(targets, maps, strict=True)]
    right = [outcome["iou"] >= MIN_IOU for outcome in outcomes]
    guess = [_chance(target) for target in targets]
    predictions = [
        {"image": one.image, "text": one.text, "ref_id": one.ref_id, "split": one.target.split, **outcome}
        for one, outcome in zip(data.examples, outcomes, strict=True)
    ]
    return EvalResult(
        metrics=_by_split(targets, right),
        scores=[ItemScores([100.0 * one for one in right], [example.image for example in data.examples])],
        predictions=predictions,
        sheets=draw_best_and_worst(
            data,
            torch.tensor([one["iou"] for one in predictions]),
            lambda index: _describe(predictions[index], targets[index], maps[index]),
            encode,
            collate,
            ["image"],
            num_examples,
            evaluator,
        ),
        chance=_by_split(targets, guess),
    )


def box_scores(heat: Tensor, size: tuple[int, int], boxes: Sequence[Sequence[float]]) -> list[float]:
    """Return for each box the sum of the map in it, over the root of its area (ALBEF's ranking).

    A box counts as far as it is on the picture, and as at least one pixel wide and high; one beside it comes last.

    Args:
        heat: [rows, columns], stretched over the picture.
        size: height and width of the picture, pixels.
        boxes: left, top, width, height.
    """
    shown = F.interpolate(heat[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]
    scores = []
    for box in boxes:
        part = clip(box, size)
        if part is None:
            scores.append(-inf)
            continue
        left, top, width, height = part
        right, bottom = max(int(left + width), int(left) + 1), max(int(top + height), int(top) + 1)
        inside = shown[int(top) : bottom, int(left) : right]
        scores.append(inside.sum().item() / (max(width, 1) * max(height, 1)) ** 0.5)
    return scores


def _choose(target: Target, heat: Tensor) -> dict[str, Any]:
    scores = box_scores(heat, target.size, target.detections)
    chosen = target.detections[int(np.argmax(scores))]
    return {"prediction": chosen, "truth": target.box, "iou": iou(chosen, target.box)}


def _chance(target: Target) -> float:
    return float(np.mean([iou(box, target.box) >= MIN_IOU for box in target.detections]))


def _by_split(targets: Sequence[Target], values: Sequence[float]) -> dict[str, float]:
    """Return means in percent: of all, then of each split there is."""
    splits = sorted({target.split for target in targets})
    found = {"accuracy": float(np.mean(values)) * 100}
    for split in splits:
        here = [value for target, value in zip(targets, values, strict=True) if target.split == split]
        found[f"accuracy_{split}"] = float(np.mean(here)) * 100
    return found


def _describe(prediction: dict[str, Any], target: Target, heat: Tensor) -> Note:
    heat = heat.clamp_min(0)
    return Note(
        f"overlap {prediction['iou']:.2f}",
        [prediction["text"], "green: what is meant", "red: chosen"],
        heat[None] / heat.max().clamp_min(1e-12),
        [_drawn(target.box, target, "lime"), _drawn(prediction["prediction"], target, "red")],
    )


def _drawn(box: BoxList, target: Target, colour: str) -> Box:
    (left, top, width, height), (rows, columns) = box, target.size
    return Box(left / columns, top / rows, (left + width) / columns, (top + height) / rows, colour)
