import re
from collections import Counter

from elip.data.digitscenes.entailment import LABELS, entailment_sentences
from elip.data.digitscenes.scene import Scene
from tests.data.digitscenes.reading import claim_holds, fitting

BEYOND = "back of the paper|outside the picture|beyond the|took the picture|the digits were written"
UNSEEN = "written by|has written|wrote|written with|part of|in a hurry|on a monday|at night|this morning|last year"


def label(scene: Scene, sentence: str) -> str:
    """Return what a reader of the sentence and the picture says."""
    if re.search(BEYOND, sentence):
        return "neutral"
    if re.search(UNSEEN, sentence):
        return "neutral" if fitting(scene, sentence) else "contradiction"
    return "entailment" if claim_holds(scene, sentence) else "contradiction"


def test_labels_are_what_the_picture_says(scenes: list[Scene]) -> None:
    for scene in scenes:
        for sentence, given in entailment_sentences(scene):
            assert given == label(scene, sentence), (sentence, scene.digits)


def test_labels_are_balanced(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert [given for _, given in entailment_sentences(scene)] == list(LABELS)


def test_no_word_gives_neutral_sentences_away(scenes: list[Scene]) -> None:
    of: dict[str, Counter[str]] = {name: Counter() for name in LABELS}
    for scene in scenes:
        for sentence, given in entailment_sentences(scene):
            of[given].update(set(re.findall("[a-z]+", sentence)))
    only_neutral = [word for word in of["neutral"] if word not in of["entailment"] | of["contradiction"]]
    assert all(of["neutral"][word] < 0.2 * len(scenes) for word in only_neutral)


def test_true_and_false_claims_use_the_same_words(scenes: list[Scene]) -> None:
    texts = {
        name: [s for scene in scenes for s, given in entailment_sentences(scene) if given == name] for name in LABELS
    }
    words = {name: set(re.findall("[a-z]+", " ".join(texts[name]))) for name in LABELS}
    assert words["entailment"] <= words["contradiction"]
