"""Visual grounding: which box does a text refer to? Learnt from pictures and texts alone.

RefCOCO+ (Yu et al., ECCV 2016), weakly supervised as in ALBEF (Li et al., NeurIPS 2021, section 5).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from elip.config.schema import RunConfig
from elip.data.annotations import load_annotations
from elip.data.datasets import EvalDataset
from elip.data.images import ImageFolder
from elip.errors import ConfigError
from elip.models.grad_cam import contrast_map, matching_map
from elip.registry import TASKS
from elip.task import Batch, EvalResult, Evaluator
from elip.task.alignment import PairFinetuningConfig, PairFinetuningTask
from elip.task.pairs import Pair
from tasks.grounding.data import Expression, GroundingEvalItem, GroundingItem, RefData, grounding_set
from tasks.grounding.evaluation import evaluate_grounding


class GroundingConfig(PairFinetuningConfig):
    """Settings of grounding."""

    name: str = "grounding"
    cam: Literal["itm", "itc"] = "itm"
    """Where the map comes from: matching (a fusion layer) or contrast (a block of the ViT)."""
    cam_layer: int = Field(8, ge=0)
    """Layer of the text encoder, text-only layers counted, for itm; block of the ViT for itc."""
    refs: str | None = None
    """References of RefCOCO+, `refs(unc).p` as JSON; needed to evaluate, as are the next two."""
    instances: str | None = None
    """Objects with boxes, in COCO's form."""
    detections: str | None = None
    """Boxes that a detector found, by image id."""


@TASKS.register("grounding")
class Grounding(PairFinetuningTask[GroundingConfig]):
    """Find the box that a text refers to (RefCOCO+), by Grad-CAM on a model that matches texts with images."""

    Config = GroundingConfig
    Item = GroundingItem
    headline = "accuracy"
    paper = "Yu et al., ECCV 2016, arXiv:1608.00272"

    @staticmethod
    def read(item: GroundingItem) -> Pair:
        return Pair(item["image"], item["text"], field="text")

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._check_layer()

    @property
    def images(self) -> ImageFolder:
        """The pictures as they are stored, which is what the boxes fit, unless the config has them turned upright."""
        return replace(super().images, orient=bool(self.config.data.exif_orientation))

    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        return evaluate_grounding(
            self.evaluated_on(split),
            self.locate,
            lambda batch, watch: self.model.albef.encode_image(batch["image"], watch=watch),
            self.collate,
            self.config.eval.sheets,
            evaluator,
        )

    def eval_set(self, split: str) -> EvalDataset[Expression]:
        """Return the texts of a split with what they refer to."""
        data, settings = self.config.data, self.settings
        files = {name: getattr(settings, name) for name in ("refs", "instances", "detections")}
        for name, file in files.items():
            if file is None:
                raise ConfigError(f"task.{name}: grounding needs this file to evaluate; give task.{name}=FILE.")
        annotations = load_annotations(getattr(data, split), GroundingEvalItem)
        return grounding_set(annotations, RefData(**files), self.images, self.eval_transform, data.max_words)

    def data_files(self) -> Sequence[str]:
        settings = self.settings
        return [file for file in (settings.refs, settings.instances, settings.detections) if file is not None]

    def locate(self, batch: Batch) -> Tensor:
        """Return where the texts of a batch are in their images, [B, rows, columns] of patches."""
        settings = self.settings
        find = matching_map if settings.cam == "itm" else contrast_map
        return find(self.model, batch["image"], batch["ids"], batch["mask"], settings.cam_layer)

    def _check_layer(self) -> None:
        settings, albef = self.settings, self.model.albef
        if settings.cam == "itm":
            text = albef.text_encoder
            first, last, kind = text.fusion_layer, text.bert_config.num_hidden_layers - 1, "fusion layers"
        else:
            first, last, kind = 0, albef.visual_encoder.depth - 1, "blocks of the ViT"
        if not first <= settings.cam_layer <= last:
            raise ConfigError(f"task.cam_layer: {kind} are {first} to {last}, got {settings.cam_layer}.")
