"""What reducers are costed in: a plain ViT, or the model of a whole task."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import timm
import torch
from PIL import Image
from torch import Tensor

from elip.config import config_from_dict, config_to_dict
from elip.config.schema import ReducerConfig, RunConfig, VisionConfig
from elip.data.transforms import CLIP, EvalTransform, Normalize, choose_normalize
from elip.efficiency.plan import Params, meet_budget
from elip.efficiency.task_cost import TaskCost, task_cost
from elip.efficiency.vision_cost import VisionCost, vision_cost
from elip.errors import ConfigError, did_you_mean
from elip.models.albef import build_reducer
from elip.models.vision import VisionEncoder
from elip.reduction.reducer import TokenReducer
from elip.registry import REDUCERS, TASKS
from elip.weights.bert import bert_config
from elip.weights.build import create_vision_encoder

BASELINE = "none"
"""The reducer that keeps all tokens."""

Images = Sequence[Tensor] | None
"""What to take the mean over, as for `vision_cost`."""


class Subject(Protocol):
    """A model that reducers are costed in."""

    @property
    def own(self) -> list[ReducerConfig]:
        """The reducers to cost when none is asked for."""
        ...

    def parse(self, reducer: str) -> ReducerConfig:
        """Return a reducer, given as in `reducer=...` on the command line, its parameters' names checked."""
        ...

    def encoder_with(self, reducer: ReducerConfig) -> tuple[VisionEncoder, TokenReducer]:
        """Return the image encoder, and the reducer made for it."""
        ...

    def cost(self, reducer: ReducerConfig, images: Images) -> VisionCost | TaskCost:
        """Return what an image costs under a reducer."""
        ...

    def transform(self, image: Image.Image) -> Tensor:
        """Return a picture as the model gets it in evaluation, [3, S, S]."""
        ...


def within_budget(subject: Subject, reducer: ReducerConfig, gmacs: float, images: Images) -> ReducerConfig:
    """Return the reducer with the weakest parameters that keep an image within a budget in the image encoder."""

    def with_params(params: Params) -> ReducerConfig:
        return ReducerConfig(name=reducer.name, strict=reducer.strict, **params)

    def measure(params: Params) -> VisionCost:
        return vision_cost(*subject.encoder_with(with_params(params)), images)

    depth = subject.encoder_with(reducer)[0].depth
    plan = meet_budget(reducer.name, REDUCERS.get(reducer.name), reducer.params, 1e9 * gmacs, measure, depth)
    return with_params(plan.params)


class PlainVit:
    """A ViT of timm with its classifier head.

    Args:
        name: timm's.
        image_size: side of the image, pixels; None for timm's default.
        weights: `timm` for pretrained ones, a checkpoint file, or None for random ones.
    """

    def __init__(self, name: str, image_size: int | None = None, weights: str | None = None) -> None:
        if not timm.is_model(name):
            known = timm.list_models(["*vit*", "*deit*"])
            raise ConfigError(f"--vit: timm has no model {name!r}.{did_you_mean(name, known)}")
        default = timm.get_pretrained_cfg(name)
        size = image_size or (default.input_size[-1] if default else 224)
        config = VisionConfig(name=name, image_size=size, weights=weights)
        self._image_size = size
        try:
            self.encoder = create_vision_encoder(config, default.num_classes if default else 0)
        except ConfigError as error:
            raise ConfigError(str(error).replace("model.vision.image_size", "--image-size")) from error

    @property
    def own(self) -> list[ReducerConfig]:
        return [ReducerConfig(name=BASELINE)]

    def parse(self, reducer: str) -> ReducerConfig:
        # checked as the section of any config is; which task it names makes no difference
        return config_from_dict({"task": {"name": "pretrain"}}, "--vit", [f"reducer={reducer}"]).reducer

    def encoder_with(self, reducer: ReducerConfig) -> tuple[VisionEncoder, TokenReducer]:
        # the made-up text of a reducer that needs one is as wide as the ViT
        return self.encoder, build_reducer(reducer, self.encoder, self.encoder.width)

    def cost(self, reducer: ReducerConfig, images: Images) -> VisionCost:
        return vision_cost(*self.encoder_with(reducer), images)

    def transform(self, image: Image.Image) -> Tensor:
        own = self.encoder.normalization
        return EvalTransform(self._image_size, Normalize(*own) if own else CLIP)(image)


class TaskModel:
    """The model of a config's task.

    A reducer of the same name as the config's takes the config's parameters where it is given none.

    Args:
        config: of a run.
        source: where it comes from, for messages.
    """

    def __init__(self, config: RunConfig, source: str) -> None:
        self._config, self._source = config, source

    @property
    def own(self) -> list[ReducerConfig]:
        config = self._config.reducer
        return [config] if config.name == BASELINE else [ReducerConfig(name=BASELINE), config]

    def parse(self, reducer: str) -> ReducerConfig:
        return config_from_dict(config_to_dict(self._config), self._source, [f"reducer={reducer}"]).reducer

    @cached_property
    def _encoder(self) -> VisionEncoder:
        return create_vision_encoder(self._config.model.vision)

    def encoder_with(self, reducer: ReducerConfig) -> tuple[VisionEncoder, TokenReducer]:
        text_width = bert_config(self._config.model.text).hidden_size
        return self._encoder, build_reducer(reducer, self._encoder, text_width)

    def cost(self, reducer: ReducerConfig, images: Images) -> TaskCost:
        config = self._config
        if reducer != config.reducer:  # else it is evaluated as the config says
            evaluation = config.eval.model_copy(update={"reducer": None})
            config = config.model_copy(update={"reducer": reducer, "eval": evaluation})
        on_cuda = config.train.device != "cpu" and torch.cuda.is_available()
        return task_cost(TASKS.build(config.task.name, config).to("cuda" if on_cuda else "cpu"), images)

    def transform(self, image: Image.Image) -> Tensor:
        normalize = choose_normalize(self._config.data.normalization, self._encoder.normalization)
        return EvalTransform(self._config.model.vision.image_size, normalize)(image)
