"""Referring expressions in the style of RefCOCO+, with the reference, box and detection files that score them."""

from random import Random
from typing import Any

from elip.data.boxes import iou
from elip.data.digitscenes.draw import Picture
from elip.data.digitscenes.scene import MAX_DIGITS, NUM_CELLS, Digit, Scene
from elip.data.digitscenes.words import DIGIT_NAMES, name_digit, naming

NUM_EXPRESSIONS = 3

_PLAIN = (("colour",), ("value",), ("colour", "value"))
_PLACED = (("cell",), ("colour", "cell"), ("value", "cell"), ("colour", "value", "cell"))
_JITTER = 0.08  # of a box's side, the most by which a detected edge is off
_NUM_DISTRACTORS = 2
_MAX_OVERLAP = 0.3  # IoU of a distractor with any digit


def grounding_split(scene: Scene) -> str:
    """Return train, val, testA (every other test picture) or testB."""
    return {"train": "train", "val": "val"}.get(scene.split, "testB" if scene.index % 2 else "testA")


def expressions(scene: Scene) -> list[list[str]]:
    """Return for each digit three texts that name it alone; places are told only where colour and value fall short."""
    rng = scene.rng("expressions")
    return [_expressions(scene, digit, rng) for digit in scene.digits]


def grounding_items(pictures: list[Picture]) -> list[dict[str, Any]]:
    """Return image, text and ref_id of every expression."""
    return [
        {"image": picture.scene.file, "text": text, "ref_id": _ref_id(picture.scene, position)}
        for picture in pictures
        for position, texts in enumerate(expressions(picture.scene))
        for text in texts
    ]


def reference_file(pictures: list[Picture]) -> list[dict[str, Any]]:
    """Return one record for every digit: its picture, its annotation, its split and its expressions."""
    return [
        {
            "ref_id": _ref_id(picture.scene, position),
            "ann_id": _ann_id(picture.scene, picture.scene.digits[position]),
            "image_id": picture.scene.image_id,
            "split": grounding_split(picture.scene),
            "file_name": picture.scene.file,
            "sentences": [
                {"sent_id": NUM_EXPRESSIONS * _ref_id(picture.scene, position) + number, "sent": text}
                for number, text in enumerate(texts)
            ],
        }
        for picture in pictures
        for position, texts in enumerate(expressions(picture.scene))
    ]


def instance_file(pictures: list[Picture], image_size: int) -> dict[str, list[dict[str, Any]]]:
    """Return the pictures, the box of every digit and the ten categories, as COCO has them."""
    images = [
        {"id": picture.scene.image_id, "file_name": picture.scene.file, "height": image_size, "width": image_size}
        for picture in pictures
    ]
    annotations = [
        {
            "id": _ann_id(picture.scene, digit),
            "image_id": picture.scene.image_id,
            "bbox": box,
            "category_id": digit.value,
        }
        for picture in pictures
        for digit, box in zip(picture.scene.digits, picture.boxes, strict=True)
    ]
    categories = [{"id": value, "name": name} for value, name in enumerate(DIGIT_NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def detection_file(pictures: list[Picture], image_size: int) -> dict[str, list[list[float]]]:
    """Return boxes as a detector finds them, by image id: each digit's, a little off, and some of bare paper."""
    return {str(picture.scene.image_id): _detections(picture, image_size) for picture in pictures}


def _ref_id(scene: Scene, position: int) -> int:
    return scene.image_id * MAX_DIGITS + position


def _ann_id(scene: Scene, digit: Digit) -> int:
    return scene.image_id * NUM_CELLS + digit.cell


def _expressions(scene: Scene, digit: Digit, rng: Random) -> list[str]:
    ways = naming(scene, digit, _PLAIN) or naming(scene, digit, _PLACED)
    texts: list[str] = []
    while len(texts) < NUM_EXPRESSIONS:
        text = name_digit(digit, rng.choice(ways), rng)
        text = text.removeprefix("the ") if rng.random() < 0.5 else text
        if text not in texts:
            texts.append(text)
    return texts


def _detections(picture: Picture, image_size: int) -> list[list[float]]:
    rng = picture.scene.rng("detections")
    found = [_jittered(box, image_size, rng) for box in picture.boxes]
    while len(found) < len(picture.boxes) + _NUM_DISTRACTORS:
        width, height = (rng.uniform(0.12, 0.36) * image_size for _ in range(2))
        x, y = rng.uniform(0, image_size - width), rng.uniform(0, image_size - height)
        box = [round(value, 2) for value in (x, y, width, height)]
        if all(iou(box, digit) <= _MAX_OVERLAP for digit in picture.boxes):
            found.append(box)
    rng.shuffle(found)
    return found


def _jittered(box: list[int], image_size: int, rng: Random) -> list[float]:
    x, y, width, height = box
    left, right = (at + rng.uniform(-_JITTER, _JITTER) * width for at in (x, x + width))
    top, bottom = (at + rng.uniform(-_JITTER, _JITTER) * height for at in (y, y + height))
    left, top = max(left, 0.0), max(top, 0.0)
    right, bottom = min(right, float(image_size)), min(bottom, float(image_size))
    return [round(value, 2) for value in (left, top, right - left, bottom - top)]
