"""A model that answers questions about images, and its momentum twins.

Li et al., "Align before Fuse", NeurIPS 2021, section 5 (VQA).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from elip.execution import Precision
from elip.models.albef import Albef
from elip.models.classifier import Fused, fuse_texts
from elip.models.momentum import MomentumTwins
from elip.reduction.guide import Guide, Watch
from elip.reduction.walk import VisionOutput
from tasks.vqa.decoder import AnswerDecoder


class Answers(NamedTuple):
    """Answers to train on.

    Shape:
        ids: [A, L], each answer with the token that starts it and the one that ends it
        places: [M], of the words to predict, see `tasks.vqa.decoder.follows`
        question: [A], the question that each answers
    """

    ids: Tensor
    places: Tensor
    question: Tensor


class NextWords(NamedTuple):
    """Logits [M, vocabulary] of all words of the answers, one answer after the other; tokens of the images."""

    logits: Tensor
    vision: VisionOutput


class AnsweringModel(nn.Module):
    """ALBEF with a decoder that answers questions about an image, and momentum twins of both.

    Args:
        albef: the encoders.
        decoder: of answers.
        momentum: decay of the twins per step.
        momentum_precision: arithmetic of the twins' passes; None for that in force around them.
    """

    def __init__(
        self, albef: Albef, decoder: AnswerDecoder, momentum: float, momentum_precision: Precision | None = None
    ) -> None:
        super().__init__()
        self.albef = albef
        self.decoder = decoder
        self.momentum = MomentumTwins(self.online(), momentum, momentum_precision)

    def online(self) -> dict[str, nn.Module]:
        """Return the modules that have momentum twins."""
        return {"albef": self.albef, "decoder": self.decoder}

    @torch.no_grad()
    def on_step_start(self) -> None:
        """Let the twins follow; once per optimiser step, before its forward pass."""
        self.momentum.follow(self.online())

    def ask(
        self, image: Tensor, ids: Tensor, mask: Tensor, guide: Guide | None = None, watch: Watch | None = None
    ) -> Fused:
        """Return questions that have met their images, in all layers of the text encoder; see `fuse_texts`."""
        return fuse_texts(self.albef, image, ids, mask, guide, watch)

    def forward(
        self, image: Tensor, ids: Tensor, mask: Tensor, answers: Answers, guide: Guide | None = None
    ) -> NextWords:
        """Return what words the answers to questions should go on with.

        Args:
            image: [B, 3, H, W].
            ids, mask: [B, L], the questions.
            answers: to them.
            guide: of the image encoder, but for the text.
        """
        return _next_words(self.ask(image, ids, mask, guide), mask, answers, self.decoder)

    def teach(self, image: Tensor, ids: Tensor, mask: Tensor, answers: Answers) -> NextWords:
        """Return what the twins say to the same images, which they see whole, questions and answers."""
        teacher: Albef = self.momentum["albef"]  # type: ignore[assignment]
        with self.momentum.teaching():
            asked = fuse_texts(teacher, image, ids, mask, watch=self.albef.teacher_needs.watch(), reduce=False)
            return _next_words(asked, mask, answers, self.momentum["decoder"])  # type: ignore[arg-type]


def _next_words(asked: Fused, mask: Tensor, answers: Answers, decoder: AnswerDecoder) -> NextWords:
    question = decoder.project(asked.states, mask).select(answers.question)
    return NextWords(decoder.next_words(answers.ids, answers.places, question), asked.vision)
