"""What tasks on images and texts have in common."""

from pathlib import Path

import pytest
import torch

from elip.data.datasets import SampleKey
from elip.data.transforms import CLIP, Normalize
from tests.tasks.small import FILES, FURTHER, small_run, small_task


@pytest.mark.parametrize(("setting", "expected"), [("clip", CLIP), ("encoder", Normalize((0.5,) * 3, (0.5,) * 3))])
def test_images_are_normalised_by_what_the_config_asks_for(tiny: list[str], setting: str, expected: Normalize) -> None:
    options = ["model.vision.name=vit_tiny_patch16_224", f"data.normalization={setting}"]
    task = small_task("pretrain", [*tiny, *options])
    shown = task.eval_set("val")
    mean, std = (torch.tensor(values)[:, None, None] for values in (expected.mean, expected.std))
    for image in (shown[0]["image"], task.train_dataset()[SampleKey(0, 0)]["image"]):
        levels = (image * std + mean) * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)  # of 8 bits, under no other normalisation
    assert torch.equal(shown.to_pixels(shown[0]["image"]), expected.to_pixels(shown[0]["image"]))


def test_pictures_are_decoded_exactly_unless_the_config_says_otherwise(tiny: list[str]) -> None:
    assert small_task("pretrain", tiny).train_transform.fast_decode is False
    assert small_task("pretrain", [*tiny, "data.fast_decode=true"]).train_transform.fast_decode is True


@pytest.mark.parametrize("name", ["pretrain", *FILES])
def test_a_task_tells_its_vocabulary_and_the_files_it_reads_beside_those_of_the_data(
    name: str, digits: Path, tiny: list[str]
) -> None:
    task = small_task(name, small_run(name, digits, tiny))
    assert task.vocabulary() == task.tokenizer.fingerprint()
    assert list(task.data_files()) == [f"{digits}/{file}.json" for file in FURTHER.get(name, {}).values()]
