"""Answers on hand-made scores, and the rules of the official accuracy one by one."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elip.engine.results import write_result
from elip.sheets import Example
from elip.task import EvalResult, examples
from elip.testing import LocalEvaluator
from tasks.vqa.accuracy import normalise_words, strip_punctuation, vqa_accuracy
from tasks.vqa.data import Question
from tasks.vqa.evaluation import chance_accuracy, evaluate_vqa

ANSWERED = [{"yes": 0.9, "no": 0.1}, {"two": 0.6}, {"red": 0.7}, {"blue": 0.2}]
SAID: list[list[str]] = [["yes"] * 10, ["2"] * 4 + ["3"] * 6, ["blue"] * 10, ["red"] * 10]


class Data:
    """Four questions; the image of each is its number in every pixel."""

    def __init__(self, has_answers: bool) -> None:
        self.examples = [
            Question(i + 70, f"{i}.png", f"question {i}", SAID[i] if has_answers else []) for i in range(4)
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((3, 8, 8), float(index))

    def to_pixels(self, images: Tensor) -> Tensor:
        return images


class Vision:
    kept: Mapping[int, Tensor] = MappingProxyType({})


def evaluate(has_answers: bool = True, num_examples: int = 4) -> EvalResult:
    def answer(batch: dict[str, Tensor]) -> list[dict[str, float]]:
        return [ANSWERED[i] for i in batch["image"][:, 0, 0, 0].long().tolist()]

    def collate(images: list[Any]) -> dict[str, Tensor]:
        return {"image": torch.stack(images)}

    data: Any = Data(has_answers)
    return evaluate_vqa(data, answer, lambda batch, watch: Vision(), collate, num_examples, LocalEvaluator())  # type: ignore[arg-type,return-value]


def test_accuracy_is_the_mean_of_the_questions() -> None:
    assert evaluate().metrics == {"accuracy": pytest.approx((100 + 100 + 0 + 0) / 4)}


def test_chance_is_what_the_commonest_answer_would_reach() -> None:
    assert evaluate().chance == {"accuracy": pytest.approx(25)}  # yes, blue and red are said ten times each
    assert chance_accuracy([["a cat"] * 10, ["dog"] * 9 + ["a cat"]]) == pytest.approx(0)  # "cat" once the article goes
    assert chance_accuracy([["cat"] * 10, ["dog"] * 9 + ["cat"]]) == pytest.approx((100 + 30) / 2)


def test_predictions_name_the_question_and_what_was_said() -> None:
    assert evaluate().predictions[1] == {
        "question_id": 71,
        "image": "1.png",
        "question": "question 1",
        "answer": "two",
        "scores": {"two": 0.6},
        "answers": ["2"] * 4 + ["3"] * 6,
        "accuracy": pytest.approx(100),
    }


def test_without_known_answers_there_is_no_accuracy_but_still_a_file_for_the_server(tmp_path: Path) -> None:
    result = evaluate(has_answers=False)
    assert result.metrics == {}
    assert result.chance == {}
    assert set(result.predictions[0]) == {"question_id", "image", "question", "answer", "scores"}
    write_result(result, tmp_path)
    assert json.loads((tmp_path / "vqa_result.json").read_text()) == [
        {"question_id": 70, "answer": "yes"},
        {"question_id": 71, "answer": "two"},
        {"question_id": 72, "answer": "red"},
        {"question_id": 73, "answer": "blue"},
    ]


@pytest.mark.parametrize(
    ("has_answers", "order"),
    [(True, [0, 1, 2, 3]), (False, [0, 2, 3, 1])],
    ids=["surely right and surely wrong", "surest and least sure"],
)
def test_the_sheet_shows_the_best_and_the_worst(
    monkeypatch: pytest.MonkeyPatch, has_answers: bool, order: list[int]
) -> None:
    shown: list[Example] = []
    monkeypatch.setattr(examples, "examples_sheet", lambda several, names: shown.extend(several))
    evaluate(has_answers)
    assert [one.lines[0] for one in shown] == [f"question {i}" for i in order]
    assert [one.title.split(":")[0] for one in shown] == ["best", "best", "worst", "worst"]


def test_the_sheet_says_what_was_answered_and_what_annotators_said(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Example] = []
    monkeypatch.setattr(examples, "examples_sheet", lambda several, names: shown.extend(several))
    evaluate(num_examples=2)
    assert shown[0].title == "best: accuracy 100%"
    assert list(shown[1].lines) == ["question 2", "answer: red (70%)", "annotators: blue x 10"]


@given(st.integers(0, 10))
def test_accuracy_counts_annotators_who_agree_with_one_left_out_each_time(agree: int) -> None:
    said = ["yes"] * agree + ["no"] * (10 - agree)
    each = [min(1, (said[:left] + said[left + 1 :]).count("yes") / 3) for left in range(10)]
    assert vqa_accuracy("yes", said) == pytest.approx(100 * sum(each) / 10)


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("red, white", "red white"),
        ("black/white", "black white"),
        ("1,000", "1000"),
        ("2.5 m.", "2.5 m"),
        ("10:30", "10:30"),
        ("what?", "what "),
        ("it's", "it's"),
    ],
)
def test_punctuation_goes_but_not_from_numbers_and_times(text: str, stripped: str) -> None:
    assert strip_punctuation(text) == stripped


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Two dogs", "2 dogs"),
        ("an apple", "apple"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("well", "well"),
        ("  a   b ", "b"),
    ],
)
def test_words_lose_case_and_articles_and_numbers_become_digits(text: str, normal: str) -> None:
    assert normalise_words(text) == normal


def test_line_breaks_and_tabs_in_a_prediction_are_spaces() -> None:
    assert vqa_accuracy("\tleft\nside ", ["left side"] * 10) == 100
