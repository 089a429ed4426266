"""Answers to questions: the official accuracy, the file that the official server takes, best and worst examples."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from elip.data.datasets import EvalDataset
from elip.reduction.guide import Watch
from elip.reduction.walk import VisionOutput
from elip.task import Batch, EvalResult, Evaluator, ItemScores
from elip.task.examples import Note, draw_best_and_worst
from elip.task.finite import check_finite
from tasks.vqa.accuracy import vqa_accuracy
from tasks.vqa.data import Question

RESULT_FILE = "vqa_result.json"
"""What the official server takes: a list of {question_id, answer}."""

Answered = dict[str, float]
"""Answers to a question, the best one first, with their scores in [0, 1]."""


def evaluate_vqa(
    data: EvalDataset[Question],
    answer: Callable[[Batch], list[Answered]],
    encode: Callable[[Batch, Watch], VisionOutput],
    collate: Callable[[list[Any]], Batch],
    num_examples: int,
    evaluator: Evaluator,
) -> EvalResult:
    """Return answers to all questions, their official accuracy, and a sheet of the best and the worst examples.

    Where the annotators' answers are not known, there is no accuracy. The chance beside it is that of always giving the
    answer that annotators give most often.

    Args:
        data: the questions.
        answer: a batch to the answers to its questions.
        encode: a batch, and what to watch in the image encoder, to the tokens of its images.
        collate: items to a batch.
        num_examples: examples on the sheet.
        evaluator: spreads the work over ranks.
    """
    answered = evaluator.map(data, lambda batch: {"answers": answer(batch)}, collate)["answers"]
    check_finite(torch.tensor([sum(one.values()) for one in answered]), "scores of answers")
    predictions = [_prediction(one, given) for one, given in zip(data.examples, answered, strict=True)]
    has_answers = bool(data.examples[0].answers)
    quality = torch.tensor([_quality(one) for one in predictions])
    return EvalResult(
        metrics={"accuracy": _mean([one["accuracy"] for one in predictions])} if has_answers else {},
        chance={"accuracy": chance_accuracy([one.answers for one in data.examples])} if has_answers else {},
        predictions=predictions,
        sheets=draw_best_and_worst(
            data, quality, lambda i: _describe(predictions[i]), encode, collate, ["image"], num_examples, evaluator
        ),
        scores=[ItemScores([one["accuracy"] for one in predictions], [one["image"] for one in predictions])]
        if has_answers
        else [],
        files={RESULT_FILE: [{key: one[key] for key in ("question_id", "answer")} for one in predictions]},
    )


def chance_accuracy(answers: Sequence[Sequence[str]]) -> float:
    """Return the accuracy, in percent, of giving all questions the answer that annotators give most often.

    Args:
        answers: what the annotators said to each question.
    """
    commonest = Counter(one for said in answers for one in said).most_common(1)[0][0]
    return _mean([vqa_accuracy(commonest, said) for said in answers])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _prediction(question: Question, answered: Answered) -> dict[str, Any]:
    answer = next(iter(answered))
    prediction = {
        "question_id": question.question_id,
        "image": question.image,
        "question": question.text,
        "answer": answer,
        "scores": answered,
    }
    if not question.answers:
        return prediction
    return {**prediction, "answers": list(question.answers), "accuracy": vqa_accuracy(answer, question.answers)}


def _quality(prediction: dict[str, Any]) -> float:
    """Return how well a question is answered: surely right is best, surely wrong is worst."""
    sureness = prediction["scores"][prediction["answer"]]
    return sureness * (prediction["accuracy"] / 50 - 1) if "accuracy" in prediction else sureness


def _describe(prediction: dict[str, Any]) -> Note:
    answer, lines = prediction["answer"], [prediction["question"]]
    lines.append(f"answer: {answer} ({prediction['scores'][answer]:.0%})")
    if "accuracy" not in prediction:
        return Note("sureness", lines)
    said = ", ".join(f"{one} x {count}" for one, count in Counter(prediction["answers"]).most_common(3))
    return Note(f"accuracy {prediction['accuracy']:.0f}%", [*lines, f"annotators: {said}"])
