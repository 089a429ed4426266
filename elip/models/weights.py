"""Weights from outside: pretrained BERT, and position embeddings of another image size."""

from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from elip.config.schema import TextConfig
from elip.errors import CheckpointError, ConfigError, did_you_mean
from elip.models.text import MLMHead, TextEncoder


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
        base = _from_pretrained(BertConfig, config.weights).to_dict()
    bert = BertConfig(**{**base, **config.options})
    if not 0 <= config.fusion_layer <= bert.num_hidden_layers:
        raise ConfigError(
            f"model.text.fusion_layer: BERT here has {bert.num_hidden_layers} layers, so the first fusion layer is one "
            f"of 0 to {bert.num_hidden_layers}, got {config.fusion_layer}."
        )
    return bert


def load_bert(config: TextConfig, encoder: TextEncoder, mlm_head: MLMHead | None = None) -> None:
    """Load the pretrained BERT that the config names, if any; cross-attention stays as it is, BERT has none."""
    if config.weights is None:
        return
    bert = _from_pretrained(BertForMaskedLM, config.weights, config=encoder.bert_config)
    missing, unexpected = encoder.load_state_dict(bert.bert.state_dict(), strict=False)
    missing = [name for name in missing if ".crossattention." not in name]
    unexpected = [name for name in unexpected if not name.startswith(("pooler.", "embeddings.position_ids"))]
    if missing or unexpected:
        raise CheckpointError(
            f"model.text.weights: {config.weights!r} does not fit BERT here: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}."
        )
    if mlm_head is not None:
        predictions = bert.cls.predictions
        mlm_head.dense.load_state_dict(predictions.transform.dense.state_dict())
        mlm_head.LayerNorm.load_state_dict(predictions.transform.LayerNorm.state_dict())
        mlm_head.bias.data.copy_(predictions.bias)


def resize_pos_embed(pos_embed: Tensor, new_grid: tuple[int, int], num_prefix: int) -> Tensor:
    """Return position embeddings for another grid of patches, bicubic as ALBEF does it; prefix places stay.

    Args:
        pos_embed: [1, prefix + old patches, D], from a square grid.
        new_grid: rows and columns wanted.
        num_prefix: places before the patches.
    """
    return resample_abs_pos_embed(pos_embed, list(new_grid), num_prefix_tokens=num_prefix, antialias=False)


def _from_pretrained(cls: type, name: str, **options: Any) -> Any:
    try:
        return cls.from_pretrained(name, **options)  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.text.weights: cannot load BERT from {name!r}: {str(error).splitlines()[0]} "
            "Give a folder with config.json and model.safetensors, or null for random weights."
        ) from error
