"""Tasks: the contract between `tasks/` and the training engine, and what several tasks share."""

from elip.task.contract import Batch, EvalResult, Evaluator, ItemScores, Progress, StepOutput, Task

__all__ = ["Batch", "EvalResult", "Evaluator", "ItemScores", "Progress", "StepOutput", "Task"]
