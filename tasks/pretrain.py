"""ALBEF's pre-training on image-caption pairs: contrast, matching, masked words, under any token reducer.

Li et al., "Align before Fuse", NeurIPS 2021, section 3; with the reducer `elip`: Guo et al., arXiv:2309.16738.
"""

import torch
from pydantic import Field
from torch import Tensor

from elip.config.schema import RunConfig
from elip.data.datasets import TrainDataset
from elip.data.shards import PairItem, ShardStream
from elip.models.contrastive import MomentumFeatures
from elip.models.text import MLMHead
from elip.objectives.itc import Similarities, itc_loss, one_hot_targets, soft_targets
from elip.objectives.itm import draw_lots, itm_loss
from elip.objectives.mlm import IGNORE, MaskedText, mask_tokens, mlm_loss, places_to_predict
from elip.reduction.guide import Guide, Text
from elip.registry import TASKS
from elip.task import Batch, EvalResult, Evaluator, Progress, StepOutput
from elip.task.alignment import AlignmentConfig, AlignmentTask
from elip.task.pairs import read_pair
from elip.weights.bert import bert_config


class PretrainConfig(AlignmentConfig):
    """Settings of pre-training."""

    name: str = "pretrain"
    reduce_momentum: bool = False
    """Run the momentum image encoder under the reducer too."""
    mlm_probability: float = Field(0.15, ge=0, le=1)
    text_length: int = Field(25, gt=1)
    """Tokens of a caption, [CLS] included; longer ones are cut."""
    k_test: int = Field(128, gt=0)
    """Candidates that the zero-shot retrieval check re-ranks by matching."""
    eval_text_length: int = Field(30, gt=1)
    """Tokens of a caption in that check."""


