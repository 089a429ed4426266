"""Tasks, one file each. Importing this package registers them all."""

from tasks import pretrain

__all__ = ["pretrain"]
