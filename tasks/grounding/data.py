"""Referring expressions of RefCOCO+: texts to train on, and test texts with the boxes that score them.

Yu et al., "Modeling Context in Referring Expressions", ECCV 2016. Beside the annotation file of a split there are three
files for all splits: references (what RefCOCO+ ships as `refs(unc).p`, as JSON), instances in COCO's form, detections.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from typing_extensions import NotRequired, TypedDict

from elip.data.annotations import Annotations, load_annotations
from elip.data.boxes import BoxList, clip
from elip.data.cleaning import usable_caption
from elip.data.datasets import EvalDataset, PictureLoader, Sample, read_examples
from elip.data.images import ImageFolder
from elip.data.json_files import read_json
from elip.data.transforms import EvalTransform
from elip.errors import DataError, located, shorten

BOX_NUMBERS = 4
T = TypeVar("T")

logger = logging.getLogger(__name__)


class GroundingItem(TypedDict):
    """A picture and a text about something in it, to train on."""

    image: str
    text: str


class GroundingEvalItem(TypedDict):
    """A picture and a text about something in it, and the number of the reference that says what."""

    image: str
    text: str
    ref_id: int


class Reference(TypedDict):
    """What is referred to: an instance in a picture, and the split it is in."""

    ref_id: int
    ann_id: int
    image_id: int
    split: str


class Instance(TypedDict):
    """An object with its box, and the picture it is in."""

    id: int
    bbox: tuple[float, float, float, float]
    image_id: NotRequired[int]


class InstanceImage(TypedDict):
    """A picture and its size."""

    id: int
    height: int
    width: int


class Instances(TypedDict):
    """Pictures and the objects in them."""

    images: list[InstanceImage]
    annotations: list[Instance]


class Target(NamedTuple):
    """What a text refers to, and what it could refer to.

    Args:
        split: of the reference: val, testA, testB.
        size: height and width of the picture, pixels.
        box: of what is meant, as far as it is on the picture.
        detections: boxes to choose from, cut likewise.
    """

    split: str
    size: tuple[int, int]
    box: BoxList
    detections: list[BoxList]


class RefData:
    """The three files of RefCOCO+, looked up by ref_id. Boxes are cut at the edges of their pictures.

    Args:
        refs: JSON list of references.
        instances: JSON in COCO's form.
        detections: JSON of lists of boxes, by image id.

    Raises:
        DataError: a file is missing or malformed, or an id in it stands for two things.
    """

    def __init__(self, refs: str | Path, instances: str | Path, detections: str | Path) -> None:
        self._files = {"refs": str(refs), "instances": str(instances), "detections": str(detections)}
        references = ((ref["ref_id"], _declared(ref)) for ref in load_annotations([refs], Reference))
        self._refs = self._by_id("refs", "reference", references)
        found = read_json(Path(instances), Instances)
        sizes = ((image["id"], (image["height"], image["width"])) for image in found["images"])
        boxes = ((one["id"], (list(one["bbox"]), one.get("image_id"))) for one in found["annotations"])
        self._sizes = self._by_id("instances", "picture", sizes)
        self._boxes = self._by_id("instances", "annotation", boxes)
        self._detections: Mapping[str, list[BoxList]] = read_json(Path(detections), dict[str, list[BoxList]])
        self._usable: dict[int, list[BoxList]] = {}
        self._passed_over: list[tuple[int, BoxList]] = []

    def target(self, ref_id: int) -> Target:
        """Return what a reference means.

        Raises:
            DataError: naming the file that lacks it, or whose box it is that has no area on the picture, or whose
                picture has no detection to choose.
        """
        ref = self._find(self._refs, ref_id, "refs", "reference")
        detections = self._detections_in(ref["image_id"])
        size = self._size(ref["image_id"])
        return Target(split=ref["split"], size=size, box=self._true_box(ref, size), detections=detections)

    def warn_of_passed_over(self) -> None:
        """Log how many detections of the pictures looked up so far cannot be chosen, if any."""
        if self._passed_over:
            image_id, box = self._passed_over[0]
            logger.warning(
                "%s: %d boxes are passed over, as they have no area on their pictures; the first is %s (left, top, "
                "width, height) in picture %d of %s pixels",
                self._files["detections"],
                len(self._passed_over),
                box,
                image_id,
                _describe(self._size(image_id)),
            )

    def _true_box(self, ref: Reference, size: tuple[int, int]) -> BoxList:
        ref_id, ann_id, image_id = ref["ref_id"], ref["ann_id"], ref["image_id"]
        box, annotated_in = self._find(self._boxes, ann_id, "instances", "annotation")
        if annotated_in not in (None, image_id):
            raise DataError(
                f"{self._files['refs']}: reference {ref_id} is in picture {image_id}, but its annotation {ann_id} in "
                f"picture {annotated_in} by {self._files['instances']}"
            )
        inside = clip(box, size)
        if inside is None:
            raise DataError(
                f"{self._files['instances']}: the box of annotation {ann_id}, which reference {ref_id} means, has no "
                f"area on picture {image_id} of {_describe(size)} pixels: left, top, width, height are {box}"
            )
        return inside

    def _size(self, image_id: int) -> tuple[int, int]:
        size = self._find(self._sizes, image_id, "instances", "picture")
        if min(size) < 1:
            raise DataError(f"{self._files['instances']}: picture {image_id} cannot be of {_describe(size)} pixels")
        return size

    def _detections_in(self, image_id: int) -> list[BoxList]:
        """Return the detections that can be chosen."""
        if image_id not in self._usable:
            self._usable[image_id] = self._read_detections(image_id)
        return self._usable[image_id]

    def _read_detections(self, image_id: int) -> list[BoxList]:
        file, usable = self._files["detections"], []
        boxes = self._find(self._detections, str(image_id), "detections", "picture")
        if not boxes:
            raise DataError(f"{file} has no box in picture {image_id}; a box is to be chosen")
        size = self._size(image_id)
        for box in boxes:
            if len(box) < BOX_NUMBERS:
                raise DataError(
                    f"{file}: a box in picture {image_id} must be a list of {BOX_NUMBERS} numbers "
                    f"(left, top, width, height; more may follow), got {box}"
                )
            inside = clip(box[:BOX_NUMBERS], size)
            if inside is None:
                self._passed_over.append((image_id, box[:BOX_NUMBERS]))
            else:
                usable.append(inside)
        if not usable:
            raise DataError(
                f"{file}: no box in picture {image_id} has an area on its {_describe(size)} pixels, and a box is to be "
                f"chosen; the first of {len(boxes)} is {boxes[0]} (left, top, width, height)"
            )
        return usable

    def _find(self, table: Mapping[Any, T], key: int | str, file: str, what: str) -> T:
        if key not in table:
            raise DataError(f"{self._files[file]} has no {what} {key}")
        return table[key]

    def _by_id(self, file: str, what: str, entries: Iterable[tuple[int, T]]) -> dict[int, T]:
        """Return entries by their id, which may come again only if it says the same."""
        table: dict[int, T] = {}
        for key, entry in entries:
            first = table.setdefault(key, entry)
            if first != entry:
                raise DataError(
                    f"{self._files[file]}: {what} {key} comes twice, as {shorten(first)} and as {shorten(entry)}; "
                    "keep one of them, or give the other an id of its own"
                )
        return table


def _declared(ref: Reference) -> Reference:
    """Return a reference without the further fields that its file has."""
    return {"ref_id": ref["ref_id"], "ann_id": ref["ann_id"], "image_id": ref["image_id"], "split": ref["split"]}


def _describe(size: tuple[int, int]) -> str:
    """Return a size, height first, as people say it, width first."""
    return f"{size[1]} x {size[0]}"


class Expression(NamedTuple):
    """A text to evaluate on.

    Args:
        image: file of the picture.
        text: cleaned.
        ref_id: what the text refers to.
        target: what that is.
    """

    image: str
    text: str
    ref_id: int
    target: Target


def grounding_set(
    annotations: Annotations[GroundingEvalItem],
    refs: RefData,
    images: ImageFolder,
    transform: EvalTransform,
    max_words: int = 30,
) -> EvalDataset[Expression]:
    """Return texts with their pictures: `image` [3, S, S] float, `caption`, `index`.

    Args:
        annotations: the texts.
        refs: what they refer to.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
        max_words: words of a text kept after cleaning.

    Raises:
        DataError: a text is empty after cleaning, or what it refers to is not known; when a sample is made, its picture
            is not of the form that its boxes are meant for.
    """

    def read(item: GroundingEvalItem) -> Expression:
        text = usable_caption(item["text"], max_words, "text")
        with located("field 'ref_id'"):
            return Expression(item["image"], text, item["ref_id"], refs.target(item["ref_id"]))

    examples = read_examples(annotations, read)
    refs.warn_of_passed_over()
    return EvalDataset(examples, _sample, images, transform, annotations.where)


def _sample(example: Expression, pictures: PictureLoader) -> Sample:
    """Return picture and text; a larger or smaller copy of what the boxes are on will do.

    Raises:
        DataError: the picture is missing or broken, or of another form, so that its boxes lie elsewhere.
    """
    picture, (rows, columns) = pictures.open(example.image, "image"), example.target.size
    width, height = picture.size
    if abs(width * rows - height * columns) > rows + columns:  # a scaled copy may be off by one in each
        raise DataError(
            f"field 'image': {example.image} is {width} x {height} pixels, but the boxes of reference {example.ref_id} "
            f"are on one of {columns} x {rows}: it is another picture, or was cut or turned since"
        )
    return {"image": pictures.transform(picture), "caption": example.text}
