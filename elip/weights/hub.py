"""What a config asks the Hugging Face hub for, whether it is on this machine already, and whether the hub answers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session

from elip.config.schema import ModelConfig
from elip.data.vocabulary import VOCABULARY_FILES
from elip.errors import ConfigError

BERT_FILES = (("config.json",), ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"))
TIMM_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
_SECONDS = 5
_SUFFIXES = (".bin", ".json", ".pt", ".pth", ".safetensors", ".txt")


@dataclass(frozen=True)
class Download:
    """Something that a key of the config names, and that may have to come from the hub.

    Args:
        key: dotted, of the config.
        value: what the config says there.
        repo: on the hub, with `@revision` or without.
        files: of each tuple, one file is needed.
        url: where else it could come from, once downloaded to torch's own cache.
        instead: what to set the key to without a network.
    """

    key: str
    value: str
    repo: str
    files: tuple[tuple[str, ...], ...]
    instead: str
    url: str | None = None

    def is_here(self) -> bool:
        """Return whether an earlier download is in one of the caches."""
        if self.url and os.path.exists(os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(self.url))):
            return True
        return all(any(_is_cached(self.repo, name) for name in alternatives) for alternatives in self.files)


def downloads(model: ModelConfig) -> list[Download]:
    """Return what the model's sections name that is no file or folder here.

    Raises:
        ConfigError: timm has no pretrained weights for its model.
    """
    vision, text = model.vision, model.text
    named = [_timm_weights(vision.name)] if vision.weights == "timm" else []
    if text.weights is not None and may_be_on_the_hub(text.weights):
        instead = "model.text.weights=FOLDER (null for random ones)"
        named.append(Download("model.text.weights", text.weights, text.weights, BERT_FILES, instead))
    if may_be_on_the_hub(text.tokenizer):
        instead = "model.text.tokenizer=FOLDER (with a vocab.txt, such as tools/make_vocab.py makes)"
        named.append(Download("model.text.tokenizer", text.tokenizer, text.tokenizer, (VOCABULARY_FILES,), instead))
    return [one for one in named if one is not None]


def may_be_on_the_hub(name: str) -> bool:
    """Return whether a name is none of a file or folder here, and could be one of the hub's."""
    is_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or name.endswith(_SUFFIXES)
    return not is_path and not os.path.exists(name)


def unreachable() -> str | None:
    """Return why the hub is out of reach, None if it answers; one question, of a few seconds at most."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:  # of requests or of httpx, as the hub's version has it
        slow = "ReadTimeout" in type(error).__name__  # it is there, and only slow
        return None if slow else f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


def refuse(missing: Sequence[Download], reason: str) -> ConfigError:
    """Return the error that tells all that is missing at once, and what to set instead."""
    named = _listed([f"{one.key}={one.value}" for one in missing])
    return ConfigError(
        f"{named}: not on this machine, and the Hugging Face hub ({constants.ENDPOINT}) is out of reach: {reason}. "
        f"Without a network, set {_listed([one.instead for one in missing])}."
    )


def _timm_weights(name: str) -> Download | None:
    known = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    if known is None:
        return None  # its name is wrong, which building tells
    if not known.has_weights:
        raise ConfigError(
            f"model.vision.weights: timm has no pretrained weights for {name!r}; give a file, or null for random ones."
        )
    instead = "model.vision.weights=FILE (null for random ones)"
    url = known.url if isinstance(known.url, str) else None
    return Download("model.vision.weights", "timm", known.hf_hub_id or "", (TIMM_FILES,), instead, url)


def _is_cached(repo: str, file: str) -> bool:
    name, _, revision = repo.partition("@")
    caches = {None, os.environ.get("TRANSFORMERS_CACHE") or None}  # the latter was where transformers before 5 looked
    try:
        found = [try_to_load_from_cache(name, file, cache_dir=at, revision=revision or None) for at in caches]
    except ValueError:  # no name that the hub could have
        return False
    return any(isinstance(path, str) for path in found)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
