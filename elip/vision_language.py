"""What tasks on images and texts have in common: encoders, tokenizer, transforms, annotation files."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from elip.data.text import Tokenizer
from elip.data.transforms import EvalTransform, TrainTransform
from elip.errors import ConfigError
from elip.models.albef import Albef
from elip.models.text import MLMHead
from elip.models.vision import VisionOutput
from elip.models.weights import load_bert
from elip.task import Batch, Task


class VisionLanguageTask(Task):
    """A task whose model holds the encoders of `elip.models.albef.Albef` as its submodule `model.albef`."""

    model: Any
    """All that the task trains and keeps; its parameters have one set of names over all tasks (`elip.models.names`)."""

    def create_albef(self, *, projections: bool, mlm_head: MLMHead | None = None) -> Albef:
        """Return the encoders as the config describes them, pretrained weights loaded.

        Args:
            projections: to the joint space of images and texts.
            mlm_head: a vocabulary head to load BERT's into.
        """
        config = self.config
        albef = Albef.create(config.model, config.reducer, config.eval.reducer, projections=projections)
        albef.set_checkpoint_activations(config.train.checkpoint_activations)
        load_bert(config.model.text, albef.text_encoder, mlm_head)
        return albef

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the config names; not needed to build the model."""
        tokenizer = Tokenizer.load(self.config.model.text.tokenizer)
        vocab_size = self.model.albef.text_encoder.bert_config.vocab_size
        if tokenizer.vocab_size > vocab_size:
            raise ConfigError(
                f"model.text.tokenizer: {self.config.model.text.tokenizer} has {tokenizer.vocab_size} words, but the "
                f"text encoder only {vocab_size}; set model.text.options.vocab_size to at least the tokenizer's."
            )
        return tokenizer

    @property
    def train_transform(self) -> TrainTransform:
        """Random crop, flip and colours, as `data:` says."""
        data = self.config.data
        return TrainTransform(self.config.model.vision.image_size, data.crop_scale, data.flip, data.randaugment)

    @property
    def eval_transform(self) -> EvalTransform:
        """Resize to the encoder's square."""
        return EvalTransform(self.config.model.vision.image_size)

    def eval_splits(self) -> Sequence[str]:
        return [split for split in ("val", "test") if getattr(self.config.data, split)]

    def example_images(self, batch_size: int) -> Tensor:
        """Return noise in the place of images, [B, 3, S, S]."""
        side = self.config.model.vision.image_size
        return torch.randn(batch_size, 3, side, side)

    def example_texts(self, batch_size: int, length: int) -> Batch:
        """Return made-up texts of full length: ids and mask [B, length]."""
        vocab_size = self.model.albef.text_encoder.bert_config.vocab_size
        ids = torch.randint(vocab_size // 2, vocab_size, (batch_size, length))
        return {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}


def tokens_per_block(vision: VisionOutput) -> dict[str, Tensor | float]:
    """Return the tokens that leave each block, for the log; the mean of the batch where images differ."""
    return {
        f"tokens/block{index:02d}": block.mlp if block.per_image is None else block.per_image.float().mean()
        for index, block in enumerate(vision.blocks)
    }
