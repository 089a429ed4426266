"""What tasks have in common that align images with texts: pre-training, retrieval, grounding.

Li et al., "Align before Fuse", NeurIPS 2021, sections 3.2, 3.3 and 5.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from elip.config.schema import RunConfig
from elip.data.annotations import load_annotations
from elip.data.datasets import EvalDataset, TrainDataset, collate_samples
from elip.data.ids import check_image_ids
from elip.data.shards import ShardStream
from elip.errors import ConfigError
from elip.models.contrastive import MAX_TEMP, MIN_TEMP, AlignmentModel, MomentumFeatures
from elip.objectives.itc import itc_loss, same_image_targets, soft_targets
from elip.objectives.itm import Negatives, draw_lots, itm_loss, warn_of_one_image
from elip.reduction.guide import Text
from elip.reduction.walk import VisionOutput
from elip.task.contract import Batch, EvalResult, Evaluator, Progress, StepOutput
from elip.task.pairs import CaptionedItem, Pair, image_sample, read_captioned, texts_of
from elip.task.recall import check_candidates, evaluate_retrieval
from elip.task.vision_language import DistilledConfig, MomentumConfig, VisionLanguageTask, tokens_per_block


class AlignmentConfig(MomentumConfig):
    """Settings of tasks that contrast and match images and texts."""

    queue_size: int = Field(65536, gt=0)
    temp: float = Field(0.07, ge=MIN_TEMP, le=MAX_TEMP)
    """Initial temperature of the contrastive loss."""
    min_temp: float = Field(MIN_TEMP, ge=MIN_TEMP, le=MAX_TEMP)
    """Lower bound of what it may become: where it falls too far, contrast drowns the other losses."""

    @model_validator(mode="after")
    def _start_in_bounds(self) -> "AlignmentConfig":
        if self.temp < self.min_temp:
            raise ValueError(
                f"temp ({self.temp:g}) is below min_temp ({self.min_temp:g}): raise it, or lower the bound"
            )
        return self


AlignmentT = TypeVar("AlignmentT", bound=AlignmentConfig)


class AlignmentTask(VisionLanguageTask[AlignmentT]):
    """A task whose model is an `AlignmentModel`.

    Its batches hold image [B, 3, H, W] float; ids, mask [B, L]. For tests and analyses they may also hold what is
    otherwise drawn: negative_image and negative_text [B].
    """

    Config = AlignmentConfig
    losses: ClassVar[Sequence[str]] = ("itc", "itm")
    trains_on_pairs = True
    image_ids: ClassVar[bool] = False
    """Whether the queues remember which image a feature is of."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        if config.train.batch_size < 2:
            raise ConfigError(
                f"train.batch_size: {config.task.name} needs at least 2 pairs a process, because hard negatives come "
                f"from the same batch; got {config.train.batch_size}."
            )

    def create_model(self, **heads: Any) -> AlignmentModel:
        """Return the model; heads: modules beside the encoders that have momentum twins too."""
        settings = self.settings
        return AlignmentModel(
            self.create_albef(projections=True, **heads),
            queue_size=settings.queue_size,
            momentum=settings.momentum,
            temp=settings.temp,
            min_temp=settings.min_temp,
            twins=heads,
            image_ids=self.image_ids,
            momentum_precision=self.config.train.momentum_precision,
        )

    @property
    def text_length(self) -> int | None:
        """Tokens kept of a text in training, [CLS] included; None keeps all."""
        raise NotImplementedError

    def collate(self, samples: list[Any]) -> Batch:
        batch = collate_samples(samples)
        ids, mask = self.tokenizer.encode(batch.pop("caption"), self.fitting(self.text_length))
        return {**batch, "ids": ids, "mask": mask}

    def on_step_start(self) -> None:
        self.model.on_step_start()

    def negatives_of(self, batch: Batch) -> Negatives | None:
        """Return the negatives that a batch holds, if it does."""
        if "negative_image" not in batch:
            return None
        image, text = batch["negative_image"], batch["negative_text"]
        return Negatives(image, text, torch.ones_like(image, dtype=torch.bool))

    def step_logs(self, alpha: float, vision: VisionOutput) -> dict[str, Tensor | float]:
        """Return what TensorBoard shows of a step beside its losses."""
        return {
            "alpha": alpha,
            "temp": self.model.temp.detach(),
            "queue_fill": self.model.queues.fill_ratio(),
            **tokens_per_block(vision),
        }

    def eval_set(self, split: str) -> EvalDataset[Any]:
        annotations = load_annotations(getattr(self.config.data, split), CaptionedItem)
        examples = read_captioned(annotations, self.images.root, self.config.data.max_words)
        return EvalDataset(examples, image_sample, self.images, self.eval_transform, annotations.where)

    def check_recall(self, split: str, k: int) -> None:
        """Raise an error if a split has fewer images or texts than are to be re-ranked."""
        images = self.evaluated_on(split)
        check_candidates(k, len(images), len(texts_of(images.examples).captions))

    def recall(self, split: str, evaluator: Evaluator, k: int, text_length: int) -> EvalResult:
        """Return how well images and texts of a split find each other; see `evaluate_retrieval`."""
        return evaluate_retrieval(
            self.model.albef,
            self.model.matching_logits,
            self.evaluated_on(split),
            self.tokenizer,
            k=k,
            text_length=self.fitting(text_length),
            num_examples=self.config.eval.sheets,
            evaluator=evaluator,
        )


