"""Referring expressions of RefCOCO+: texts to train on, and test texts with the boxes that score them.

Yu et al., "Modeling Context in Referring Expressions", ECCV 2016. Beside the annotation file of a split there are three
files for all splits: references (what RefCOCO+ ships as `refs(unc).p`, as JSON), instances in COCO's form, detections.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from typing_extensions import TypedDict

from elip.data.annotations import Annotations, load_annotations
from elip.data.datasets import Sample, usable_caption
from elip.data.images import ImageFolder
from elip.data.json_files import read_json
from elip.data.messages import located
from elip.data.retrieval import EvalImages
from elip.data.transforms import EvalTransform
from elip.errors import DataError

BoxList: TypeAlias = list[float]
"""left, top, width, height, in pixels of the picture."""
BOX_NUMBERS = 4


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
    """An object with its box."""

    id: int
    bbox: tuple[float, float, float, float]


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
        box: of what is meant.
        detections: boxes to choose from.
    """

    split: str
    size: tuple[int, int]
    box: BoxList
    detections: list[BoxList]


class RefData:
    """The three files of RefCOCO+, looked up by ref_id.

    Args:
        refs: JSON list of references.
        instances: JSON in COCO's form.
        detections: JSON of lists of boxes, by image id.
    """

    def __init__(self, refs: str | Path, instances: str | Path, detections: str | Path) -> None:
        self._files = {"refs": str(refs), "instances": str(instances), "detections": str(detections)}
        self._refs = {ref["ref_id"]: ref for ref in load_annotations([refs], Reference)}
        found = read_json(Path(instances), Instances)
        self._sizes = {image["id"]: (image["height"], image["width"]) for image in found["images"]}
        self._boxes = {instance["id"]: list(instance["bbox"]) for instance in found["annotations"]}
        self._detections: Mapping[str, list[BoxList]] = read_json(Path(detections), dict[str, list[BoxList]])

    def target(self, ref_id: int) -> Target:
        """Return what a reference means.

        Raises:
            DataError: naming the file that lacks it, or whose picture has no detections.
        """
        ref = self._find(self._refs, ref_id, "refs", "reference")
        image_id = ref["image_id"]
        detections = self._find(self._detections, str(image_id), "detections", "picture")
        if not detections:
            raise DataError(f"{self._files['detections']} has no box in picture {image_id}; a box is to be chosen")
        for box in detections:
            if len(box) < BOX_NUMBERS:
                raise DataError(
                    f"{self._files['detections']}: a box in picture {image_id} must be a list of {BOX_NUMBERS} numbers "
                    f"(left, top, width, height; more may follow), got {box}"
                )
        return Target(
            split=ref["split"],
            size=self._find(self._sizes, image_id, "instances", "picture"),
            box=self._find(self._boxes, ref["ann_id"], "instances", "annotation"),
            detections=[box[:BOX_NUMBERS] for box in detections],
        )

    def _find(self, table: Mapping, key: int | str, file: str, what: str):  # type: ignore[no-untyped-def]
        if key not in table:
            raise DataError(f"{self._files[file]} has no {what} {key}")
        return table[key]


class GroundingEvalSet(EvalImages):
    """Test texts with their pictures: `image` [3, S, S] float, `caption`, `index`. None is passed over.

    Args:
        annotations: the texts.
        refs: what they refer to.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
        max_words: words of a text kept after cleaning.

    Raises:
        DataError: a text is empty after cleaning, or what it refers to is not known.
    """

    def __init__(
        self,
        annotations: Annotations[GroundingEvalItem],
        refs: RefData,
        images: ImageFolder,
        transform: EvalTransform,
        max_words: int = 30,
    ) -> None:
        super().__init__(annotations, images, transform)
        self.texts: list[str] = []
        self.targets: list[Target] = []
        for index, item in enumerate(annotations):
            with located(annotations.where(index)):
                self.texts.append(usable_caption(item["text"], max_words, "text"))
                with located("field 'ref_id'"):
                    self.targets.append(refs.target(item["ref_id"]))

    def __getitem__(self, index: int) -> Sample:
        return {**super().__getitem__(index), "caption": self.texts[index]}
