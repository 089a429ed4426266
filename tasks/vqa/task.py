"""Visual question answering: a decoder that answers questions about images.

Antol et al., "VQA", ICCV 2015; Goyal et al., CVPR 2017 (VQAv2); answered as in ALBEF (Li et al., NeurIPS 2021,
section 5): by ranking candidate answers, or in free words.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from elip.config.schema import RunConfig
from elip.data.annotations import load_annotations
from elip.data.datasets import EvalDataset, TrainDataset, collate_samples
from elip.data.tokenizer import TextBatch
from elip.errors import ConfigError
from elip.models.albef import Albef
from elip.models.classifier import Fused
from elip.objectives.distillation import distilled_cross_entropy
from elip.reduction.guide import Guide, Watch
from elip.reduction.walk import VisionOutput
from elip.registry import TASKS
from elip.task import Batch, EvalResult, Evaluator, Progress, StepOutput
from elip.task.vision_language import DistilledConfig, VisionLanguageTask, tokens_per_block
from elip.weights.bert import bert_config
from elip.weights.surgery import decoder_from_fusion
from tasks.vqa.data import (
    Question,
    VqaItem,
    VqaTestItem,
    question_sample,
    question_set,
    question_texts,
    read_answer_list,
)
from tasks.vqa.decoder import AnswerDecoder, QuestionKV, follows
from tasks.vqa.evaluation import Answered, evaluate_vqa
from tasks.vqa.model import AnsweringModel, Answers

SHOWN = 5
"""Answers to a question that the predictions list."""
EXAMPLE_ANSWERS, EXAMPLE_LENGTH = 3, 4
"""Answers to a question of a made-up batch, and tokens of each, [CLS] and [SEP] included."""
EXAMPLE_SPECIAL = [1, 2, 0]
"""Ids of made-up tokens that start an answer, end it, and follow its end."""


class VqaConfig(DistilledConfig):
    """Settings of visual question answering."""

    name: str = "vqa"
    text_length: int | None = Field(25, gt=1)
    """Tokens of a question in training, [CLS] included; longer ones are cut. Null keeps all `data.max_words` words."""
    eval_max_words: int = Field(50, gt=0)
    """Words of a question kept in an evaluation, whatever their number of tokens."""
    inference: Literal["rank", "generate"] = "rank"
    """Choose among the candidate answers, or write one word by word."""
    answer_list: str | None = None
    """JSON list of the candidate answers, for `rank`."""
    k_test: int = Field(128, gt=0)
    """Candidates scored in full, those with the likeliest first words, for `rank`."""
    max_answer_length: int = Field(10, gt=0)
    """Tokens of an answer written, its end included, for `generate`."""


@TASKS.register("vqa")
class Vqa(VisionLanguageTask[VqaConfig]):
    """Answer questions about images (VQAv2), by a causal decoder that attends to the question once it met its image.

    Batch: image [B, 3, H, W] float; ids, mask [B, L], the questions. In training also: answer_ids, answer_mask [A, M];
    answer_weight [A]; answer_question [A], the question that each answers. Made-up ones hold candidate_ids and
    candidate_mask [N, M], and special_ids (start, end, padding), instead of the files'.
    """

    Config = VqaConfig
    losses = ("vqa",)
    length_keys = (*VisionLanguageTask.length_keys, "max_answer_length")
    headline = "accuracy"
    paper = "Antol et al., ICCV 2015, arXiv:1505.00468"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        if self.settings.inference == "rank" and self.settings.answer_list is None and self.eval_splits():
            raise ConfigError(
                "task.answer_list: ranking answers needs a JSON list of candidates. Name one, or set "
                "task.inference=generate."
            )
        self.model = self._create_model()

    def _create_model(self) -> AnsweringModel:
        bert = bert_config(self.config.model.text)
        num_layers = bert.num_hidden_layers - self.config.model.text.fusion_layer
        if num_layers == 0:
            raise ConfigError(
                "model.text.fusion_layer: the decoder of answers has as many layers as attend to the image, and here "
                f"none does; set it below {bert.num_hidden_layers}."
            )
        decoder = AnswerDecoder(bert, num_layers)
        albef = self.create_albef(projections=False, mlm_head=decoder.mlm_head)
        if self.config.model.text.weights is not None:
            _load_layers(decoder, albef)
        return AnsweringModel(albef, decoder, self.settings.momentum, self.config.train.momentum_precision)

    @classmethod
    def adapt_checkpoint(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return decoder_from_fusion(state)

    def train_dataset(self) -> TrainDataset[VqaItem]:
        max_words = self.config.data.max_words
        return self.train_set(
            VqaItem, partial(question_sample, max_words=max_words), partial(question_texts, max_words=max_words)
        )

    def collate(self, samples: list[Any]) -> Batch:
        batch = collate_samples(samples)
        answers, weights = batch.pop("answers"), batch.pop("weights")
        ids, mask = self.tokenizer.encode(batch.pop("question"), self.fitting(self.settings.text_length))
        answer_ids, answer_mask = self._encode_answers([one for several in answers for one in several])
        return {
            **batch,
            "ids": ids,
            "mask": mask,
            "answer_ids": answer_ids,
            "answer_mask": answer_mask,
            "answer_weight": torch.tensor([one for several in weights for one in several]),
            "answer_question": torch.tensor([row for row, several in enumerate(answers) for _ in several]),
        }

    def on_step_start(self) -> None:
        self.model.on_step_start()

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with the places of the words to predict, `answer_places` [M]."""
        return {**batch, "answer_places": follows(batch["answer_mask"])}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        batch = batch if "answer_places" in batch else self.prepare(batch)
        model, settings, alpha = self.model, self.settings, self.settings.alpha_now(progress)
        answers = Answers(batch["answer_ids"], batch["answer_places"], batch["answer_question"])
        inputs = (batch["image"], batch["ids"], batch["mask"], answers)
        soft, teacher, needs = None, None, model.albef.teacher_needs_at(progress.fraction)
        if settings.distils or needs:
            taught = model.teach(*inputs)
            soft, teacher = taught.logits if settings.distils else None, taught.vision.teacher(needs)
        logits, vision = model(*inputs, Guide(progress=progress.fraction, teacher=teacher))

        following = answers.ids[:, 1:]
        words = following.flatten()[answers.places]
        weight = batch["answer_weight"][answers.places // following.shape[1]]
        loss = distilled_cross_entropy(logits, words, soft, alpha, weight) / len(batch["image"])
        return StepOutput(
            losses={"loss_vqa": loss, **vision.losses},
            logs={
                "alpha": alpha,
                "word_accuracy": 100 * (logits.argmax(dim=1) == words).float().mean(),
                **tokens_per_block(vision),
            },
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return the scores of the best candidate answers [B, k], or the likelihood of the answers written [B]."""
        question = self._question(batch)
        return self._rank(question, batch)[1] if self.settings.inference == "rank" else self._write(question, batch)[1]

    def example_batch(self, batch_size: int) -> Batch:
        """Return noise for images, questions of full length, short answers to each, and as many candidates as rank."""
        num_answers = batch_size * EXAMPLE_ANSWERS
        answers = self.example_texts(num_answers, EXAMPLE_LENGTH)
        candidates = self.example_texts(self.settings.k_test, EXAMPLE_LENGTH)
        return {
            "image": self.example_images(batch_size),
            **self.example_texts(batch_size, self.fitting(self.settings.text_length or self.config.data.max_words)),
            "answer_ids": answers["ids"],
            "answer_mask": answers["mask"],
            "answer_weight": torch.full((num_answers,), 1 / EXAMPLE_ANSWERS),
            "answer_question": torch.arange(batch_size).repeat_interleave(EXAMPLE_ANSWERS),
            "candidate_ids": candidates["ids"],
            "candidate_mask": candidates["mask"],
            "special_ids": EXAMPLE_SPECIAL,
        }

    def eval_set(self, split: str) -> EvalDataset[Question]:
        data = self.config.data
        annotations = load_annotations(getattr(data, split), VqaTestItem)
        return question_set(annotations, self.images, self.eval_transform, self.settings.eval_max_words)

    def check_evaluation(self, split: str) -> None:
        super().check_evaluation(split)
        if self.settings.inference == "rank":
            _ = self.candidates

    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        return evaluate_vqa(
            self.evaluated_on(split),
            self.answer,
            self._encode,
            self._collate_questions,
            self.config.eval.sheets,
            evaluator,
        )

    def answer(self, batch: Batch) -> list[Answered]:
        """Return answers to the questions of a batch, the best first, with their scores."""
        question = self._question(batch)
        if self.settings.inference == "rank":
            index, score = (best[:, :SHOWN].tolist() for best in self._rank(question, batch))
            texts = [[self.candidates[i] for i in row] for row in index]
            return [dict(zip(*one, strict=True)) for one in zip(texts, score, strict=True)]
        written, likelihood = self._write(question, batch)
        return [{text: score} for text, score in zip(self.tokenizer.decode(written), likelihood.tolist(), strict=True)]

    def data_files(self) -> Sequence[str]:
        settings = self.settings
        return [settings.answer_list] if settings.inference == "rank" and settings.answer_list else []

    @cached_property
    def candidates(self) -> list[str]:
        """The answers to choose from."""
        assert self.settings.answer_list is not None
        answers, k = read_answer_list(self.settings.answer_list), self.settings.k_test
        if k > len(answers):
            raise ConfigError(
                f"task.k_test: {self.settings.answer_list} holds {len(answers)} candidate answers, fewer than the {k} "
                f"to score in full; set it to at most {len(answers)}."
            )
        return answers

    @cached_property
    def _candidate_texts(self) -> TextBatch:
        return self._encode_answers(self.candidates)

    def _encode_answers(self, answers: list[str]) -> TextBatch:
        return self.tokenizer.encode(answers, self.fitting(None), append_sep=True)

    def _collate_questions(self, samples: list[Any]) -> Batch:
        batch = collate_samples(samples)
        ids, mask = self.tokenizer.encode(batch.pop("question"), self.fitting(None))
        return {**batch, "ids": ids, "mask": mask}

    def _ask(self, batch: Batch, watch: Watch | None = None) -> Fused:
        return self.model.ask(batch["image"], batch["ids"], batch["mask"], watch=watch)

    def _encode(self, batch: Batch, watch: Watch) -> VisionOutput:
        return self._ask(batch, watch).vision

    def _question(self, batch: Batch) -> QuestionKV:
        return self.model.decoder.project(self._ask(batch).states, batch["mask"])

    def _rank(self, question: QuestionKV, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the best candidates for each question, and their scores, [B, k] both."""
        if "candidate_ids" in batch:
            ids, mask = batch["candidate_ids"], batch["candidate_mask"]
        else:
            ids, mask = (part.to(question.mask.device) for part in self._candidate_texts)
        return self.model.decoder.rank(ids, mask, self.settings.k_test, question)

    def _write(self, question: QuestionKV, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return answers written word by word [B, M], and their likelihood [B]."""
        if "special_ids" in batch:
            start, end, pad = batch["special_ids"]
        else:
            start, end, pad = self.tokenizer.cls_id, self.tokenizer.sep_id, self.tokenizer.pad_id
        max_length = self.settings.max_answer_length
        return self.model.decoder.write(question, start=start, end=end, pad=pad, max_length=max_length)


def _load_layers(decoder: AnswerDecoder, albef: Albef) -> None:
    """Start embeddings and layers as those of the text encoder that attend to the image."""
    state = decoder_from_fusion({f"albef.{name}": tensor for name, tensor in albef.state_dict().items()})
    own = {name.removeprefix("decoder."): tensor for name, tensor in state.items() if name.startswith("decoder.")}
    decoder.load_state_dict(own, strict=False)  # the vocabulary head is loaded; image keys of another width do not fit
