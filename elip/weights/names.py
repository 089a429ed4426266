"""The parameter names of the published ALBEF and ELIP checkpoints, and ours.

One table of prefixes, read in both directions. Momentum copies end in `_m` there and live under `momentum.` here.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

MODEL = "model."
"""Beginning of our names: what a task calls its model."""
MOMENTUM = "momentum."
QUEUES = "queues."

_TWINNED = {
    "visual_encoder.": "albef.visual_encoder.",
    "text_encoder.bert.": "albef.text_encoder.",
    "text_encoder.cls.predictions.transform.": "mlm_head.",
    "text_encoder.cls.predictions.bias": "mlm_head.bias",
    "text_decoder.bert.": "decoder.",
    "text_decoder.cls.predictions.transform.": "decoder.mlm_head.",
    "text_decoder.cls.predictions.bias": "decoder.mlm_head.bias",
    "vision_proj.": "albef.vision_proj.",
    "text_proj.": "albef.text_proj.",
    "cls_head.": "cls_head.",
}
_RENAMES = {
    **_TWINNED,
    **{
        theirs.replace(".", "_m.", 1): f"{MOMENTUM}{ours}"  # visual_encoder. -> visual_encoder_m.
        for theirs, ours in _TWINNED.items()
    },
    "itm_head.": "itm_head.",
    "ta_head.": "ta_head.",
    "temp": "temp",
    "image_queue": "queues.image",
    "text_queue": "queues.text",
    "queue_ptr": "queues.pointer",
    "idx_queue": "queues.ids",
}
_OURS_ALONE = ("albef.", f"{MOMENTUM}albef.")
"""Beginnings of our names, without `model.`; of names that we have written as published, only a reducer's begin so."""
_DERIVED = (".embeddings.position_ids", ".cls.predictions.decoder.weight", ".cls.predictions.decoder.bias")
"""Endings of names whose values follow from others: a range of numbers, and the tied output layer."""
_INVERSE = {ours: theirs for theirs, ours in sorted(_RENAMES.items(), key=lambda pair: -len(pair[1]))}
"""Longest first: `decoder.mlm_head.` before `decoder.`."""
_POSITIONS, _BERT_HEAD = ".embeddings.position_embeddings.weight", ".cls.predictions."
_QUEUE, _FILLED = "queues.image", "queues.filled"
_BERT = re.compile(r"^(text_(?:encoder|decoder)(?:_m)?\.)(?:bert\.)?((?:embeddings|encoder)\..+)")
"""A name of a published BERT. Those with a vocabulary head say `bert.` before it, the others do not."""


def from_albef(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published checkpoint's tensors under our names, those that only repeat others left out.

    Both of its spellings of the text encoder, with and without `bert.`, are known. Names that are in no table stay as
    they are, so that whoever loads the result can report them. A file does not say how full its queues are: they are.
    """
    renamed = {_to_ours(name): tensor for name, tensor in state.items() if not is_derived(name)}
    if _QUEUE in renamed and _FILLED not in renamed:
        renamed[_FILLED] = torch.tensor([renamed[_QUEUE].shape[1]])
    return renamed


def to_albef(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors under the published names, with those that repeat others: the inverse of `from_albef`.

    What the published models do not have, such as a reducer's parameters, keeps our name; so does the filling of
    queues that are not full yet.
    """
    renamed = {_to_theirs(name): tensor for name, tensor in state.items() if not _tells_nothing(name, state)}
    with_head = {name.partition(".cls.")[0] + "." for name in renamed if _BERT_HEAD in name}
    spelled = {_without_bert(name, with_head): tensor for name, tensor in renamed.items()}
    return {**spelled, **_derived(spelled)}


def is_derived(name: str) -> bool:
    """Return whether a published name is of a tensor that follows from others."""
    return name.endswith(_DERIVED)


def num_known(names: Iterable[str]) -> int:
    """Return how many names are those of a published checkpoint, or ours, with `model.` as a task has them or without.

    Ours without `model.` are those of a task's model alone.
    """
    return sum(_is_published(name) or _is_ours(name) or is_of_model(short(name)) for name in names)


def is_of_model(name: str) -> bool:
    """Return whether a name is ours without `model.`, and could be nobody else's."""
    return name.startswith(_OURS_ALONE) and _to_theirs(name) != name


def short(name: str) -> str:
    """Return our name as a reader thinks of it: without `model.`."""
    return name.removeprefix(MODEL)


def online(name: str) -> str:
    """Return the name of what a momentum copy follows, or the name itself if it is not one's."""
    return name.replace(MOMENTUM, "", 1)


def group(name: str) -> str:
    """Return the module that a name is in: `albef.text_encoder`, `momentum.albef.text_encoder`, `blocks`."""
    parts = short(name).split(".")
    length = 1 + (parts[0] == "momentum")
    length += len(parts) > length and parts[length - 1] == "albef"
    return ".".join(parts[:length])


def _is_published(name: str) -> bool:
    return name in _RENAMES or _to_ours(name) != name


def _is_ours(name: str) -> bool:
    rest = short(name)
    return rest != name and (rest in _INVERSE or _to_theirs(rest) != rest)


def _to_ours(name: str) -> str:
    return _renamed(_BERT.sub(r"\1bert.\2", name), _RENAMES)


def _to_theirs(name: str) -> str:
    return _renamed(name, _INVERSE)


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """Return the name by a table of whole names, and of beginnings that end in a dot."""
    if name in table:
        return table[name]
    for old, new in table.items():
        if old.endswith(".") and name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _without_bert(name: str, with_head: set[str]) -> str:
    found = _BERT.fullmatch(name)
    return name if found is None or found[1] in with_head else found[1] + found[2]


def _derived(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `_DERIVED` that belong to published names."""
    derived = {}
    for name, tensor in state.items():
        if name.endswith(_POSITIONS):
            ids = torch.arange(len(tensor), device=tensor.device)[None]
            derived[name.removesuffix(_POSITIONS) + ".embeddings.position_ids"] = ids
        if name.endswith(f"{_BERT_HEAD}bias"):
            encoder = name.removesuffix(f"{_BERT_HEAD}bias")
            derived[f"{encoder}{_BERT_HEAD}decoder.bias"] = tensor
            derived[f"{encoder}{_BERT_HEAD}decoder.weight"] = state[f"{encoder}.bert.embeddings.word_embeddings.weight"]
    return derived


def _tells_nothing(name: str, state: Mapping[str, Tensor]) -> bool:
    """Return whether a tensor of ours says what a published file says by not having it: that the queues are full."""
    return name == _FILLED and _QUEUE in state and int(state[_FILLED]) == state[_QUEUE].shape[1]
