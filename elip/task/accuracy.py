"""Accuracy of a classifier of texts with images, its predictions, and its best and worst examples."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from elip.data.datasets import EvalDataset
from elip.models.classifier import Classified
from elip.task.contract import Batch, EvalResult, Evaluator
from elip.task.examples import Account, draw_best_and_worst
from elip.task.finite import check_finite
from elip.task.labelled import Labelled


def evaluate_classifier(
    data: EvalDataset[Labelled],
    classify: Callable[..., Classified],
    collate: Callable[[list[Any]], Batch],
    labels: Sequence[str],
    names: Sequence[str],
    num_examples: int,
    evaluator: Evaluator,
) -> EvalResult:
    """Return accuracy in percent, a prediction for every text, and a sheet of the best and the worst examples.

    The chance that stands beside the accuracy is that of always giving the commonest label.

    Args:
        data: texts with pictures and labels.
        classify: a batch, and by keyword what to `watch` in the image encoder, to logits.
        collate: items to a batch.
        labels: names of the classes, by number.
        names: of the pictures of a text, for the sheet.
        num_examples: examples on the sheet.
        evaluator: spreads the work over ranks.
    """

    def score(batch: Batch) -> dict[str, Tensor]:
        return {"scores": classify(batch).logits.float().softmax(dim=1)}

    scores = evaluator.map(data, score, collate)["scores"]
    check_finite(scores, "scores of labels")
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
        sheets=draw_best_and_worst(
            data,
            torch.tensor([_given_to_truth(one) for one in predictions]),
            lambda index: _describe(predictions[index]),
            lambda batch, watch: classify(batch, watch=watch).vision,
            collate,
            names,
            num_examples,
            evaluator,
        ),
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


def _given_to_truth(prediction: dict[str, Any]) -> float:
    """Return the probability of the right label."""
    return prediction["scores"][prediction["truth"]]


def _describe(prediction: dict[str, Any]) -> Account:
    lines = [prediction["text"], f"prediction: {prediction['prediction']}", f"truth: {prediction['truth']}"]
    return Account(f"{_given_to_truth(prediction):.0%} for the truth", lines)
