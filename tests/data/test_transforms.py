"""From picture to encoder input."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from elip.data.transforms import (
    CLIP,
    EvalTransform,
    Normalize,
    TrainTransform,
    choose_normalize,
    draw_crop,
)
from elip.errors import ConfigError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def red_left_blue_right(size: int) -> Image.Image:
    image = Image.new("RGB", (size, size), BLUE)
    image.paste(RED, (0, 0, size // 2, size))
    return image


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.integers(0, 99),
)
def test_a_crop_lies_within_the_picture(width: int, height: int, scale: tuple[float, float], seed: int) -> None:
    left, top, right, bottom = draw_crop(width, height, scale, random.Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_crops_have_the_areas_and_aspects_asked_for() -> None:
    rng = random.Random(0)
    boxes = np.array([draw_crop(1000, 1000, (0.2, 0.6), rng) for _ in range(500)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, aspects = widths * heights / 1e6, widths / heights
    assert areas.min() == pytest.approx(0.2, abs=0.02)
    assert areas.max() == pytest.approx(0.6, abs=0.02)
    assert aspects.min() == pytest.approx(3 / 4, abs=0.03)
    assert aspects.max() == pytest.approx(4 / 3, abs=0.03)


def test_a_picture_too_narrow_for_any_crop_gives_its_middle() -> None:
    assert draw_crop(1000, 9, (0.9, 1.0), random.Random(0)) == (494, 0, 506, 9)
    assert draw_crop(9, 1000, (0.9, 1.0), random.Random(0)) == (0, 494, 9, 506)


def test_normalising_takes_away_clips_mean_and_divides_by_its_deviation() -> None:
    pixel = CLIP(Image.new("RGB", (1, 1), (0, 128, 255))).flatten()
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(pixel, (torch.tensor([0, 128 / 255, 1]) - mean) / std)


def test_an_encoder_may_bring_its_own_normalisation() -> None:
    own = choose_normalize("encoder", ((0.5,) * 3, (0.25,) * 3))
    assert own == Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert choose_normalize("clip", ((0.5,) * 3, (0.25,) * 3)) == choose_normalize("clip", None) == CLIP
    white = Image.new("RGB", (4, 4), (255, 255, 255))
    for transform in (EvalTransform(4, own), TrainTransform(4, randaugment=False, normalize=own)):
        pixels = transform(white, random.Random(0)) if isinstance(transform, TrainTransform) else transform(white)
        torch.testing.assert_close(pixels, torch.full((3, 4, 4), 2.0))
    with pytest.raises(ConfigError, match=r"data\.normalization: .* does not say how"):
        choose_normalize("encoder", None)


def test_a_normalised_picture_has_channels_first_and_compact_memory() -> None:
    tensor = CLIP(noise(6, 4))
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((3, 4, 6), torch.float32, True)


def test_pixels_come_back_from_normalised_images() -> None:
    image = noise(6, 4)
    pixels = CLIP.to_pixels(torch.stack([CLIP(image)] * 2))
    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(pixels[1].permute(1, 2, 0).numpy(), np.asarray(image))


def test_evaluation_squeezes_the_whole_picture_into_a_square() -> None:
    image = red_left_blue_right(40).resize((80, 20))
    pixels = CLIP.to_pixels(EvalTransform(10)(image))
    assert pixels.shape == (3, 10, 10)
    assert (pixels[0, :, :3] > 250).all()
    assert (pixels[2, :, 7:] > 250).all()


def test_the_same_seed_gives_the_same_tensor_and_another_seed_another() -> None:
    transform, image = TrainTransform(16), noise(30, 20)
    one, same, other = (transform(image, random.Random(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_global_random_states_are_left_alone(random_states: Callable[[], bytes]) -> None:
    before = random_states()
    for seed in range(20):
        TrainTransform(16)(noise(30, 20), random.Random(seed))
    assert random_states() == before


def test_the_picture_handed_in_is_left_as_it_is() -> None:
    image = noise(16, 16)
    before = image.tobytes()
    for seed in range(20):
        TrainTransform(16, crop_scale=(1, 1))(image, random.Random(seed))
    assert image.tobytes() == before


def test_without_augmentation_training_sees_what_evaluation_sees() -> None:
    transform = TrainTransform(16, crop_scale=(1, 1), flip=False, randaugment=False)
    # The whole square is the crop whenever the drawn aspect ratio is 1, or when no draw fits.
    fitting = [seed for seed in range(2000) if draw_crop(20, 20, (1, 1), random.Random(seed)) == (0, 0, 20, 20)]
    image = noise(20, 20)
    assert torch.equal(transform(image, random.Random(fitting[0])), EvalTransform(16)(image))


def test_half_of_the_pictures_are_mirrored_unless_flip_is_off() -> None:
    def share_mirrored(flip: bool) -> float:
        transform = TrainTransform(8, crop_scale=(0.9, 1.0), flip=flip, randaugment=False)
        results = [CLIP.to_pixels(transform(red_left_blue_right(32), random.Random(seed))) for seed in range(200)]
        return sum(bool(pixels[2, 4, 0] > pixels[0, 4, 0]) for pixels in results) / len(results)

    assert share_mirrored(flip=True) == pytest.approx(0.5, abs=0.1)
    assert share_mirrored(flip=False) == 0


def test_randaugment_can_be_switched_off() -> None:
    plain, augmented = TrainTransform(8, randaugment=False), TrainTransform(8)
    images = [(plain(noise(9, 9), random.Random(s)), augmented(noise(9, 9), random.Random(s))) for s in range(20)]
    assert 5 < sum(not torch.equal(*pair) for pair in images) < 20
