"""Visual grounding, with RefCOCO+'s files and the choice of a box."""

from tasks.grounding.task import Grounding

__all__ = ["Grounding"]
