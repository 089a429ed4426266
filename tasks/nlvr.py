"""NLVR2: does a statement hold of two images?

Suhr et al., "A Corpus for Reasoning about Natural Language Grounded in Photographs", ACL 2019, arXiv:1811.00491;
fine-tuned as in ALBEF (Li et al., NeurIPS 2021, section 5).
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor
from typing_extensions import TypedDict

from elip.data.cleaning import usable_caption
from elip.models.albef import Albef
from elip.models.pair_text import PairTextEncoder
from elip.registry import TASKS
from elip.task.classification import FusedClassificationConfig, FusedClassificationTask
from elip.task.labelled import Labelled
from elip.task.vision_language import PRETRAINING_ONLY
from elip.weights.surgery import double_fusion_layers

LABELS = ("False", "True")


class StatementItem(TypedDict):
    """Two pictures, the left one first, and a statement about them."""

    images: tuple[str, str]
    sentence: str
    label: Literal["True", "False"]


class StatementConfig(FusedClassificationConfig):
    """Settings of NLVR2."""

    name: str = "nlvr"


@TASKS.register("nlvr")
class Nlvr(FusedClassificationTask[StatementConfig]):
    """Tell whether a statement holds of two images (NLVR2), by a classifier on the [CLS] that has met both."""

    Config = StatementConfig
    Item = StatementItem
    labels = LABELS
    image_names = ("left", "right")
    expected_leftovers = (*PRETRAINING_ONLY, "ta_head")
    paper = "Suhr et al., ACL 2019, arXiv:1811.00491"

    def create_encoders(self) -> Albef:
        albef = super().create_encoders()
        albef.text_encoder = PairTextEncoder(albef.text_encoder)
        return albef

    @classmethod
    def adapt_checkpoint(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return double_fusion_layers(state)

    @staticmethod
    def read(item: StatementItem, max_words: int) -> Labelled:
        sentence = usable_caption(item["sentence"], max_words, "sentence")
        return Labelled(tuple(item["images"]), sentence, LABELS.index(item["label"]), field="images")
