"""What tasks have in common that choose a label for a text with its images, and how well they choose."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from elip.config.schema import RunConfig
from elip.data.annotations import load_annotations
from elip.data.datasets import EvalDataset, TrainDataset, collate_samples, read_examples
from elip.models.albef import Albef
from elip.models.classifier import Classified, FusedClassifier
from elip.objectives.distillation import distilled_cross_entropy
from elip.reduction.guide import Guide, Watch
from elip.task.contract import Batch, ConfigT, EvalResult, Evaluator, ItemScores, Progress, StepOutput
from elip.task.examples import Note, draw_best_and_worst
from elip.task.finite import check_finite
from elip.task.labelled import Labelled, labelled_sample, read_and_sample, read_text
from elip.task.vision_language import DistilledConfig, VisionLanguageTask, tokens_per_block


class ClassificationTask(VisionLanguageTask[ConfigT]):
    """A task whose model gives logits of labels for a text with its images.

    Batch: image [B, 3, H, W] float, or [B, K, 3, H, W] for K images a text; ids, mask [B, L]; label [B].
    """

    headline = "accuracy"
    labels: ClassVar[Sequence[str]]
    """Names of the labels, by number."""
    image_names: ClassVar[Sequence[str]] = ("image",)
    """Of the images of a text, as a sheet of examples shows them."""

    @property
    def text_length(self) -> int | None:
        """Tokens kept of a text, [CLS] included; None keeps all."""
        raise NotImplementedError

    def eval_set(self, split: str) -> EvalDataset[Labelled]:
        """Return the texts of a split."""
        raise NotImplementedError

    def collate(self, samples: list[Any]) -> Batch:
        batch = collate_samples(samples)
        ids, mask = self.tokenizer.encode(batch.pop("caption"), self.fitting(self.text_length))
        return {**batch, "ids": ids, "mask": mask}

    def classify(self, batch: Batch, guide: Guide | None = None, watch: Watch | None = None) -> Classified:
        """Return logits for a batch; the guide is that of the image encoder, but for the text."""
        return self.model(batch["image"], batch["ids"], batch["mask"], guide, watch)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, labels] of texts with their images."""
        return self.classify(batch).logits

    def example_batch(self, batch_size: int) -> Batch:
        """Return noise for images, texts of full length and any labels."""
        num_images = len(self.image_names)
        image = self.example_images(batch_size * num_images)
        return {
            "image": image if num_images == 1 else image.unflatten(0, (batch_size, num_images)),
            **self.example_texts(batch_size, self.fitting(self.text_length or self.config.data.max_words)),
            "label": torch.arange(batch_size) % len(self.labels),
        }

    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        return evaluate_classifier(
            self.evaluated_on(split),
            self.classify,
            self.collate,
            self.labels,
            self.image_names,
            self.config.eval.sheets,
            evaluator,
        )


class FusedClassificationConfig(DistilledConfig):
    """Settings of tasks that fine-tune a classifier on the fused [CLS]."""

    text_length: int | None = Field(None, gt=1)
    """Tokens of a text, [CLS] included; longer ones are cut. Null keeps all that `data.max_words` leaves."""


FusedClassificationT = TypeVar("FusedClassificationT", bound=FusedClassificationConfig)


