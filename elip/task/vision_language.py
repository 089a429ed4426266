"""What tasks on images and texts have in common: encoders, tokenizer, transforms, annotation files."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from elip.config.schema import RunConfig, TaskConfig
from elip.data.annotations import load_annotations
from elip.data.datasets import ItemT, MakeSample, TextsOf, TrainDataset
from elip.data.images import ImageFolder
from elip.data.shards import ShardStream, are_shards, find_shards, refuse_shards
from elip.data.tokenizer import HoldsTexts, Tokenizer, count_known
from elip.data.transforms import EvalTransform, Normalize, TrainTransform, choose_normalize
from elip.errors import ConfigError, shorten
from elip.execution import Execution
from elip.models.albef import Albef
from elip.models.text import MLMHead
from elip.objectives.distillation import alpha_at
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import VisionOutput
from elip.task.contract import Batch, ConfigT, Progress, Task
from elip.task.pairs import Pair, pair_sample, pair_texts, read_pair
from elip.task.preflight import check_data, check_text, check_weights, load_tokenizer
from elip.weights.build import create_albef

TEXTS_SAMPLED = 2000
"""Items whose texts are looked at before training."""
MAX_UNKNOWN = 0.05
"""Share of unknown tokens above which that is warned of."""
PRETRAINING_ONLY = ("albef.vision_proj", "albef.text_proj", "temp", "itm_head", "mlm_head", "queues")
"""What a pre-trained checkpoint has beside its encoders, and many other tasks do without."""


logger = logging.getLogger(__name__)


class MomentumConfig(TaskConfig):
    """Settings of tasks that train with momentum copies of the model."""

    alpha: float = Field(0.4, ge=0, le=1)
    """Weight of the momentum model's soft targets."""
    alpha_warmup: bool = True
    """Let alpha rise linearly over the first epoch."""
    momentum: float = Field(0.995, ge=0, le=1)
    """Decay of the momentum copies per optimiser step."""

    @property
    def distils(self) -> bool:
        """Whether any step learns from the momentum model's soft targets."""
        return self.alpha > 0

    def alpha_now(self, progress: Progress) -> float:
        """Return alpha in a step."""
        return alpha_at(progress.epochs, self.alpha, self.alpha_warmup)


class DistilledConfig(MomentumConfig):
    """Settings of tasks that can do without the momentum model's soft targets."""

    distill: bool = True
    """Learn from the momentum model's soft targets too."""

    @property
    def distils(self) -> bool:
        return self.distill and super().distils

    def alpha_now(self, progress: Progress) -> float:
        """Return alpha in a step, 0 without distillation."""
        return super().alpha_now(progress) if self.distill else 0.0


