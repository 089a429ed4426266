"""Encoders as a config describes them, with the pretrained weights that it names."""

from elip.config.schema import ModelConfig, ReducerConfig, VisionConfig
from elip.errors import ConfigError
from elip.models.albef import Albef, build_eval_reducer, build_reducer
from elip.models.text import MLMHead, TextEncoder
from elip.models.vision import VisionEncoder, create_vit
from elip.weights.bert import bert_config, load_bert
from elip.weights.vit import load_vit


def create_vision_encoder(config: VisionConfig, num_classes: int = 0) -> VisionEncoder:
    """Return a new image encoder, its weights loaded.

    Args:
        config: name, image size, weights, options.
        num_classes: width of timm's classifier head; 0 for none.

    Raises:
        ConfigError: timm cannot build it.
        CheckpointError: its weights cannot be read or do not fit.
    """
    vit = create_vit(config, num_classes)
    load_vit(config, vit, num_classes)
    return VisionEncoder(vit)


def create_albef(
    model: ModelConfig,
    reducer: ReducerConfig,
    eval_reducer: ReducerConfig | None = None,
    *,
    projections: bool = True,
    mlm_head: MLMHead | None = None,
) -> Albef:
    """Return new encoders of images and texts, their weights loaded.

    Args:
        model: its sections.
        reducer: acts in the image encoder.
        eval_reducer: takes its place in evaluation; None for the same one.
        projections: whether to project to the joint space of images and texts.
        mlm_head: a vocabulary head to load BERT's into.

    Raises:
        ConfigError: the sections do not fit each other, or a library cannot build what they say.
        CheckpointError: weights cannot be read or do not fit.
    """
    bert = bert_config(model.text)
    if model.text.fusion_layer == bert.num_hidden_layers:
        raise ConfigError(
            f"model.text.fusion_layer: all {bert.num_hidden_layers} layers see text only, so that none attends to "
            f"the image; set it below {bert.num_hidden_layers}."
        )
    visual_encoder = create_vision_encoder(model.vision)
    text_encoder = TextEncoder(bert, model.text.fusion_layer, visual_encoder.width)
    albef = Albef(
        visual_encoder,
        text_encoder,
        build_reducer(reducer, visual_encoder, text_encoder.width),
        model.embed_dim if projections else None,
        None if eval_reducer is None else build_eval_reducer(eval_reducer, visual_encoder, text_encoder.width),
    )
    load_bert(model.text, text_encoder, mlm_head)
    return albef