class FusedClassificationTask(ClassificationTask[FusedClassificationT]):
    """A classifier on the fused [CLS], fine-tuned on labelled texts under momentum distillation (ALBEF, section 3.3).

    Subclasses name their labels, what an item holds and how it is read.
    """

    Config = FusedClassificationConfig
    losses = ("cls",)
    Item: ClassVar[Any]
    """The fields of an item, a TypedDict."""

    @staticmethod
    def read(item: Any, max_words: int) -> Labelled:
        """Return what an item says.

        Raises:
            DataError: naming the field that is wrong.
        """
        raise NotImplementedError

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.model = FusedClassifier(
            self.create_encoders(), len(self.labels), self.settings.momentum, config.train.momentum_precision
        )

    def create_encoders(self) -> Albef:
        """Return the encoders, for one image a text."""
        return self.create_albef(projections=False)

    @property
    def text_length(self) -> int | None:
        return self.settings.text_length

    def train_dataset(self) -> TrainDataset[Any]:
        read = partial(self.read, max_words=self.config.data.max_words)
        return self.train_set(self.Item, partial(read_and_sample, read=read), partial(read_text, read=read))

    def eval_set(self, split: str) -> EvalDataset[Labelled]:
        annotations = load_annotations(getattr(self.config.data, split), self.Item)
        examples = read_examples(annotations, partial(self.read, max_words=self.config.data.max_words))
        return EvalDataset(examples, labelled_sample, self.images, self.eval_transform, annotations.where)

    def on_step_start(self) -> None:
        self.model.on_step_start()

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        settings, label = self.settings, batch["label"]
        alpha = settings.alpha_now(progress)
        soft, teacher, needs = None, None, self.model.albef.teacher_needs_at(progress.fraction)
        if settings.distils or needs:
            taught = self.model.teach(batch["image"], batch["ids"], batch["mask"])
            soft, teacher = taught.logits if settings.distils else None, taught.vision.teacher(needs)
        logits, vision = self.classify(batch, Guide(progress=progress.fraction, teacher=teacher))
        return StepOutput(
            losses={"loss_cls": distilled_cross_entropy(logits, label, soft, alpha), **vision.losses},
            logs={"alpha": alpha, **batch_accuracy(logits, label), **tokens_per_block(vision)},
        )


def batch_accuracy(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Return the share of a training batch that is labelled right, in percent, for the log."""
    return {"batch_accuracy": 100 * (logits.argmax(dim=1) == label).float().mean()}


def evaluate_classifier(
    data: EvalDataset[Labelled],
    classify: Callable[..., Classified],
    collate: Callable[[list[Any]], Batch],
    labels: Sequence[str],
    names: Sequence[str],
    num_examples: int,
    evaluator: Evaluator,
) -> EvalResult:
    """Return accuracy in percent, a prediction for every text, and a sheet of the best and the worst examples.

    The chance that stands beside the accuracy is that of always giving the commonest label.

    Args:
        data: texts with pictures and labels.
        classify: a batch, and by keyword what to `watch` in the image encoder, to logits.
        collate: items to a batch.
        labels: names of the classes, by number.
        names: of the pictures of a text, for the sheet.
        num_examples: examples on the sheet.
        evaluator: spreads the work over ranks.
    """

    def score(batch: Batch) -> dict[str, Tensor]:
        return {"scores": classify(batch).logits.float().softmax(dim=1)}

    scores = evaluator.map(data, score, collate)["scores"]
    check_finite(scores, "scores of labels")
    truth = torch.tensor([example.label for example in data.examples])
    predicted = scores.argmax(dim=1)
    predictions = [
        _prediction(example, row, guess, labels)
        for example, row, guess in zip(data.examples, scores, predicted.tolist(), strict=True)
    ]
    right = 100 * (predicted == truth).double()
    return EvalResult(
        metrics={"accuracy": right.mean().item()},
        scores=[ItemScores(right.tolist(), [" ".join(example.images) for example in data.examples])],
        chance={"accuracy": 100 * (truth.bincount().max() / len(truth)).item()},
        predictions=predictions,
        sheets=draw_best_and_worst(
            data,
            torch.tensor([_given_to_truth(one) for one in predictions]),
            lambda index: _describe(predictions[index]),
            lambda batch, watch: classify(batch, watch=watch).vision,
            collate,
            names,
            num_examples,
            evaluator,
        ),
    )


def _prediction(example: Labelled, scores: Tensor, guess: int, labels: Sequence[str]) -> dict[str, Any]:
    images = {"image": example.images[0]} if len(example.images) == 1 else {"images": list(example.images)}
    return {
        **images,
        "text": example.text,
        "prediction": labels[guess],
        "truth": labels[example.label],
        "scores": dict(zip(labels, scores.tolist(), strict=True)),
    }


def _given_to_truth(prediction: dict[str, Any]) -> float:
    """Return the probability of the right label."""
    return prediction["scores"][prediction["truth"]]


def _describe(prediction: dict[str, Any]) -> Note:
    lines = [prediction["text"], f"prediction: {prediction['prediction']}", f"truth: {prediction['truth']}"]
    return Note(f"{_given_to_truth(prediction):.0%} for the truth", lines)
