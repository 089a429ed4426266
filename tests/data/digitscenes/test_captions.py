import re
from itertools import pairwise

from elip.data.digitscenes.captions import captions
from elip.data.digitscenes.handwriting import Handwriting
from elip.data.digitscenes.scene import Scene, sample_scenes
from tests.data.digitscenes.reading import NUMBERS, PLACE, read_facts

LONGEST = 24  # words: 25 tokens with [CLS]


def read_caption(text: str) -> frozenset[tuple[object, object, object]]:
    """Return colour, value and cell of every digit that a caption tells of."""
    if count := re.match(r"(\w+) digits?: ", text):
        text = text[count.end() :]
    places = list(re.finditer(PLACE, text))
    assert not count or NUMBERS.index(count[1]) == len(places)
    if places[0].start() == 0:
        cuts = [place.start() for place in places] + [len(text)]
    else:
        cuts = [0] + [place.end() for place in places]
    facts = [read_facts(text[start:end]) for start, end in pairwise(cuts)]
    return frozenset((fact["colour"], fact["value"], fact["cell"]) for fact in facts)


def test_every_caption_tells_the_whole_scene_and_nothing_else(scenes: list[Scene]) -> None:
    for scene in scenes:
        for text in captions(scene):
            assert read_caption(text) == scene.content, text


def test_a_picture_has_five_different_captions(scenes: list[Scene]) -> None:
    assert all(len(set(captions(scene))) == 5 for scene in scenes)


def test_no_two_pictures_of_a_split_share_a_caption(handwriting: Handwriting) -> None:
    texts = [text for scene in sample_scenes("test", 300, 0, handwriting) for text in captions(scene)]
    assert len(set(texts)) == len(texts)


def test_captions_fit_into_the_tokens_of_pre_training(scenes: list[Scene]) -> None:
    assert max(len(re.findall("[a-z]+", text)) for scene in scenes for text in captions(scene)) == LONGEST


def test_captions_survive_cleaning_word_by_word(scenes: list[Scene]) -> None:
    assert all(re.fullmatch("[a-z ,:]+", text) for scene in scenes for text in captions(scene))


def test_captions_come_in_several_forms_and_orders(scenes: list[Scene]) -> None:
    starts = {text.split()[0] for scene in scenes for text in captions(scene)}
    assert {"a", "at", "there", "we", "only", "two"} <= starts
    three = next(scene for scene in scenes if len({digit.value for digit in scene.digits}) == 3)
    orders = {tuple(re.findall("|".join(NUMBERS), text.split(":")[-1])) for text in captions(three)}
    assert len(orders) > 1
