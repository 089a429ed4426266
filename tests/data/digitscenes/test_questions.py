import re
from collections import Counter

from elip.data.digitscenes.questions import ANSWERS, questions
from elip.data.digitscenes.scene import Scene
from tests.data.digitscenes.reading import claim_holds, fitting, read_cell, the_one


def answer(scene: Scene, text: str) -> object:
    """Return what the picture shows, as the question asks for it."""
    if re.match("how many|how often|what is the number of digits", text):
        return len(fitting(scene, text))
    if re.match("where|in what place", text):
        return the_one(scene, text).cell
    if re.match("what colour|which colour|in what colour", text):
        return the_one(scene, text).colour
    if re.match("what is|which number|what value", text):
        return the_one(scene, text).value
    return claim_holds(scene, text)


def meaning(text: str) -> object:
    """Return what an answer says."""
    if text in ("yes", "no"):
        return text == "yes"
    if text.isdigit():
        return int(text)
    return read_cell(text) if re.search("left|right|middle", text) else text


def test_answers_are_what_the_picture_shows(scenes: list[Scene]) -> None:
    for scene in scenes:
        for question in questions(scene):
            assert meaning(question.answer) == answer(scene, question.text), question


def test_a_picture_has_four_different_questions(scenes: list[Scene]) -> None:
    assert all(len({question.text for question in questions(scene)}) == 4 for scene in scenes)


def test_ten_annotators_mostly_agree(scenes: list[Scene]) -> None:
    asked = [question for scene in scenes for question in questions(scene)]
    agreeing = [question.answers.count(question.answer) for question in asked]
    assert {len(question.answers) for question in asked} == {10}
    assert min(agreeing) == 7
    assert 0.3 < sum(count < 10 for count in agreeing) / len(agreeing) < 0.7


def test_all_candidate_answers_occur_and_no_other_is_a_majority(scenes: list[Scene]) -> None:
    given = {question.answer for scene in scenes for question in questions(scene)}
    assert given == set(ANSWERS)
    assert len(set(ANSWERS)) == len(ANSWERS)


def test_yes_and_no_are_as_frequent(scenes: list[Scene]) -> None:
    counts = Counter(question.answer for scene in scenes for question in questions(scene))
    assert 0.8 < counts["yes"] / counts["no"] < 1.25
