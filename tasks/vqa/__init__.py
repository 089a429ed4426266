"""Visual question answering, with its decoder, data and accuracy."""

from tasks.vqa.task import Vqa

__all__ = ["Vqa"]
