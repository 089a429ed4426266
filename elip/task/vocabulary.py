"""Whether texts are read by the vocabulary that weights were trained with."""

import logging

from elip.task.contract import Task
from elip.weights.files import Weights

logger = logging.getLogger(__name__)


def warn_of_other_vocabulary(task: Task, weights: Weights) -> None:
    """Warn if ids mean other words to a task than they did to the run that weights are from, as far as they tell."""
    before = weights.run.get("vocabulary")
    if before is not None and before != task.vocabulary():
        logger.warning(
            "model.text.tokenizer: the vocabulary is not the one that %s was trained with, so its ids mean other words "
            "(or texts are parted into words by other rules), and texts are misread. Name the one it was trained with: "
            "model.text.tokenizer=FOLDER",
            weights.path,
        )
