"""What would stop a run, told before anything is built: the first minutes of a run are the worst time for it.

Sizes that do not fit are found by building the whole task once without memory (on torch's meta device), which takes
well under a second and asks every constructor; the first evaluation is asked whether it has what it needs; files and
downloads are looked for.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from elip.config.schema import ModelConfig, RunConfig
from elip.data.opening import missing_file
from elip.data.shards import are_shards, find_shards, refuse_shards
from elip.data.tokenizer import Tokenizer
from elip.errors import ConfigError, DataError, ElipError, located
from elip.registry import TASKS
from elip.task.contract import Task
from elip.weights import hub
from elip.weights.bert import bert_config

SPLITS = ("test", "val")
"""What can be evaluated, the one first that is by default."""
TRAINING = ("train", "val", "test")
"""The parts of the data that training reads, or that come after it."""
BERT_BASE = "bert-base-uncased"
"""Pretrained weights for the shape that BERT has by default."""


def check_run(config: RunConfig, parts: Sequence[str] = TRAINING) -> None:
    """Raise an error for what can be known to stop a run.

    Args:
        config: of the run.
        parts: of its data that it reads: train, val, test.

    Raises:
        ElipError: the message names the key.
    """
    TASKS.get(config.task.name).check_run(config, parts)
    task = dry_build(config)
    if task is None:
        return
    check_size(task)
    task.check_loss_weights()
    for split in [split for split in task.eval_splits() if split in parts][:1]:
        task.check_evaluation(split)


def dry_build(config: RunConfig) -> Task | None:
    """Return the task built without memory or weights; None if it cannot be built so, which says nothing against it.

    Raises:
        ElipError: from any constructor.
    """
    try:
        with torch.device("meta"):
            return TASKS.build(config.task.name, without_weights(config))
    except ElipError as error:
        if "meta" in str(error.__cause__):  # a version of timm that computes with tensors while it builds
            return None
        raise
    except Exception:  # a task that needs real tensors; what else is wrong with it, building in earnest shows
        return None


def check_size(task: Task) -> None:
    """Raise an error if the weights and buffers alone are more than this machine's memory."""
    if not hasattr(os, "sysconf"):
        return
    needed = sum(tensor.numel() * tensor.element_size() for tensor in task.state_dict().values())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(
            f"the model's weights and queues take {needed / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f} "
            "GiB of memory. Look at the sizes under model: and at task.queue_size."
        )


def without_weights(config: RunConfig) -> RunConfig:
    """Return the config with random weights in the place of pretrained ones, and the same shapes."""
    model = config.model
    vision = model.vision.model_copy(update={"weights": None})
    options: dict[str, Any] = model.text.options
    if model.text.weights not in (None, BERT_BASE):
        default = BertConfig().to_dict()
        given = bert_config(model.text).to_dict()
        options = {key: given[key] for key in default if given.get(key) != default[key]}
    text = model.text.model_copy(update={"weights": None, "options": options})
    return config.model_copy(update={"model": model.model_copy(update={"vision": vision, "text": text})})


def check_weights(model: ModelConfig, unreachable: Callable[[], str | None] | None = None) -> None:
    """Raise an error for pretrained weights or a tokenizer that are not here: one for all that the hub has to give.

    Args:
        model: its sections.
        unreachable: says why the hub is out of reach; asked only if something is missing. None asks the hub.
    """
    if model.vision.weights not in (None, "timm"):
        require_file(model.vision.weights, "model.vision.weights", ", timm, or null for random ones")
    if model.text.weights is not None and not hub.may_be_on_the_hub(model.text.weights):
        _check_bert(model.text.weights)
    missing = [one for one in hub.downloads(model) if not one.is_here()]
    reason = (unreachable or hub.unreachable)() if missing else None
    if reason is not None:
        raise hub.refuse(missing, reason)


def check_text(config: RunConfig, lengths: Sequence[str]) -> None:
    """Raise an error if the tokenizer or the lengths of texts do not fit the text encoder.

    Args:
        config: of the run.
        lengths: keys of the task that tell how many tokens a text has.
    """
    bert = bert_config(config.model.text)
    load_tokenizer(config.model.text.tokenizer, bert.vocab_size)
    most = bert.max_position_embeddings
    for key in lengths:
        length = getattr(config.task, key, None)
        if length is not None and length > most:
            raise ConfigError(
                f"task.{key}: texts of {length} tokens, and BERT here has positions for {most}. Set "
                f"task.{key}={most}, or model.text.options.max_position_embeddings={length}."
            )


def load_tokenizer(name: str, num_words: int) -> Tokenizer:
    """Return the tokenizer of that name for a text encoder of that many words."""
    with located("model.text.tokenizer"):
        tokenizer = Tokenizer.load(name)
    if tokenizer.vocab_size > num_words:
        raise ConfigError(
            f"model.text.tokenizer: {name} has {tokenizer.vocab_size} words, but the text encoder only {num_words}; "
            "set model.text.options.vocab_size to at least the tokenizer's."
        )
    return tokenizer


def check_data(config: RunConfig, parts: Sequence[str], *, trains_on_pairs: bool) -> None:
    """Raise an error if a file that the config lists as data, or the folder of images, is missing.

    Args:
        trains_on_pairs: whether tar shards will do to train on.
    """
    data = config.data
    if "train" in parts and not data.train:
        raise ConfigError("data.train: name at least one file to train on: data.train=[FILE].")
    only_shards = True
    for part in parts:
        key, paths = f"data.{part}", getattr(data, part, [])
        shards = are_shards(paths, key)
        only_shards &= shards or not paths
        if shards:
            if part != "train" or not trains_on_pairs:
                refuse_shards(paths, key)
            _find_shards(paths, key)
            continue
        for index, path in enumerate(paths):
            require_file(path, f"{key}[{index}]", "" if part == "train" else f", or {key}=[] to do without")
    if not only_shards and not os.path.isdir(data.image_root):
        raise ConfigError(
            f"data.image_root: {_what_is_there(data.image_root, 'folder')} Name the folder that the paths of images in "
            "the annotation files start from."
        )


def require_file(path: str, key: str, otherwise: str = "") -> None:
    """Raise an error that names the key, unless it names a file that can be read.

    Args:
        path: what the key says.
        key: dotted, of the config.
        otherwise: what else to do than to give the file: ", or ...".
    """
    if not os.path.isfile(path):
        raise ConfigError(f"{key}: {_what_is_there(path, 'file')} Give {key.partition('[')[0]}=FILE{otherwise}.")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{key}: cannot read {path}: permission denied.")


def _check_bert(path: str) -> None:
    key, otherwise = "model.text.weights", ", a folder with config.json and model.safetensors, or null for random ones"
    if not os.path.isdir(path):
        require_file(path, key, otherwise)
        return
    there = set(os.listdir(path))
    for names in hub.BERT_FILES:
        if there.isdisjoint(names):
            raise ConfigError(f"{key}: {path} has no {names[0]}. Give {key}=FILE{otherwise}.")


def _find_shards(patterns: Sequence[str], key: str) -> None:
    try:
        find_shards(patterns)
    except DataError as error:
        raise DataError(f"{key}: {error}") from error


def _what_is_there(path: str, wanted: str) -> str:
    """Return in words that `path` is not the `wanted`."""
    if os.path.exists(path):
        return f"{path} is not a {wanted}."
    try:
        said = missing_file(Path(path))
    except OSError as error:  # a name too long, or a folder that may not be read
        said = error.strerror or str(error)
    return f"{path}: {said.rstrip('.')}." if not said.endswith("?") else f"{path}: {said}"
