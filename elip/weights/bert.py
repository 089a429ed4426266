"""Pretrained weights of the text encoder, and the config of BERT that belongs to them."""

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import BertConfig
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from elip.config.schema import TextConfig
from elip.errors import CheckpointError, ConfigError, did_you_mean
from elip.models.bert_layers import BERT_ACTIVATION, activations
from elip.models.text import MLMHead, TextEncoder
from elip.weights.fitting import LoadReport, Rules, fit, score
from elip.weights.reading import read_tensors, require_regular
from elip.weights.wrappings import described, unwrap

KEY = "model.text.weights"

_HEAD = "mlm_head."
_WORDS = "embeddings.word_embeddings.weight"
_RENAMES = {
    "bert.": "",
    "cls.predictions.transform.": _HEAD,
    "cls.predictions.": _HEAD,
}
_OLD_NORM = re.compile(r"(?<=LayerNorm\.)(?:gamma|beta)$")
_NORMS = {"gamma": "weight", "beta": "bias"}  # of the first files of BERT
_EXPECTED = ("pooler", "cls.seq_relationship", "embeddings.position_ids", f"{_HEAD}decoder")
"""Of BERT's files: what only next-sentence prediction has, and what repeats other tensors."""
_PARTS = ("text_encoder.", "model.albef.text_encoder.", "albef.text_encoder.", "text_model.")
"""Beginnings of the names of a text encoder within a larger model."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


def bert_config(config: TextConfig) -> BertConfig:
    """Return the BERT config: bert-base-uncased's, or that of the pretrained weights, with the options on top."""
    known = BertConfig()  # its defaults are bert-base-uncased's
    for option in config.options:
        if not hasattr(known, option):
            raise ConfigError(
                f"model.text.options: BERT has no option {option!r}.{did_you_mean(option, known.to_dict())}"
            )
    base: dict[str, Any] = {}
    if config.weights is not None:
        base = _from_pretrained(config.weights).to_dict()
    try:
        bert = BertConfig(**{**base, **config.options})
    except Exception as error:  # transformers has its own, and says there which field is wrong
        raise ConfigError(f"model.text.options: {' '.join(str(error).split())}") from error
    if not 0 <= config.fusion_layer <= bert.num_hidden_layers:
        raise ConfigError(
            f"model.text.fusion_layer: BERT here has {bert.num_hidden_layers} layers, so the first fusion layer is one "
            f"of 0 to {bert.num_hidden_layers}, got {config.fusion_layer}."
        )
    _check_shape(bert)
    return bert


def _check_shape(bert: BertConfig) -> None:
    """Raise an error for options that do not fit each other."""
    for wrong, message in (
        (
            bert.hidden_size % bert.num_attention_heads,
            f"num_attention_heads: {bert.num_attention_heads} heads do not share hidden_size, {bert.hidden_size}, "
            "evenly; set one to a multiple of the other.",
        ),
        (
            (bert.pad_token_id or 0) >= bert.vocab_size,
            f"pad_token_id: {bert.pad_token_id} is beyond the {bert.vocab_size} words of vocab_size.",
        ),
    ):
        if wrong:
            raise ConfigError(f"model.text.options.{message}")
    name = bert.hidden_act
    if name != BERT_ACTIVATION and name not in activations():
        raise ConfigError(
            f"model.text.options.hidden_act: transformers has no {name!r}.{did_you_mean(str(name), activations())}"
        )