@TASKS.register("pretrain")
class Pretrain(AlignmentTask[PretrainConfig]):
    """Pre-train on image-caption pairs (ITC + ITM + MLM), checked by zero-shot retrieval.

    Batch: image [B, 3, H, W] float; ids, mask [B, L]. For tests and analyses it may also hold what is otherwise drawn:
    masked_ids and mlm_labels [B, L]; negative_image and negative_text [B].
    """

    Config = PretrainConfig
    losses = ("itc", "itm", "mlm")
    headline = "r_mean"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.model = self.create_model(mlm_head=MLMHead(bert_config(config.model.text)))

    @property
    def text_length(self) -> int:
        return self.settings.text_length

    def train_dataset(self) -> TrainDataset[PairItem] | ShardStream:
        return self.pair_set(PairItem, read_pair)

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with its words masked, and with the places to predict: see `places_to_predict`."""
        masked = self._masked(batch)
        places, real = places_to_predict(masked.labels)
        return {
            **batch,
            "masked_ids": masked.ids,
            "mlm_labels": masked.labels,
            "mlm_places": places,
            "mlm_real": real,
        }

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        batch = batch if "mlm_places" in batch else self.prepare(batch)
        image, ids, mask, places = batch["image"], batch["ids"], batch["mask"], batch["mlm_places"]
        labels = batch["mlm_labels"].gather(1, places).flatten()[batch["mlm_real"]]
        model, encoder = self.model, self.model.albef.text_encoder
        alpha, lots = self.settings.alpha_now(progress), draw_lots(len(image), image.device)
        # Clean and masked captions go through the text layers as one batch.
        both, both_mask = torch.cat([ids, batch["masked_ids"]]), torch.cat([mask, mask])
        keys, soft_words = self._momentum_pass(batch, both, both_mask, progress.fraction)
        text, masked_text = encoder.encode(both, both_mask).chunk(2)
        vision = model.albef.encode_image(image, model.guide(keys, Text(text, mask), progress.fraction))

        image_feat, text_feat = model.albef.image_feat(vision.embeds), model.albef.text_feat(text)
        sim = model.contrast(image_feat, text_feat, keys)
        targets = self._targets(sim, keys, alpha)
        negatives = self.negatives_of(batch) or model.draw_negatives(sim, lots=lots)
        image_kv = encoder.project(vision.embeds, vision.mask)
        matching = model.match(text, mask, image_kv, negatives, masked=(masked_text, places))
        losses = {
            "loss_itc": itc_loss(sim, *targets),
            "loss_itm": itm_loss(matching.positive, matching.negative, negatives.valid),
            "loss_mlm": mlm_loss(self._words(matching.masked, batch["mlm_real"]), labels, soft_words, alpha),
            **vision.losses,
        }
        return StepOutput(
            losses,
            logs=self.step_logs(alpha, vision),
            after_backward=lambda: model.queues.push(keys.image, keys.text),
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return matching logits [B, 2] of each image with its caption."""
        encoder, mask = self.model.albef.text_encoder, batch["mask"]
        text = encoder.encode(batch["ids"], mask)
        vision = self.model.albef.encode_image(batch["image"], Guide(Text(text, mask)))
        return self.model.matching_logits(encoder.fuse_cls(text, mask, encoder.project(vision.embeds, vision.mask)))

    def example_batch(self, batch_size: int) -> Batch:
        """Return noise for images and captions of full length, a share of whose words is masked."""
        length = self.settings.text_length
        texts = self.example_texts(batch_size, length)
        ids = texts["ids"]
        masked = max(1, round(self.settings.mlm_probability * length))
        labels = torch.full_like(ids, IGNORE)
        labels[:, 1 : masked + 1] = ids[:, 1 : masked + 1]
        return {
            "image": self.example_images(batch_size),
            **texts,
            "masked_ids": ids,
            "mlm_labels": labels,
        }

    def check_evaluation(self, split: str) -> None:
        self.check_recall(split, self.settings.k_test)

    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        return self.recall(split, evaluator, k=self.settings.k_test, text_length=self.settings.eval_text_length)

    def _masked(self, batch: Batch) -> MaskedText:
        if "masked_ids" in batch:
            return MaskedText(batch["masked_ids"], batch["mlm_labels"])
        return mask_tokens(
            batch["ids"],
            probability=self.settings.mlm_probability,
            pad_id=self.tokenizer.pad_id,
            cls_id=self.tokenizer.cls_id,
            mask_id=self.tokenizer.mask_id,
            vocab_size=self.tokenizer.vocab_size,
        )

    @torch.no_grad()
    def _targets(self, sim: Similarities, keys: MomentumFeatures, alpha: float) -> list[Tensor]:
        """Return what the similarities of images, and of texts, should be: [B, B + Q] each."""
        if not self.settings.distils:
            return [one_hot_targets(s) for s in sim]
        return [soft_targets(one_hot_targets(s), s, alpha) for s in self.model.teacher_contrast(keys)]

    def _momentum_pass(
        self, batch: Batch, both: Tensor, both_mask: Tensor, progress: float
    ) -> tuple[MomentumFeatures, Tensor | None]:
        """Return the twin's features and, if it is learnt from, its logits at the masked places [M, vocabulary]."""
        with self.model.momentum.teaching():
            encoder, head = self.model.teacher.text_encoder, self.model.momentum["mlm_head"]
            text, masked_text = encoder.encode(both, both_mask).chunk(2)
            keys = self.model.momentum_features(
                batch["image"], Text(text, batch["mask"]), reduce=self.settings.reduce_momentum, progress=progress
            )
            if not self.settings.distils:
                return keys, None
            image_kv = encoder.project(keys.vision.embeds, keys.vision.mask)
            fused = encoder.fuse_at(masked_text, batch["mask"], image_kv, [batch["mlm_places"]])[0]
            return keys, head(fused.flatten(0, 1)[batch["mlm_real"]], encoder.embeddings.word_embeddings.weight)

    def _words(self, fused: Tensor, real: Tensor) -> Tensor:
        """Return vocabulary logits at the places to predict, [M, vocabulary]; fused: [B, P, D]."""
        # masked places only, about one in seven: the vocabulary is by far the widest layer
        embeddings = self.model.albef.text_encoder.embeddings.word_embeddings.weight
        return self.model.get_submodule("mlm_head")(fused.flatten(0, 1)[real], embeddings)
