"""Tasks, one file each. Importing this package registers them all."""

from tasks import nlvr, nlvr_pretrain, pretrain, ve

__all__ = ["nlvr", "nlvr_pretrain", "pretrain", "ve"]
