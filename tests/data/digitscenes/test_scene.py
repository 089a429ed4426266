from collections import Counter

import pytest

from elip.data.digitscenes import handwriting as handwriting_module
from elip.data.digitscenes.handwriting import SPLITS, Handwriting
from elip.data.digitscenes.scene import COLOURS, Scene, sample_scenes
from elip.errors import ElipError


def sample(split: str, num: int, handwriting: Handwriting, seed: int = 0) -> list[Scene]:
    return list(sample_scenes(split, num, seed, handwriting))


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_does_not_depend_on_how_many_are_made(split: str, handwriting: Handwriting) -> None:
    assert sample(split, 60, handwriting)[:20] == sample(split, 20, handwriting)


def test_another_seed_gives_other_scenes(handwriting: Handwriting) -> None:
    one, other = (sample("val", 20, handwriting, seed) for seed in (0, 1))
    assert all(a.content != b.content for a, b in zip(one, other, strict=True))


def test_no_content_is_shown_twice_in_a_split_or_in_two_splits(handwriting: Handwriting) -> None:
    contents = [scene.content for split in SPLITS for scene in sample(split, 400, handwriting)]
    assert len(set(contents)) == len(contents)


def test_single_digits_run_out_without_stopping_the_sampling(handwriting: Handwriting) -> None:
    counts = Counter(len(scene.digits) for scene in sample("val", 1000, handwriting))
    assert counts[1] <= 6 * 10 * 9
    assert counts.total() == 1000


def test_splits_are_written_by_different_hands(handwriting: Handwriting) -> None:
    used = {
        split: {digit.handwriting for scene in sample(split, 100, handwriting) for digit in scene.digits}
        for split in SPLITS
    }
    assert all(used.values())
    assert not used["train"] & used["val"]
    assert not used["train"] & used["test"]
    assert not used["val"] & used["test"]


def test_handwriting_pools_divide_all_1797_digits(handwriting: Handwriting) -> None:
    samples = [sample for pool in handwriting.pools.values() for sample in pool]
    assert sorted(samples) == list(range(1797))
    assert min(len(pool) for pool in handwriting.pools.values()) >= 20


def test_a_digit_is_written_as_a_sample_of_its_value(scenes: list[Scene], handwriting: Handwriting) -> None:
    for scene in scenes:
        assert all(digit.handwriting in handwriting.pools[scene.split, digit.value] for digit in scene.digits)


def test_scenes_have_one_to_three_digits_in_cells_of_their_own(scenes: list[Scene]) -> None:
    assert {len(scene.digits) for scene in scenes} == {1, 2, 3}
    assert all(len({digit.cell for digit in scene.digits}) == len(scene.digits) for scene in scenes)


def test_all_colours_values_cells_and_textures_occur(scenes: list[Scene]) -> None:
    digits = [digit for scene in scenes for digit in scene.digits]
    assert {digit.colour for digit in digits} == set(COLOURS)
    assert {digit.value for digit in digits} == set(range(10))
    assert {digit.cell for digit in digits} == set(range(9))
    assert {scene.background.texture for scene in scenes} == {"noise", "stripes", "gradient"}


def test_missing_scikit_learn_is_told_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ElipError, match=r'pip install "elip\[demo\]"'):
        handwriting_module.load_handwriting.__wrapped__()
