"""Questions about pictures, with weighted answers to train on, and with ids and perhaps answers to evaluate on."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from typing_extensions import NotRequired, TypedDict

from elip.data.annotations import Annotations
from elip.data.datasets import Sample, TrainDataset
from elip.data.ids import id_text
from elip.data.images import ImageFolder
from elip.data.json_files import read_json
from elip.data.messages import located, shorten
from elip.data.retrieval import EvalImages
from elip.data.text import clean_question
from elip.data.transforms import EvalTransform, TrainTransform
from elip.errors import DataError

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


class VqaTrainSet(TrainDataset[VqaItem]):
    """Questions to train on: `image` [3, S, S] float, `question`, `answers` and their `weights`, `index`.

    Args:
        annotations, images, transform, seed, skip_broken: see `TrainDataset`.
        max_words: words of a question kept after cleaning.
    """

    def __init__(
        self,
        annotations: Annotations[VqaItem],
        images: ImageFolder,
        transform: TrainTransform,
        seed: int,
        max_words: int,
        skip_broken: bool = False,
    ) -> None:
        super().__init__(annotations, images, transform, seed, skip_broken)
        self.max_words = max_words

    def texts(self, item: VqaItem) -> Sequence[str]:
        """Return the question and its answers."""
        return [usable_question(item["question"], self.max_words), *answer_weights(item)]

    def make_sample(self, item: VqaItem, index: int, rng: random.Random) -> Sample:
        """Return picture, question, and its different answers with their weights."""
        weights = answer_weights(item)
        return {
            "image": self.load(item["image"], rng),
            "question": usable_question(item["question"], self.max_words),
            "answers": list(weights),
            "weights": list(weights.values()),
            "index": index,
        }


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


class VqaEvalSet(EvalImages):
    """Questions to evaluate on: `image` [3, S, S] float, `question`, `index`. None is passed over.

    Args:
        annotations, images, transform: see `EvalImages`.
        max_words: words of a question kept after cleaning.

    Raises:
        DataError: two items have the same id; a question is empty after cleaning, or a list of answers is; only some
            items carry answers.
    """

    def __init__(
        self, annotations: Annotations[VqaTestItem], images: ImageFolder, transform: EvalTransform, max_words: int
    ) -> None:
        super().__init__(annotations, images, transform)
        self.questions: list[Question] = []
        first_with: dict[str, int] = {}
        for index, item in enumerate(annotations):
            with located(annotations.where(index)):
                first = first_with.setdefault(id_text(item["question_id"]), index)
                if first != index:
                    raise DataError(
                        f"field 'question_id': {item['question_id']!r} is the id of {annotations.where(first)} already"
                    )
                self.questions.append(_read(item, max_words))
                if bool(self.questions[-1].answers) != bool(self.questions[0].answers):
                    raise DataError(
                        "field 'answer' must be in all items, or in none to get answers for a server; "
                        f"{annotations.where(0)} {'has' if self.questions[0].answers else 'lacks'} it"
                    )

    @property
    def has_answers(self) -> bool:
        """Whether the annotators' answers are known."""
        return bool(self.questions[0].answers)

    def __getitem__(self, index: int) -> Sample:
        return {**super().__getitem__(index), "question": self.questions[index].text}


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
