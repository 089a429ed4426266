"""Text assignment, with its model, objective and data."""

from tasks.nlvr_pretrain.task import TextAssignmentTask

__all__ = ["TextAssignmentTask"]
