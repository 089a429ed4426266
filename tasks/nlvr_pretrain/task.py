"""Text assignment: which of two images does a caption belong to? Pre-training for tasks on two images (NLVR2).

Li et al., "Align before Fuse", NeurIPS 2021, section 5 (NLVR2).
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from elip.config.schema import RunConfig, TaskConfig
from elip.data.annotations import load_annotations
from elip.data.datasets import EvalDataset, TrainDataset
from elip.data.shards import PairItem, ShardStream
from elip.errors import ConfigError
from elip.models.classifier import Classified
from elip.models.pair_text import PairTextEncoder
from elip.reduction.guide import Guide, Watch
from elip.registry import TASKS
from elip.task import Batch, Progress, StepOutput
from elip.task.classification import ClassificationTask, batch_accuracy
from elip.task.labelled import Labelled
from elip.task.pairs import CaptionedItem, read_pair
from elip.task.vision_language import tokens_per_block
from elip.weights.surgery import double_fusion_layers
from tasks.nlvr_pretrain.data import assignment_set
from tasks.nlvr_pretrain.model import TextAssignment
from tasks.nlvr_pretrain.objective import CHOICES, Pairs

MIN_BATCH_SIZE = 3
"""A text's own image, and two others."""


class TextAssignmentConfig(TaskConfig):
    """Settings of text assignment."""

    name: str = "nlvr_pretrain"
    temp: float = Field(0.07, ge=0.001, le=0.5)
    """Temperature of contrast, where no checkpoint gives one."""
    draw_temp: float | None = Field(None, gt=0)
    """Temperature of the draw of other images, the higher the less alike they are; null takes that of contrast."""
    text_length: int = Field(25, gt=1)
    """Tokens of a caption, [CLS] included; longer ones are cut."""


@TASKS.register("nlvr_pretrain")
class TextAssignmentTask(ClassificationTask[TextAssignmentConfig]):
    """Learn which of two images, or neither, a caption belongs to, on pre-training data, before NLVR2.

    Batch in training: image [B, 3, H, W] float; ids, mask [B, L]. In evaluation: see `ClassificationTask`, with two
    images a text. Either may give one image a text and second_image [B]: then text b meets image b on the left and
    that one on the right.
    """

    Config = TextAssignmentConfig
    losses = ("ta",)
    trains_on_pairs = True
    labels = CHOICES
    image_names = ("left", "right")
    paper = "Li et al., NeurIPS 2021, arXiv:2107.07651, section 5"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        if config.train.batch_size < MIN_BATCH_SIZE:
            raise ConfigError(
                f"train.batch_size: text assignment needs at least {MIN_BATCH_SIZE} pairs a process, because a text's "
                f"other images come from the same batch; got {config.train.batch_size}."
            )
        albef = self.create_albef(projections=True)
        albef.text_encoder = PairTextEncoder(albef.text_encoder)
        self.model = TextAssignment(albef, self.settings.temp, self.settings.draw_temp)

    @classmethod
    def adapt_checkpoint(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return double_fusion_layers(state)

    @property
    def text_length(self) -> int:
        return self.settings.text_length

    def train_dataset(self) -> TrainDataset[PairItem] | ShardStream:
        return self.pair_set(PairItem, read_pair)

    def eval_set(self, split: str) -> EvalDataset[Labelled]:
        annotations = load_annotations(getattr(self.config.data, split), CaptionedItem)
        return assignment_set(annotations, self.images, self.eval_transform, self.config.data.max_words)

    def classify(self, batch: Batch, guide: Guide | None = None, watch: Watch | None = None) -> Classified:
        if "second_image" in batch:
            pair = torch.stack([batch["image"], batch["image"][batch["second_image"]]], dim=1)
            batch = {**batch, "image": pair}
        return super().classify(batch, guide, watch)

    def example_batch(self, batch_size: int) -> Batch:
        """Return noise for images, each beside the next one, and captions of full length."""
        return {
            "image": self.example_images(batch_size),
            **self.example_texts(batch_size, self.text_length),
            "second_image": torch.arange(batch_size).roll(-1),
        }

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        image, ids, mask, second = batch["image"], batch["ids"], batch["mask"], batch.get("second_image")
        given = None if second is None else Pairs(torch.arange(len(second), device=second.device), second)
        (logits, vision), pairs = self.model.assign(image, ids, mask, given, progress=progress.fraction)
        label = pairs.labels()
        return StepOutput(
            losses={"loss_ta": F.cross_entropy(logits.float(), label), **vision.losses},
            logs={**batch_accuracy(logits, label), **tokens_per_block(vision)},
        )