def load_bert(config: TextConfig, encoder: TextEncoder, mlm_head: MLMHead | None = None) -> None:
    """Load the pretrained BERT that the config names, if any, and log what became of each tensor.

    Cross-attention stays as it is unless the file has it: BERT has none. A vocabulary head that the file lacks stays so
    too, with a warning.

    Raises:
        CheckpointError: the file cannot be read or does not fit.
        ConfigError: there is no such file.
    """
    if config.weights is None:
        return
    own = {**encoder.state_dict(), **({f"{_HEAD}{n}": t for n, t in mlm_head.state_dict().items()} if mlm_head else {})}
    path, contents = _read_bert(config.weights)
    found = unwrap(
        contents,
        path,
        lambda state: score(state, own),
        _PARTS,
        forms=lambda way: [replace(way, state=_to_ours(way.state))],
    )
    report = LoadReport(described(path, found.undone), KEY, other_parts=found.other_parts)
    expected = _EXPECTED if mlm_head else (*_EXPECTED, _HEAD)
    _check_tied(found.state, report.source)
    fitting = fit(
        found.state, own, Rules(expected, (".crossattention.", _HEAD), config.weights_allow, f"{KEY}_allow"), report
    )
    for module, prefix in ((encoder, ""), (mlm_head, _HEAD)):
        if module is not None:
            inside = {n.removeprefix(prefix): t for n, t in fitting.items() if n.startswith(_HEAD) == bool(prefix)}
            module.load_state_dict(inside, strict=False)
    logger.info("%s", report)
    if mlm_head is not None and any(name.startswith(_HEAD) for name in report.new):
        logger.warning("%s: %s has no vocabulary head, which starts from random weights", KEY, report.source)


def _read_bert(name: str) -> tuple[Path, dict[str, Any]]:
    """Return the file with the weights of a BERT, and what is in it; those of several files together."""
    if os.path.exists(name) and not os.path.isdir(name):
        return Path(name), read_tensors(Path(name))[0]
    for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        path = _file_of(name, file)
        if path is not None and path.suffix == ".json":
            parts = [_file_of(name, part) for part in sorted(set(_weight_map(path).values()))]
            return path, {key: t for part in parts if part for key, t in read_tensors(part)[0].items()}
        if path is not None:
            return path, read_tensors(path)[0]
    raise ConfigError(
        f"{KEY}: there are no weights in {name!r}. Give a folder with config.json and model.safetensors, a file, or "
        "null for random weights."
    )


def _file_of(name: str, file: str) -> Path | None:
    """Return where a file of a folder, or of a repository of the hub, lies on this machine; None if it has none."""
    if os.path.isdir(name):
        return Path(name, file) if os.path.lexists(os.path.join(name, file)) else None
    found = _asked(name, lambda: cached_file(name, file, _raise_exceptions_for_missing_entries=False))
    return Path(found) if found else None


def _weight_map(path: Path) -> dict[str, str]:
    require_regular(path)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{KEY}: {path} tells no files of weights: {error}.") from error


def _to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a Hugging Face BERT under our names; others keep theirs."""
    renamed = {}
    for name, tensor in state.items():
        for theirs, ours in _RENAMES.items():
            name = ours + name.removeprefix(theirs) if name.startswith(theirs) else name
        renamed[_OLD_NORM.sub(lambda found: _NORMS[found[0]], name)] = tensor
    return renamed


def _check_tied(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse a vocabulary head whose output layer is not the word embeddings, as it is here: it would be lost."""
    for name, other in ((f"{_HEAD}decoder.weight", _WORDS), (f"{_HEAD}decoder.bias", f"{_HEAD}bias")):
        if name in state and other in state and not torch.equal(state[name], state[other]):
            raise CheckpointError(
                f"{KEY}: {source}: the output layer of the vocabulary head should repeat {other}, but does not."
            )


def _from_pretrained(name: str) -> BertConfig:
    """Return the config of the pretrained BERT; of a file, that in config.json beside it, or bert-base-uncased's."""
    if os.path.exists(name) and not os.path.isdir(name):
        require_regular(Path(name))
        beside = Path(name).with_name("config.json")
        return _asked(name, lambda: BertConfig.from_pretrained(beside.parent)) if beside.is_file() else BertConfig()
    return _asked(name, lambda: BertConfig.from_pretrained(name))


def _asked(name: str, ask: Callable[[], T]) -> T:
    """Return what transformers gives, or raise an error that names the key."""
    try:
        return ask()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{KEY}: cannot load BERT from {name!r}: {str(error).splitlines()[0]} "
            "Give a folder with config.json and model.safetensors, or null for random weights."
        ) from error