class PairFinetuningConfig(AlignmentConfig, DistilledConfig):
    """Settings of tasks that fine-tune contrast and matching."""

    text_length: int | None = Field(None, gt=1)
    """Tokens of a text in training, [CLS] included; longer ones are cut. Null keeps all `data.max_words` words."""


PairFinetuningT = TypeVar("PairFinetuningT", bound=PairFinetuningConfig)


class PairFinetuningTask(AlignmentTask[PairFinetuningT]):
    """Fine-tunes contrast (ITC) and matching (ITM) on texts of which several may belong to one image.

    The image is encoded without any text, as in a search, so a reducer that needs a text keeps all tokens. Subclasses
    say what an item holds and how it is read. Batches also hold image_id [B], equal for texts about the same image.
    """

    Config = PairFinetuningConfig
    image_ids = True
    Item: ClassVar[Any]
    """The fields of an item to train on, a TypedDict. Where it has `image_id`, each must name one picture."""

    @staticmethod
    def read(item: Any) -> Pair:
        """Return what an item to train on says.

        Raises:
            DataError: naming the field that is wrong.
        """
        raise NotImplementedError

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.model = self.create_model()

    @property
    def text_length(self) -> int | None:
        return self.settings.text_length

    def train_dataset(self) -> TrainDataset[Any] | ShardStream:
        dataset = self.pair_set(self.Item, self.read, numbered=True)
        if isinstance(dataset, TrainDataset) and "image_id" in self.Item.__required_keys__:
            check_image_ids(dataset.annotations, self.images.root)
        return dataset

    def prepare(self, batch: Batch) -> Batch:
        if "image_id" in batch and "negative_image" not in batch:
            warn_of_one_image(batch["image_id"])
        return batch

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        ids, mask, image_id = batch["ids"], batch["mask"], batch["image_id"]
        model, alpha = self.model, self.settings.alpha_now(progress)
        lots = draw_lots(len(ids), ids.device)
        keys = self._momentum_features(batch)
        text = model.albef.text_encoder.encode(ids, mask)
        vision = model.albef.encode_image(batch["image"], model.guide(keys, progress=progress.fraction))

        sim = model.contrast(model.albef.image_feat(vision.embeds), model.albef.text_feat(text), keys)
        same = image_id[:, None] == image_id  # [B, B]
        negatives = self.negatives_of(batch) or model.draw_negatives(sim, same, lots)
        matching = model.match(text, mask, model.albef.text_encoder.project(vision.embeds, vision.mask), negatives)
        losses = {
            "loss_itc": itc_loss(sim, *self._targets(image_id, keys, alpha)),
            "loss_itm": itm_loss(matching.positive, matching.negative, negatives.valid),
            **vision.losses,
        }
        return StepOutput(
            losses,
            logs=self.step_logs(alpha, vision),
            after_backward=lambda: model.queues.push(keys.image, keys.text, image_id),
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return matching logits [B, 2] of each image, encoded without its text, with that text."""
        encoder, mask = self.model.albef.text_encoder, batch["mask"]
        vision = self.model.albef.encode_image(batch["image"])
        text = encoder.encode(batch["ids"], mask)
        return self.model.matching_logits(encoder.fuse_cls(text, mask, encoder.project(vision.embeds, vision.mask)))

    def example_batch(self, batch_size: int) -> Batch:
        """Return noise for images, each another one, and texts of full length."""
        return {
            "image": self.example_images(batch_size),
            **self.example_texts(batch_size, self.fitting(self.text_length or self.config.data.max_words)),
            "image_id": torch.arange(batch_size),
        }

    def _momentum_features(self, batch: Batch) -> MomentumFeatures:
        ids, mask = batch["ids"], batch["mask"]
        with self.model.momentum.teaching():
            text = Text(self.model.teacher.text_encoder.encode(ids, mask), mask)
            return self.model.momentum_features(batch["image"], text)

    @torch.no_grad()
    def _targets(self, image_id: Tensor, keys: MomentumFeatures, alpha: float) -> list[Tensor]:
        """Return what the similarities of images, and of texts, should be: [B, B + Q] each."""
        hard = same_image_targets(image_id, self.model.queues.ids)
        if not self.settings.distils:
            return [hard, hard]
        return [soft_targets(hard, sim, alpha) for sim in self.model.teacher_contrast(keys)]
