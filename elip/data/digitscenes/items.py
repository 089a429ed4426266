"""The annotation files of every task, as JSON values by file name."""

from typing import Any

from elip.data.digitscenes.captions import captions
from elip.data.digitscenes.draw import Picture
from elip.data.digitscenes.entailment import entailment_sentences
from elip.data.digitscenes.expressions import (
    detection_file,
    grounding_items,
    grounding_split,
    instance_file,
    reference_file,
)
from elip.data.digitscenes.questions import ANSWERS, NUM_QUESTIONS, SceneQuestion, questions
from elip.data.digitscenes.statements import statements

Items = list[dict[str, Any]]


def annotations(train: list[Picture], val: list[Picture], test: list[Picture], image_size: int) -> dict[str, Any]:
    """Return the contents of all annotation files."""
    return {
        "pretrain_train.json": _captioned(train),
        "retrieval_train.json": _retrieval_train(train),
        "retrieval_val.json": _captioned(val),
        "retrieval_test.json": _captioned(test),
        "vqa_train.json": _vqa_train(train),
        "vqa_val.json": _vqa_test(val),
        "vqa_test.json": _vqa_test(test),
        "vqa_answer_list.json": list(ANSWERS),
        **{f"ve_{part[0].scene.split}.json": _entailment(part) for part in (train, val, test)},
        **{f"nlvr_{part[0].scene.split}.json": _two_images(part) for part in (train, val, test)},
        **_grounding(train, val, test, image_size),
    }


def _captioned(pictures: list[Picture]) -> Items:
    return [{"image": picture.scene.file, "caption": captions(picture.scene)} for picture in pictures]


def _retrieval_train(pictures: list[Picture]) -> Items:
    return [
        {"image": picture.scene.file, "caption": caption, "image_id": picture.scene.index}
        for picture in pictures
        for caption in captions(picture.scene)
    ]


def _vqa_train(pictures: list[Picture]) -> Items:
    """Return the questions of VQAv2's form, the last one about each picture in Visual Genome's, with one answer."""
    items = []
    for picture in pictures:
        *asked, last = questions(picture.scene)
        items += [
            {"dataset": "vqa", "image": picture.scene.file, "question": question.text, "answer": question.answers}
            for question in asked
        ]
        items.append({"dataset": "vg", "image": picture.scene.file, "question": last.text, "answer": last.answer})
    return items


def _vqa_test(pictures: list[Picture]) -> Items:
    def item(picture: Picture, number: int, question: SceneQuestion) -> dict[str, Any]:
        question_id = picture.scene.image_id * NUM_QUESTIONS + number
        return {
            "question_id": question_id,
            "image": picture.scene.file,
            "question": question.text,
            "answer": question.answers,
        }

    return [
        item(picture, number, question)
        for picture in pictures
        for number, question in enumerate(questions(picture.scene))
    ]


def _entailment(pictures: list[Picture]) -> Items:
    return [
        {"image": picture.scene.stem, "sentence": sentence, "label": label}
        for picture in pictures
        for sentence, label in entailment_sentences(picture.scene)
    ]


def _two_images(pictures: list[Picture]) -> Items:
    """Return a true and a false statement about each picture and some earlier one."""
    scenes = [picture.scene for picture in pictures]
    return [
        {
            "images": [statement.left.file, statement.right.file],
            "sentence": statement.text,
            "label": str(statement.holds),
        }
        for index in range(1, len(scenes))
        for statement in statements(scenes, index)
    ]


def _grounding(train: list[Picture], val: list[Picture], test: list[Picture], image_size: int) -> dict[str, Any]:
    pictures = [*train, *val, *test]
    train_items = [{"image": item["image"], "text": item["text"]} for item in grounding_items(train)]
    tests = {
        f"grounding_{name}.json": grounding_items([one for one in pictures if grounding_split(one.scene) == name])
        for name in ("val", "testA", "testB")
    }
    return {
        "grounding_train.json": train_items,
        **tests,
        "grounding_refs.json": reference_file(pictures),
        "grounding_instances.json": instance_file(pictures, image_size),
        "grounding_detections.json": detection_file(pictures, image_size),
    }
