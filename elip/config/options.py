"""The options of timm's ViTs and of BERT: what a config may hand on to them, checked before they are built.

Both take many more than are named here; those are passed on as they are.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from elip.mistakes import explain, spell

Size = Annotated[int, Field(gt=0, le=65536)]
Count = Annotated[int, Field(gt=0, le=1000)]
Share = Annotated[float, Field(ge=0, lt=1)]
Deviation = Annotated[float, Field(ge=0, le=1000)]


class Options(BaseModel):
    """Options for a library's model, each left at the library's default unless given."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, use_attribute_docstrings=True, strict=True)

    not_here: ClassVar[dict[str, str]] = {}
    """Options of the library that are settled elsewhere, and where."""

    @model_validator(mode="after")
    def _settled_here(self) -> "Options":
        for name, where in self.not_here.items():
            if name in (self.__pydantic_extra__ or {}):
                raise ValueError(f"{name}: {where}.")
        return self


class VitOptions(Options):
    """Options of timm's Vision Transformers."""

    not_here: ClassVar[dict[str, str]] = {
        "img_size": "set model.vision.image_size instead",
        "model_name": "set model.vision.name instead",
        "num_classes": "the encoder has no classifier; leave it away",
        "in_chans": "pictures are RGB; leave it away",
        "device": "set train.device instead",
        "dtype": "set train.precision instead",
    }

    patch_size: Size | tuple[Size, Size] | None = None
    """Side of a patch, pixels."""
    embed_dim: Size | None = None
    """Width of the tokens; divisible by num_heads."""
    depth: Count | None = None
    """Number of blocks."""
    num_heads: Count | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=100)] | None = None
    """Width of a block's MLP, as a multiple of that of the tokens."""
    qkv_bias: bool | None = None
    qk_norm: bool | None = None
    proj_bias: bool | None = None
    init_values: Deviation | None = None
    """Initial layer scale; null for none."""
    class_token: bool | None = None
    reg_tokens: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Register tokens."""
    pre_norm: bool | None = None
    final_norm: bool | None = None
    fc_norm: bool | None = None
    no_embed_class: bool | None = None
    """Give position embeddings to patches only."""
    dynamic_img_size: bool | None = None
    drop_rate: Share | None = None
    pos_drop_rate: Share | None = None
    patch_drop_rate: Share | None = None
    proj_drop_rate: Share | None = None
    attn_drop_rate: Share | None = None
    drop_path_rate: Share | None = None
    """Stochastic depth of the last block; it grows from 0 at the first."""
    weight_init: str | None = None
    global_pool: str | None = None
    pos_embed: str | None = None
    norm_layer: str | None = None
    act_layer: str | None = None


class BertOptions(Options):
    """Options of BERT; the defaults are bert-base-uncased's."""

    not_here: ClassVar[dict[str, str]] = {
        "is_decoder": "the task says which part of the model reads from left to right; leave it away",
        "add_cross_attention": "the layers from model.text.fusion_layer on attend to the image; leave it away",
        "position_embedding_type": "positions are absolute; leave it away",
    }

    hidden_size: Size | None = None
    """Width of the tokens; divisible by num_attention_heads."""
    num_hidden_layers: Count | None = None
    """Text and fusion layers together."""
    num_attention_heads: Count | None = None
    intermediate_size: Size | None = None
    """Width of a layer's MLP."""
    vocab_size: Annotated[int, Field(gt=0, le=10_000_000)] | None = None
    """Words; at least the tokenizer's."""
    max_position_embeddings: Annotated[int, Field(gt=1, le=1_000_000)] | None = None
    """Longest text, tokens."""
    type_vocab_size: Count | None = None
    pad_token_id: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    hidden_dropout_prob: Share | None = None
    attention_probs_dropout_prob: Share | None = None
    initializer_range: Deviation | None = None
    """Standard deviation of new weights."""
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] | None = None
    hidden_act: str | None = None


@dataclass(frozen=True)
class Fits:
    """Checks a mapping of options against a model of them, and leaves it as it is."""

    model: type[Options]

    def __call__(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values.

        Raises:
            ValueError: naming the option that is wrong.
        """
        nulls = [name for name, value in values.items() if value is None and name in self.model.model_fields]
        given = {name: value for name, value in values.items() if name not in nulls}
        try:
            self.model.model_validate_json(json.dumps(given))
        except ValidationError as error:
            place, message = explain(error, given, self.model)
            raise ValueError(f"{spell(place)}: {message}" if place else message) from error
        return values
