"""Accuracy of a classifier of texts with images, its predictions, and its best and worst examples."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from elip.data.labelled import Labelled, LabelledEvalSet
from elip.models.classifier import Classified
from elip.task import Batch, EvalResult, Evaluator
from elip.visualize import Example, best_and_worst, examples_sheet


def evaluate_classifier(
    data: LabelledEvalSet,
    classify: Callable[..., Classified],
    collate: Callable[[list[Any]], Batch],
    labels: Sequence[str],
    names: Sequence[str],
    num_pictures: int,
    evaluator: Evaluator,
) -> EvalResult:
    """Return accuracy in percent, a prediction for every text, and a sheet of the best and the worst examples.

    The chance that stands beside the accuracy is that of always giving the commonest label.

    Args:
        data: texts with pictures and labels.
        classify: a batch and options of the image encoder to logits.
        collate: items to a batch.
        labels: names of the classes, by number.
        names: of the pictures of a text, for the sheet.
        num_pictures: examples on the sheet.
        evaluator: spreads the work over ranks.
    """

    def score(batch: Batch) -> dict[str, Tensor]:
        return {"scores": classify(batch).logits.float().softmax(dim=1)}

    scores = evaluator.map(data, score, collate)["scores"]
    truth = torch.tensor([example.label for example in data.examples])
    predicted = scores.argmax(dim=1)
    predictions = [
        _prediction(example, row, guess, labels)
        for example, row, guess in zip(data.examples, scores, predicted.tolist(), strict=True)
    ]
    return EvalResult(
        metrics={"accuracy": 100 * (predicted == truth).double().mean().item()},
        chance={"accuracy": 100 * (truth.bincount().max() / len(truth)).item()},
        predictions=predictions,
        pictures=_examples(data, classify, collate, predictions, names, num_pictures, evaluator),
    )


def _prediction(example: Labelled, scores: Tensor, guess: int, labels: Sequence[str]) -> dict[str, Any]:
    images = {"image": example.images[0]} if len(example.images) == 1 else {"images": list(example.images)}
    return {
        **images,
        "text": example.text,
        "prediction": labels[guess],
        "truth": labels[example.label],
        "scores": dict(zip(labels, scores.tolist(), strict=True)),
    }


def _examples(
    data: LabelledEvalSet,
    classify: Callable[..., Classified],
    collate: Callable[[list[Any]], Batch],
    predictions: Sequence[dict[str, Any]],
    names: Sequence[str],
    num_pictures: int,
    evaluator: Evaluator,
) -> dict[str, np.ndarray]:
    """A sheet of the texts whose truth is given the highest and the lowest probability."""
    quality = torch.tensor([one["scores"][one["truth"]] for one in predictions])
    best, worst = best_and_worst(quality, num_pictures)
    if not best:
        return {}

    def show(batch: Batch) -> dict[str, Tensor]:
        kept = classify(batch, track_source=True).vision.kept
        image = batch["image"]
        image = image[:, None] if image.dim() == 4 else image  # [b, K, 3, H, W]
        if not kept:
            return {"image": image}
        return {"image": image, "kept": kept[max(kept)].unflatten(0, (-1, len(image))).transpose(0, 1)}

    shown = evaluator.map(Subset(data, best + worst), show, collate)
    examples = [
        Example(
            image=shown["image"][row],
            title=f"{'best' if row < len(best) else 'worst'}: {quality[place]:.0%} for the truth",
            lines=_lines(predictions[place]),
            kept=shown["kept"][row] if "kept" in shown else None,
        )
        for row, place in enumerate(best + worst)
    ]
    return {"examples": examples_sheet(examples, names)}


def _lines(prediction: dict[str, Any]) -> list[str]:
    return [prediction["text"], f"prediction: {prediction['prediction']}", f"truth: {prediction['truth']}"]
