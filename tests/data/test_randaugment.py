"""RandAugment's ten operations, and how they are drawn."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from elip.data import randaugment
from elip.data.randaugment import FILL, OPERATIONS, rand_augment

ONE_WAY = range(10)
"""Seeds under which both directions of an operation turn up."""


def noise(size: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(60, 200, (size, size, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_there_are_ten_operations() -> None:
    names = {operation.__name__ for operation in OPERATIONS}
    assert names == {
        "identity", "auto_contrast", "equalize", "brightness", "sharpness",
        "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    }  # fmt: skip


def test_two_operations_are_drawn_evenly_and_each_is_applied_half_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[list[int]] = []

    def recorder(number: int) -> randaugment.Operation:
        def operation(image: Image.Image, rng: random.Random) -> Image.Image:
            applied[-1].append(number)
            return image

        return operation

    monkeypatch.setattr(randaugment, "OPERATIONS", tuple(recorder(number) for number in range(10)))
    for seed in range(4000):
        applied.append([])
        rand_augment(Image.new("RGB", (1, 1)), random.Random(seed))
    counts = Counter(len(operations) for operations in applied)
    assert [counts[n] / 4000 for n in range(4)] == pytest.approx([0.25, 0.5, 0.25, 0], abs=0.03)
    per_operation = Counter(number for operations in applied for number in operations)
    assert [per_operation[number] / 4000 for number in range(10)] == pytest.approx([0.1] * 10, abs=0.02)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_operation_keeps_size_and_mode_and_repeats_under_the_same_seed(operation: randaugment.Operation) -> None:
    one, same = operation(noise(), random.Random(3)), operation(noise(), random.Random(3))
    assert (one.size, one.mode) == ((64, 64), "RGB")
    np.testing.assert_array_equal(pixels(one), pixels(same))
    assert (pixels(one) != pixels(noise())).any() == (operation.__name__ != "identity")


def test_brightness_multiplies_by_1_36() -> None:
    image = Image.new("RGB", (2, 2), (100, 50, 200))
    assert pixels(randaugment.brightness(image, random.Random(0)))[0, 0].tolist() == [136, 68, 255]


def test_sharpness_widens_differences_between_neighbours() -> None:
    sharper = pixels(randaugment.sharpness(noise(), random.Random(0)))
    assert np.abs(np.diff(sharper, axis=0)).mean() > np.abs(np.diff(pixels(noise()), axis=0)).mean()


def test_auto_contrast_uses_the_full_range_of_each_channel() -> None:
    stretched = pixels(randaugment.auto_contrast(noise(), random.Random(0)))
    assert stretched.min(axis=(0, 1)).tolist() == [0, 0, 0]
    assert stretched.max(axis=(0, 1)).min() >= 254  # Pillow rounds down


def test_equalize_evens_out_the_histogram() -> None:
    dark = noise().point(lambda value: value // 4)
    even = pixels(randaugment.equalize(dark, random.Random(0)))
    assert np.quantile(even, [0.25, 0.5, 0.75]) == pytest.approx([64, 128, 191], abs=12)


@pytest.mark.parametrize(("name", "axis"), [("translate_x", 1), ("translate_y", 0)])
def test_translation_moves_2_7_percent_of_the_side_either_way(name: str, axis: int) -> None:
    image = noise(256)
    moved = [pixels(getattr(randaugment, name)(image, random.Random(seed))) for seed in ONE_WAY]
    ways = [np.roll(pixels(image), step, axis) for step in (7, -7)]
    for way, edge in zip(ways, (slice(0, 7), slice(-7, None)), strict=True):
        way[(slice(None),) * axis + (edge,)] = FILL
    matches = [[np.array_equal(result, way) for way in ways] for result in moved]
    assert all(sum(match) == 1 for match in matches)
    assert {match.index(True) for match in matches} == {0, 1}


@pytest.mark.parametrize(("name", "axis"), [("shear_x", 0), ("shear_y", 1)])
def test_shearing_slides_the_edges_by_a_fifth_and_leaves_the_middle(name: str, axis: int) -> None:
    image = Image.new("RGB", (100, 100), (0, 0, 0))
    # A white bar through the middle, across the direction in which pixels slide.
    image.paste((255, 255, 255), (40, 0, 60, 100) if axis == 0 else (0, 40, 100, 60))
    for seed in ONE_WAY:
        sheared = pixels(getattr(randaugment, name)(image, random.Random(seed)))[..., 0]
        lines = sheared if axis == 0 else sheared.T
        centres = (lines * (lines == 255) * np.arange(100)).sum(1) / (lines * (lines == 255)).sum(1)
        assert centres[50] == pytest.approx(49.5, abs=1)
        assert abs(centres[99] - centres[0]) == pytest.approx(99 * 0.21, abs=2)


def test_rotation_turns_by_21_degrees_either_way_about_the_middle() -> None:
    image = Image.new("RGB", (101, 101), (0, 0, 0))
    image.paste((255, 255, 255), (48, 0, 53, 101))
    angles = set()
    for seed in ONE_WAY:
        turned = pixels(randaugment.rotate(image, random.Random(seed)))[..., 0]
        assert turned[50, 50] == 255
        rows, columns = np.nonzero(turned == 255)
        slope = np.polyfit(rows - 50, columns - 50, 1)[0]
        angles.add(round(np.degrees(np.arctan(slope))))
    assert angles == {-21, 21}
