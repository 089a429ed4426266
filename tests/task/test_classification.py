"""Accuracy, predictions and the choice of examples, on hand-made logits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from elip.models.classifier import Classified
from elip.reduction.guide import Watch
from elip.sheets import Example
from elip.task import EvalResult, examples
from elip.task.classification import evaluate_classifier
from elip.task.labelled import Labelled
from elip.testing import LocalEvaluator

LABELS = ("no", "maybe", "yes")
LOGITS = torch.tensor([[0.0, 0, 9], [0, 5, 0], [0, 0, 4], [3, 0, 0], [0, 1, 0]])
TRUTH = (2, 0, 2, 0, 2)


class Data:
    """Five texts; the image of each is its number in every pixel."""

    examples = tuple(Labelled((f"{i}.png",), f"text {i}", truth) for i, truth in enumerate(TRUTH))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((3, 8, 8), float(index))

    def to_pixels(self, images: Tensor) -> Tensor:
        return images


class Vision:
    def __init__(self, kept: dict[int, Tensor]) -> None:
        self.kept = kept


def classify(batch: dict[str, Tensor], watch: Watch | None = None) -> Classified:
    index = batch["image"][:, 0, 0, 0].long()
    grid = torch.arange(4).view(1, 2, 2) < index.view(-1, 1, 1)
    kept = {1: torch.ones_like(grid), 2: grid} if watch is not None else {}
    return Classified(LOGITS[index], Vision(kept))  # type: ignore[arg-type]


def evaluate(num_examples: int = 2) -> EvalResult:
    def collate(images: list[Any]) -> dict[str, Tensor]:
        return {"image": torch.stack(images)}

    return evaluate_classifier(Data(), classify, collate, LABELS, ("image",), num_examples, LocalEvaluator())  # type: ignore[arg-type]


def test_accuracy_is_the_share_of_right_answers_in_percent() -> None:
    assert evaluate().metrics == {"accuracy": pytest.approx(60.0)}


def test_chance_is_what_the_commonest_label_would_reach() -> None:
    assert evaluate().chance == {"accuracy": pytest.approx(60.0)}


def test_predictions_come_in_the_order_of_the_data() -> None:
    predictions = evaluate().predictions
    assert [one["image"] for one in predictions] == [f"{i}.png" for i in range(5)]
    assert [one["prediction"] for one in predictions] == ["yes", "maybe", "yes", "no", "maybe"]
    assert [one["truth"] for one in predictions] == ["yes", "no", "yes", "no", "yes"]
    assert predictions[3]["scores"] == pytest.approx({"no": 0.9094, "maybe": 0.0453, "yes": 0.0453}, abs=1e-4)


def test_the_sheet_shows_the_surest_right_answer_and_the_surest_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Example] = []
    monkeypatch.setattr(examples, "examples_sheet", lambda several, names: shown.extend(several))
    evaluate(num_examples=3)
    assert [one.lines[0] for one in shown] == ["text 0", "text 2", "text 1"]
    assert [one.title.split(":")[0] for one in shown] == ["best", "best", "worst"]
    assert [one.image.flatten()[0].item() for one in shown] == [0, 2, 1]
    assert [one.kept.sum().item() for one in shown if one.kept is not None] == [0, 2, 1]  # of the last reduction


def test_no_sheet_without_examples() -> None:
    assert evaluate(num_examples=0).sheets == {}
