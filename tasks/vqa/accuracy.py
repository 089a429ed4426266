"""The official accuracy of visual question answering, for one question.

Antol et al., "VQA: Visual Question Answering", ICCV 2015, section 3; rules of normalisation: visualqa.org/evaluation.
"""

import re
from collections import Counter
from collections.abc import Sequence

ENOUGH = 3
"""Other annotators with the same answer that make it fully right."""
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't
not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
}
"""Words that lack one apostrophe, and how they are written. Those that are words without it (`well`) are left out."""

_FULL_STOP = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the accuracy of a prediction, in percent.

    It is min(1, matching annotators / 3), the mean over all ways to leave one annotator out. The prediction is always
    normalised, but of the annotators' answers only the punctuation, and only where they disagree: that is what the
    official code does.

    Args:
        prediction: as the model gives it.
        answers: what the annotators said, at least one.
    """
    prediction = normalise_words(strip_punctuation(prediction.replace("\n", " ").replace("\t", " ").strip()))
    if len(set(answers)) > 1:
        answers = [strip_punctuation(answer) for answer in answers]
    said, right = len(answers), Counter(answers)[prediction]
    # Leaving out one of the `right` annotators who agree leaves one fewer, leaving out another leaves them all.
    total = right * min(1, (right - 1) / ENOUGH) + (said - right) * min(1, right / ENOUGH)
    return 100 * total / said


def strip_punctuation(text: str) -> str:
    """Return the text without punctuation; full stops in numbers stay.

    A mark goes without trace where a space is beside it anywhere in the text, or where the text holds a number like
    1,000; elsewhere a space takes its place. Apostrophes and colons stay.
    """
    result, joined = text, _THOUSANDS.search(text) is not None
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside_space or joined else " ")
    return _FULL_STOP.sub("", result)


def normalise_words(text: str) -> str:
    """Return the text in lower case with numbers to ten as digits, no articles, and apostrophes where they belong."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
