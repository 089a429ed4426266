"""Tasks, one file each. Importing this package registers them all."""

from tasks import grounding, nlvr, nlvr_pretrain, pretrain, retrieval, ve, vqa

__all__ = ["grounding", "nlvr", "nlvr_pretrain", "pretrain", "retrieval", "ve", "vqa"]
