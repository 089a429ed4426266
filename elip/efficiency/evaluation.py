"""What an image has cost in an evaluation, which may keep more tokens than training does."""

import logging
from collections.abc import Mapping
from typing import Any

from elip.efficiency.replay import IMAGES, EncoderCall, watch_encoders
from elip.efficiency.report import label
from elip.efficiency.vision_cost import adaptive
from elip.task import Task

logger = logging.getLogger(__name__)


class EvaluationCost:
    """The reducer that was in force in an evaluation, and what it made of the cost of an image.

    The first pass of an image encoder in evaluation mode stands for all of an evaluation; drawing comes later. So a
    reducer that needs a text shows as what it does where images are encoded alone: it keeps all tokens.

    Args:
        task: its forward passes are watched from now on.
    """

    def __init__(self, task: Task) -> None:
        evaluation, training = task.config.eval.reducer, task.config.reducer
        self._reducer = label(training if evaluation is None else evaluation)
        self._call: EncoderCall | None = None
        watch_encoders(task, self._remember, lambda encoder: self._call is None and not encoder.training)

    def figures(self) -> dict[str, Any]:
        """Return what the evaluation since the last time has cost.

        Returns:
            `reducer`, the one in force, "none" where all tokens are kept; `note`, why it is not the config's, or None;
            `vision_gmacs` of the image encoder, one image, forward, and `vision_gmacs_dense` of the same with all
            tokens, None where they cannot be counted. Empty if no image was encoded.
        """
        call, self._call = self._call, None
        if call is None:
            return {}
        note = self._why_dense(call)
        gmacs = self._count(call)
        self._call = None  # counting is a pass, too
        return {"reducer": "none" if note else self._reducer, "note": note, **gmacs}

    def _why_dense(self, call: EncoderCall) -> str | None:
        reducer = call.reducer
        if self._reducer == "none":
            return None
        if reducer is None:
            return "images are encoded without a reducer"
        if reducer.requires_text and call.guide.text is None:
            return f"{self._reducer.split()[0]} needs a text, and images are encoded without one: all tokens are kept"
        return None

    def _count(self, call: EncoderCall) -> dict[str, float | None]:
        try:
            reduced = call.gmacs(IMAGES if adaptive(call.blocks) else 1)
            return {"vision_gmacs": reduced, "vision_gmacs_dense": call.dense_gmacs()}
        except Exception as error:  # as in a run's log: a figure is not worth an evaluation
            logger.warning(f"GMACs are not recorded, because counting failed: {type(error).__name__}: {error}")
            return {"vision_gmacs": None, "vision_gmacs_dense": None}

    def _remember(self, call: EncoderCall) -> None:
        self._call = call


def describe_cost(figures: Mapping[str, Any]) -> str:
    """Return in words what `EvaluationCost.figures` gave."""
    if "reducer" not in figures:
        return "no image was encoded, so there is no cost to tell"
    note = f" ({figures['note']})" if figures["note"] else ""
    said = f"reducer in this evaluation: {figures['reducer']}{note}"
    gmacs, dense = figures["vision_gmacs"], figures["vision_gmacs_dense"]
    if gmacs is None:
        return f"{said}; its cost could not be counted"
    return f"{said}; image encoder: {gmacs:.4g} GMACs an image, {gmacs / dense:.2f} of all tokens kept"
