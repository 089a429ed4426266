"""Image-text retrieval: fine-tuning on captions with image ids, checked by recall in both directions.

Li et al., "Align before Fuse", NeurIPS 2021, section 5; Flickr30K (Young et al., TACL 2014), COCO (Lin et al., 2014).
"""

from pydantic import Field
from typing_extensions import TypedDict

from elip.registry import TASKS
from elip.task import EvalResult, Evaluator
from elip.task.alignment import PairFinetuningConfig, PairFinetuningTask
from elip.task.pairs import Pair


class RetrievalItem(TypedDict):
    """A picture with one of its captions; all captions of a picture carry the same image id (see `elip.data.ids`)."""

    image: str
    caption: str
    image_id: str | int


class RetrievalConfig(PairFinetuningConfig):
    """Settings of retrieval."""

    name: str = "retrieval"
    k_test: int = Field(128, gt=0)
    """Candidates that an evaluation re-ranks by matching."""
    eval_text_length: int = Field(30, gt=1)
    """Tokens of a caption in an evaluation, [CLS] included; longer ones are cut."""


@TASKS.register("retrieval")
class Retrieval(PairFinetuningTask[RetrievalConfig]):
    """Find the texts of an image and the image of a text: contrast and matching, fine-tuned with image ids."""

    Config = RetrievalConfig
    Item = RetrievalItem
    headline = "r_mean"
    paper = "Li et al., NeurIPS 2021, arXiv:2107.07651, section 5"

    @staticmethod
    def read(item: RetrievalItem) -> Pair:
        return Pair(item["image"], item["caption"], item["image_id"])

    def check_evaluation(self, split: str) -> None:
        self.check_recall(split, self.settings.k_test)

    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        return self.recall(split, evaluator, k=self.settings.k_test, text_length=self.settings.eval_text_length)
