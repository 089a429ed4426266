"""DigitScenes, the embedded demo data set: small pictures of handwritten digits with texts for every task."""

from elip.data.digitscenes.dataset import Settings, build, is_built

__all__ = ["Settings", "build", "is_built"]
