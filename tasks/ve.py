"""Visual entailment: does an image entail a sentence, contradict it, or leave it open?

Xie et al., "Visual Entailment", arXiv:1901.06706; fine-tuned as in ALBEF (Li et al., NeurIPS 2021, section 5).
"""

from typing import Literal

from typing_extensions import TypedDict

from elip.data.cleaning import usable_caption
from elip.registry import TASKS
from elip.task.classification import FusedClassificationConfig, FusedClassificationTask
from elip.task.labelled import Labelled

LABELS = ("contradiction", "neutral", "entailment")
"""In the order that the published checkpoints number them."""


class EntailmentItem(TypedDict):
    """A picture, named without its ending, and a sentence."""

    image: str
    sentence: str
    label: Literal["entailment", "neutral", "contradiction"]


class EntailmentConfig(FusedClassificationConfig):
    """Settings of visual entailment."""

    name: str = "ve"
    alpha_warmup: bool = False


@TASKS.register("ve")
class VisualEntailment(FusedClassificationTask[EntailmentConfig]):
    """Tell whether an image entails a sentence (SNLI-VE), by a classifier on the fused [CLS]."""

    Config = EntailmentConfig
    Item = EntailmentItem
    labels = LABELS
    paper = "Xie et al., arXiv:1901.06706"

    @staticmethod
    def read(item: EntailmentItem, max_words: int) -> Labelled:
        sentence = usable_caption(item["sentence"], max_words, "sentence")
        return Labelled((f"{item['image']}.jpg",), sentence, LABELS.index(item["label"]))