class VisionLanguageTask(Task[ConfigT]):
    """A task whose model holds the encoders of `elip.models.albef.Albef` as its submodule `model.albef`."""

    expected_leftovers: ClassVar[Sequence[str]] = PRETRAINING_ONLY
    length_keys: ClassVar[Sequence[str]] = ("text_length", "eval_text_length")
    """Keys of the task's config, where it has them, that tell how many tokens a text has."""
    trains_on_pairs: ClassVar[bool] = False
    """Whether pairs of picture and caption are all that is trained on, so that tar shards may hold them."""
    model: Any
    """All that the task trains and keeps; its parameters have one set of names over tasks (`elip.weights.names`)."""

    @classmethod
    def check_run(cls, config: RunConfig, parts: Sequence[str]) -> None:
        check_weights(config.model)
        check_data(config, parts, trains_on_pairs=cls.trains_on_pairs)
        check_text(config, cls.length_keys)

    def create_albef(self, *, projections: bool, mlm_head: MLMHead | None = None) -> Albef:
        """Return the encoders as the config describes them, pretrained weights loaded.

        Args:
            projections: to the joint space of images and texts.
            mlm_head: a vocabulary head to load BERT's into.
        """
        config = self.config
        albef = create_albef(
            config.model, config.reducer, config.eval.reducer, projections=projections, mlm_head=mlm_head
        )
        self.compiles_parts = True
        albef.set_execution(Execution(config.train.recompute, config.train.compile))
        if albef.reducer is not None:
            _check_evaluation_has_all(config, albef.reducer)
            if config.reducer.until is not None and any(p.requires_grad for p in albef.reducer.parameters()):
                self.leaves_parameters_out = True  # those of a reducer that is over
        return albef

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the config names; not needed to build the model."""
        return load_tokenizer(self.config.model.text.tokenizer, self.model.albef.text_encoder.bert_config.vocab_size)

    def vocabulary(self) -> str:
        return self.tokenizer.fingerprint()

    def inspect_training_data(self, dataset: Dataset) -> None:
        """Log which share of the words to train on the vocabulary knows, and warn where it lacks too many."""
        if not isinstance(dataset, HoldsTexts):
            return
        found = count_known(dataset.sample_texts(TEXTS_SAMPLED), self.tokenizer)
        if not found.texts:
            return
        vocabulary = f"{self.config.model.text.tokenizer} ({self.tokenizer.vocab_size:,} words)"
        share = f"{found.unknown_share:.1%} of the tokens of {found.texts:,} texts to train on"
        if found.unknown_share <= MAX_UNKNOWN and not found.lost:
            logger.info("%s are unknown to the vocabulary %s", share, vocabulary)
            return
        assert found.worst is not None
        lost = f", and {found.lost:,} of the texts hold nothing else" if found.lost else ""
        logger.warning(
            "%s are unknown ([UNK]) to the vocabulary %s%s, so the model cannot tell them apart. Worst is %s: %s is "
            "read as %s. Set model.text.tokenizer to a vocabulary that fits the language of the texts.",
            share,
            vocabulary,
            lost,
            found.worst.where,
            shorten(found.worst.text),
            shorten(" ".join(self.tokenizer.tokens(found.worst.text)) or "nothing"),
        )

    def loss_names(self) -> Sequence[str]:
        reducer = self.model.albef.reducer
        return [*self.losses, *(() if reducer is None else reducer.losses)]

    def fitting(self, length: int | None) -> int:
        """Return how many tokens a text may have: `length`, or with None as many as there are positions for."""
        positions = self.model.albef.text_encoder.bert_config.max_position_embeddings
        return min(length or positions, positions)

    @property
    def images(self) -> ImageFolder:
        """Where the pictures are and how they are read, as `data:` says."""
        return ImageFolder.configured(self.config.data)

    @property
    def normalize(self) -> Normalize:
        """How the encoder's images are normalised, as `data.normalization` says."""
        return choose_normalize(self.config.data.normalization, self.model.albef.visual_encoder.normalization)

    @property
    def train_transform(self) -> TrainTransform:
        """Random crop, flip and colours, as `data:` says."""
        data, size = self.config.data, self.config.model.vision.image_size
        return TrainTransform(
            size, data.crop_scale, data.flip, data.randaugment, self.normalize, fast_decode=data.fast_decode
        )

    @property
    def eval_transform(self) -> EvalTransform:
        """Resize to the encoder's square."""
        return EvalTransform(self.config.model.vision.image_size, self.normalize)

    def train_set(
        self, shape: type[ItemT], make_sample: MakeSample[ItemT], texts: TextsOf[ItemT]
    ) -> TrainDataset[ItemT]:
        """Return the training set of annotation files.

        Args:
            shape: a TypedDict of what an item must hold.
            make_sample: from an item to its sample.
            texts: from an item to its texts.
        """
        data = self.config.data
        refuse_shards(data.train, "data.train")
        return TrainDataset(
            load_annotations(data.train, shape),
            make_sample,
            self.images,
            self.train_transform,
            self.config.train.seed,
            texts=texts,
            skip_broken=data.max_broken_ratio > 0,
        )

    def pair_set(
        self, shape: type[ItemT], read: Callable[[ItemT], Pair], *, numbered: bool = False
    ) -> TrainDataset[ItemT] | ShardStream:
        """Return the training set of pairs in annotation files or tar shards.

        Args:
            shape: a TypedDict of what an item of an annotation file must hold.
            read: from such an item to what it says.
            numbered: samples hold `image_id`. Each sample of a shard then counts as a picture of its own.
        """
        data, sharded = self.config.data, are_shards(self.config.data.train, "data.train")
        given: dict[str, Any] = {"read": read_pair if sharded else read, "max_words": data.max_words}
        make_sample = partial(pair_sample, **given, root=self.images.root if numbered else None)
        texts = partial(pair_texts, **given)
        if not sharded:
            return self.train_set(shape, make_sample, texts)
        return ShardStream(
            find_shards(data.train),
            make_sample,
            self.images,
            self.train_transform,
            self.config.train.seed,
            self.config.train.batch_size,
            texts=texts,
            skip_broken=data.max_broken_ratio > 0,
        )

    def eval_splits(self) -> Sequence[str]:
        return [split for split in ("val", "test") if getattr(self.config.data, split)]

    def eval_set(self, split: str) -> Any:
        """Return what a split is evaluated on, read from its files.

        Raises:
            DataError: something is wrong with them.
        """
        raise NotImplementedError

    def evaluated_on(self, split: str) -> Any:
        """Return the `eval_set` of a split, which is made once."""
        if split not in self._eval_sets:
            self._eval_sets[split] = self.eval_set(split)
        return self._eval_sets[split]

    def check_evaluation(self, split: str) -> None:
        self.evaluated_on(split)

    @cached_property
    def _eval_sets(self) -> dict[str, Any]:
        return {}

    def example_images(self, batch_size: int) -> Tensor:
        """Return noise in the place of images, [B, 3, S, S]."""
        side = self.config.model.vision.image_size
        return torch.randn(batch_size, 3, side, side)

    def example_texts(self, batch_size: int, length: int) -> Batch:
        """Return made-up texts of full length: ids and mask [B, length]."""
        vocab_size = self.model.albef.text_encoder.bert_config.vocab_size
        ids = torch.randint(vocab_size // 2, vocab_size, (batch_size, length))
        return {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}


def _check_evaluation_has_all(config: RunConfig, reducer: TokenReducer) -> None:
    """Refuse a strict reducer that would stop the first evaluation of a run, which has no momentum encoder."""
    in_force = config.eval.reducer is None and config.reducer.until is None
    if reducer.strict and reducer.requires_teacher and in_force:
        raise ConfigError(
            f"reducer.strict: {config.reducer.name} needs what the momentum encoder saw, which no evaluation has. Set "
            "eval.reducer=none, or reducer.until, or reducer.strict=false."
        )


def tokens_per_block(vision: VisionOutput) -> dict[str, Tensor | float]:
    """Return the tokens that leave each block, for the log; the mean of the batch where images differ."""
    return {
        f"tokens/block{index:02d}": block.mlp if block.per_image is None else block.per_image.float().mean()
        for index, block in enumerate(vision.blocks)
    }
