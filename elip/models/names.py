"""The parameter names of the published ALBEF and ELIP checkpoints, and ours.

One table of prefixes, read in both directions. Momentum copies end in `_m` there and live under `momentum.` here.
"""

from collections.abc import Mapping

from torch import Tensor

_TWINNED = {
    "visual_encoder.": "albef.visual_encoder.",
    "text_encoder.bert.": "albef.text_encoder.",
    "text_encoder.cls.predictions.transform.": "mlm_head.",
    "text_encoder.cls.predictions.bias": "mlm_head.bias",
    "vision_proj.": "albef.vision_proj.",
    "text_proj.": "albef.text_proj.",
    "cls_head.": "cls_head.",
}
_RENAMES = {
    **_TWINNED,
    **{
        theirs.replace(".", "_m.", 1): f"momentum.{ours}"  # visual_encoder. -> visual_encoder_m.
        for theirs, ours in _TWINNED.items()
    },
    "itm_head.": "itm_head.",
    "ta_head.": "ta_head.",
    "temp": "temp",
    "image_queue": "queues.image",
    "text_queue": "queues.text",
    "queue_ptr": "queues.pointer",
}
_DERIVED = (".embeddings.position_ids", ".cls.predictions.decoder.weight", ".cls.predictions.decoder.bias")
"""Endings of names whose values follow from others: a range of numbers, and the tied output layer."""


def from_albef(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published checkpoint's tensors under our names, those that only repeat others left out.

    Both of its spellings of the text encoder, with and without `bert.`, are known. Names that are in no table stay as
    they are, so that whoever loads the result can report them.
    """
    renamed = {}
    for name, tensor in state.items():
        if not name.endswith(_DERIVED):
            renamed[_to_ours(name)] = tensor
    return renamed


def _to_ours(name: str) -> str:
    for bare in ("text_encoder.", "text_encoder_m."):
        if name.startswith((f"{bare}embeddings.", f"{bare}encoder.")):
            name = f"{bare}bert.{name.removeprefix(bare)}"
    for theirs, ours in _RENAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
