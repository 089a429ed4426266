"""Grounding: it trains, finds boxes by either map, under reducers too, and says what is missing."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from elip.config import load_config
from elip.errors import ConfigError
from elip.testing import LocalEvaluator
from tests.conftest import PROJECT
from tests.tasks.small import learn, small_run, small_task, training_batch, without_reducer, write_items


def grounding(digits: Path, tiny: list[str], *overrides: str) -> list[str]:
    both = f"data.test=[{digits}/grounding_testA.json, {digits}/grounding_testB.json]"
    return [*small_run("grounding", digits, tiny), both, *overrides]


def test_a_batch_is_learnt(digits: Path, tiny: list[str]) -> None:
    task = small_task("grounding", grounding(digits, tiny))
    outputs = learn(task, training_batch(task), steps=30)
    first, last = (sum(loss.item() for loss in outputs[place].losses.values()) for place in (0, -1))
    assert {*outputs[0].losses} == {"loss_itc", "loss_itm"}
    assert last < 0.8 * first


def test_texts_about_one_picture_share_its_number(digits: Path, tiny: list[str]) -> None:
    batch = training_batch(small_task("grounding", grounding(digits, tiny)), 6)
    items = json.loads((digits / "grounding_train.json").read_text())[:6]
    same = [[a["image"] == b["image"] for b in items] for a in items]
    assert (batch["image_id"][:, None] == batch["image_id"]).tolist() == same


def test_one_picture_has_one_number_however_its_path_is_spelt(digits: Path, tiny: list[str], tmp_path: Path) -> None:
    image = json.loads((digits / "grounding_train.json").read_text())[0]["image"]
    spelt = [image, f"./{image}", f"train/../{image}"]
    path = write_items(tmp_path / "items.json", [{"image": one, "text": "a"} for one in spelt])
    batch = training_batch(small_task("grounding", grounding(digits, tiny, f"data.train=[{path}]")), 3)
    assert len(set(batch["image_id"].tolist())) == 1


@pytest.mark.parametrize("cam", [["task.cam=itm", "task.cam_layer=1"], ["task.cam=itc", "task.cam_layer=2"]])
@pytest.mark.parametrize("reducer", ["none", "{name: tome, r: 2}"])
def test_an_evaluation_ranks_the_detections_of_every_text(
    digits: Path, tiny: list[str], cam: list[str], reducer: str
) -> None:
    overrides = [*without_reducer(grounding(digits, tiny)), *cam, f"reducer={reducer}"]
    task = small_task("grounding", overrides).eval()
    with torch.no_grad():
        result = task.evaluate("test", LocalEvaluator())
    items = [item for split in "AB" for item in json.loads((digits / f"grounding_test{split}.json").read_text())]
    detections = json.loads((digits / "grounding_detections.json").read_text())
    refs = {ref["ref_id"]: ref for ref in json.loads((digits / "grounding_refs.json").read_text())}
    assert [one["ref_id"] for one in result.predictions] == [item["ref_id"] for item in items]
    for one in result.predictions:
        assert one["prediction"] in detections[str(refs[one["ref_id"]]["image_id"])]
    assert {*result.metrics} == {"accuracy", "accuracy_testA", "accuracy_testB"} == {*result.chance}
    right = [one["iou"] >= 0.5 for one in result.predictions]
    assert result.metrics["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    assert 10 < result.chance["accuracy"] < 60
    assert result.sheets["examples"].ndim == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.refs=null", "task.refs: grounding needs this file to evaluate"),
        ("task.detections=null", "task.detections: grounding needs this file"),
        ("task={cam: itm, cam_layer: 0}", "task.cam_layer: fusion layers are 1 to 1, got 0"),
        ("task={cam: itc, cam_layer: 3}", "task.cam_layer: blocks of the ViT are 0 to 2, got 3"),
    ],
)
def test_what_is_missing_or_out_of_range_is_named(digits: Path, tiny: list[str], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_task("grounding", grounding(digits, tiny, override)).evaluate("val", LocalEvaluator())


def test_the_full_size_config_holds_the_published_setting() -> None:
    config = load_config(PROJECT / "configs/grounding.yaml")
    assert (config.model.vision.image_size, config.train.batch_size, config.train.epochs) == (384, 32, 5)
    assert (config.optim.lr, config.optim.min_lr, config.optim.warmup_steps) == (1e-5, 1e-6, 100)
    assert (config.task.queue_size, config.task.cam, config.task.cam_layer) == (65536, "itm", 8)


@pytest.mark.parametrize(
    ("name", "override", "upright"),
    [
        ("grounding", "data.exif_orientation=null", False),
        ("grounding", "data.exif_orientation=true", True),
        ("retrieval", "data.exif_orientation=null", True),
        ("retrieval", "data.exif_orientation=false", False),
    ],
)
def test_pictures_stay_as_stored_where_boxes_refer_to_them(
    digits: Path, tiny: list[str], tmp_path: Path, name: str, override: str, upright: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    task = small_task(name, [*small_run(name, digits, tiny), f"data.image_root={tmp_path}", override])
    assert task.images.open("turned.jpg").size == ((20, 40) if upright else (40, 20))  # type: ignore[attr-defined]
