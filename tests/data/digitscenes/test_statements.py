import re
from collections import Counter, defaultdict

from elip.data.digitscenes.scene import Scene
from elip.data.digitscenes.statements import Statement, statements
from tests.data.digitscenes.reading import NUMBERS, fitting

EACH_SIDE = (
    r"the left picture shows (.+) and the right picture shows (.+)\.",
    r"there is (.+) in the left picture and (.+) in the right picture\.",
)
ONE_SIDE = (
    r"only the (?P<side>left|right) picture shows (?P<thing>.+)\.",
    r"there is (?P<thing>.+) in the (?P<side>left|right) picture but not in the (?:left|right) picture\.",
)
NUM_SHOWING = {
    r"both pictures show (.+)\.": 2,
    r"each of the two pictures shows (.+)\.": 2,
    r"only one of the two pictures shows (.+)\.": 1,
    r"exactly one picture shows (.+)\.": 1,
    r"neither picture shows (.+)\.": 0,
    r"none of the two pictures shows (.+)\.": 0,
}


def holds(statement: Statement) -> bool:
    """Return whether a reader finds the statement true of the two pictures."""
    left, right, text = statement.left, statement.right, statement.text
    num_left, num_right = len(left.digits), len(right.digits)
    if compared := re.search(r"the (left|right) picture shows (more|fewer) digits", text):
        lead = num_left - num_right if compared[1] == "left" else num_right - num_left
        return lead > 0 if compared[2] == "more" else lead < 0
    if re.search("same number|as many", text):
        return num_left == num_right
    if "different numbers" in text:
        return num_left != num_right
    if total := re.search(r"pictures show (\w+) digits", text):
        return num_left + num_right == NUMBERS.index(total[1])
    if common := re.search(r"(a|no) (colour|digit) (?:in common|that both)", text):
        name = {"colour": "colour", "digit": "value"}[common[2]]
        shared = {getattr(digit, name) for digit in left.digits} & {getattr(digit, name) for digit in right.digits}
        return bool(shared) == (common[1] == "a")
    return things_hold(left, right, text)


def things_hold(left: Scene, right: Scene, text: str) -> bool:
    """Return whether a statement on things that pictures show is true."""
    if whole := re.fullmatch(r"one of the two pictures shows (.+)\.", text):
        things = re.split(", | and ", whole[1])
        return sum(all(fitting(scene, thing) for thing in things) for scene in (left, right)) == 1
    for form in EACH_SIDE:
        if sides := re.fullmatch(form, text):
            return bool(fitting(left, sides[1]) and fitting(right, sides[2]))
    for form in ONE_SIDE:
        if only := re.fullmatch(form, text):
            here, there = (left, right) if only["side"] == "left" else (right, left)
            return bool(fitting(here, only["thing"])) and not fitting(there, only["thing"])
    for form, wanted in NUM_SHOWING.items():
        if thing := re.fullmatch(form, text):
            return sum(bool(fitting(scene, thing[1])) for scene in (left, right)) == wanted
    raise AssertionError(text)


def all_statements(scenes: list[Scene]) -> list[Statement]:
    return [statement for index in range(1, len(scenes)) for statement in statements(scenes, index)]


def test_labels_are_what_the_two_pictures_show(scenes: list[Scene]) -> None:
    for statement in all_statements(scenes):
        assert statement.holds == holds(statement), statement


def test_each_scene_gets_as_many_true_as_false_statements(scenes: list[Scene]) -> None:
    for index in range(1, len(scenes)):
        found = statements(scenes, index)
        assert [statement.holds for statement in found] == [True, False] * 2
        assert all(scenes[index] in (statement.left, statement.right) for statement in found)


def test_a_statement_depends_on_earlier_scenes_only(scenes: list[Scene]) -> None:
    assert statements(scenes, 20) == statements(scenes[:21], 20)


def test_two_scenes_are_enough(scenes: list[Scene]) -> None:
    assert len(statements(scenes[:2], 1)) == 4


def test_the_two_pictures_differ(scenes: list[Scene]) -> None:
    assert all(statement.left != statement.right for statement in all_statements(scenes))


def test_every_statement_speaks_of_both_pictures(scenes: list[Scene]) -> None:
    both = "both pictures|two pictures|neither picture|exactly one picture|only the|left.*right|right.*left"
    assert all(re.search(both, statement.text) for statement in all_statements(scenes))


def test_no_way_of_putting_it_prefers_a_label(scenes: list[Scene]) -> None:
    labels: dict[str, Counter[bool]] = defaultdict(Counter)
    for statement in all_statements(scenes):
        labels[" ".join(statement.text.split()[:2])][statement.holds] += 1
    frequent = [counts for counts in labels.values() if counts.total() >= 40]
    assert len(frequent) >= 5
    assert all(0.3 < counts[True] / counts.total() < 0.7 for counts in frequent)
