"""Questions about pictures, with weighted answers to train on, and with ids and perhaps answers to evaluate on."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from typing_extensions import NotRequired, TypedDict

from elip.data.annotations import Annotations
from elip.data.cleaning import clean_question
from elip.data.datasets import EvalDataset, PictureLoader, Sample, read_examples
from elip.data.ids import id_text
from elip.data.images import ImageFolder
from elip.data.json_files import read_json
from elip.data.transforms import EvalTransform
from elip.errors import DataError, shorten

VG_WEIGHT = 0.5
"""Of the one answer that Visual Genome gives to a question."""


class VqaItem(TypedDict):
    """A question with the answers of VQAv2's annotators (`vqa`), or Visual Genome's only one (`vg`)."""

    dataset: Literal["vqa", "vg"]
    image: str
    question: str
    answer: str | list[str]


class VqaTestItem(TypedDict):
    """A question to be answered; what annotators said serves to measure accuracy."""

    question_id: int | str
    image: str
    question: str
    answer: NotRequired[list[str]]


def question_sample(item: VqaItem, pictures: PictureLoader, _rng: random.Random, *, max_words: int) -> Sample:
    """Return `image` [3, S, S] float, `question`, its different `answers` and their `weights`.

    Args:
        max_words: words of a question kept after cleaning.
    """
    weights = answer_weights(item)
    return {
        "image": pictures.load(item["image"]),
        "question": usable_question(item["question"], max_words),
        "answers": list(weights),
        "weights": list(weights.values()),
    }


def question_texts(item: VqaItem, *, max_words: int) -> Sequence[str]:
    """Return the question and its answers."""
    return [usable_question(item["question"], max_words), *answer_weights(item)]


def answer_weights(item: VqaItem) -> dict[str, float]:
    """Return the different answers of an item and what each counts: the share of the annotators who gave it.

    Annotators who said nothing count among all, but their silence is no answer.

    Raises:
        DataError: the answers have not the form of the data set, or there is none.
    """
    dataset, answer = item["dataset"], item["answer"]
    if isinstance(answer, list) != (dataset == "vqa"):
        form = "a list of texts" if dataset == "vqa" else "text"
        raise DataError(f"field 'answer' must be {form} where 'dataset' is {dataset!r}, got {shorten(answer)}")
    answers, weight = ([answer], VG_WEIGHT) if isinstance(answer, str) else (answer, 1 / max(1, len(answer)))
    weights: dict[str, float] = {}
    for one in filter(str.strip, answers):
        weights[one] = weights.get(one, 0) + weight
    if not weights:
        raise DataError(f"field 'answer' holds no answer: {shorten(answer)}")
    return weights


def usable_question(question: str, max_words: int) -> str:
    """Return the cleaned question.

    Raises:
        DataError: nothing is left of it.
    """
    text = clean_question(question, max_words)
    if not text.strip():
        raise DataError(f"field 'question' is empty after cleaning: {shorten(question)}")
    return text


class Question(NamedTuple):
    """A question to be answered.

    Args:
        question_id: its name in the results.
        image: file of the picture.
        text: cleaned.
        answers: what the annotators said; none if that is not known.
    """

    question_id: int | str
    image: str
    text: str
    answers: Sequence[str]


def question_set(
    annotations: Annotations[VqaTestItem], images: ImageFolder, transform: EvalTransform, max_words: int
) -> EvalDataset[Question]:
    """Return questions to evaluate on: `image` [3, S, S] float, `question`, `index`.

    Args:
        annotations: the questions.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
        max_words: words of a question kept after cleaning.

    Raises:
        DataError: two items have the same id; a question is empty after cleaning, or a list of answers is; only some
            items carry answers.
    """
    first_with: dict[str, int] = {}
    answered: set[bool] = set()

    def read(item: VqaTestItem) -> Question:
        index = len(first_with)
        first = first_with.setdefault(id_text(item["question_id"]), index)
        if first != index:
            raise DataError(
                f"field 'question_id': {item['question_id']!r} is the id of {annotations.where(first)} already"
            )
        question = _read(item, max_words)
        answered.add(bool(question.answers))
        if len(answered) > 1:
            raise DataError(
                "field 'answer' must be in all items, or in none to get answers for a server; "
                f"{annotations.where(0)} {'lacks' if question.answers else 'has'} it"
            )
        return question

    return EvalDataset(read_examples(annotations, read), _sample, images, transform, annotations.where)


def _sample(question: Question, pictures: PictureLoader) -> Sample:
    return {"image": pictures.load(question.image), "question": question.text}


def _read(item: VqaTestItem, max_words: int) -> Question:
    answers = item.get("answer", [])
    if "answer" in item and not answers:
        raise DataError("field 'answer' is an empty list; leave it out where the answers are not known")
    return Question(item["question_id"], item["image"], usable_question(item["question"], max_words), answers)


def read_answer_list(path: str | Path) -> list[str]:
    """Return the candidate answers in a JSON file.

    Raises:
        DataError: the file is missing or malformed, holds something else than texts, holds none, an empty one or
            one twice.
    """
    answers: list[Any] = read_json(Path(path), list[str])
    if not answers:
        raise DataError(f"{path}: holds no answers")
    first_with: dict[str, int] = {}
    for number, answer in enumerate(answers):
        if not answer.strip():
            raise DataError(f"{path} item {number}: an answer is empty")
        if (first := first_with.setdefault(answer, number)) != number:
            raise DataError(f"{path} item {number}: {answer!r} is item {first} already; list each answer once")
    return answers
