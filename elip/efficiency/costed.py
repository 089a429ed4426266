"""What reducers are costed in, a plain ViT or the model of a whole task, and the pictures to take a mean over."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, TypeVar, cast, overload

import timm
import torch
from PIL import Image
from timm.layers import PatchEmbed
from torch import Tensor
from typing_extensions import TypedDict

from elip.config import config_from_dict, config_to_dict
from elip.config.schema import ReducerConfig, RunConfig, VisionConfig
from elip.data.annotations import load_annotations
from elip.data.images import ImageFolder
from elip.data.transforms import CLIP, EvalTransform, Normalize, choose_normalize
from elip.efficiency.cross_check import fvcore_macs
from elip.efficiency.passes import META, NoValuesError
from elip.efficiency.plan import Params, meet_budget
from elip.efficiency.task_cost import TaskCost, task_cost
from elip.efficiency.vision_cost import Classifier, VisionCost, vision_cost
from elip.errors import ConfigError, DataError, did_you_mean
from elip.models.albef import build_reducer
from elip.models.vision import VisionEncoder, warn_of_unseen_pixels
from elip.reduction.reducer import TokenReducer
from elip.registry import REDUCERS, TASKS
from elip.task.preflight import dry_build
from elip.weights.bert import bert_config
from elip.weights.build import create_vision_encoder

BASELINE = "none"
"""The reducer that keeps all tokens."""

Images = Sequence[Tensor] | None
"""What to take the mean over, as for `vision_cost`."""
T = TypeVar("T")
Measure = Callable[[VisionEncoder, TokenReducer], T]
"""Takes an image encoder and a reducer made for it."""


class Measurable(Protocol):
    """An image encoder that can be measured under reducers."""

    def measure(self, reducer: ReducerConfig, measure: Measure[T]) -> T:
        """Return what `measure` gives for the image encoder and the reducer made for it.

        They have no values at first; where it raises `NoValuesError`, it is given others that have.
        """
        ...


class CostedModel(Measurable, Protocol):
    """A model that reducers are costed in."""

    @property
    def own(self) -> list[ReducerConfig]:
        """The reducers to cost when none is asked for."""
        ...

    def parse(self, reducer: str) -> ReducerConfig:
        """Return a reducer, given as in `reducer=...` on the command line, its parameters' names checked."""
        ...

    def cost(self, reducer: ReducerConfig, images: Images) -> VisionCost | TaskCost:
        """Return what an image costs under a reducer."""
        ...

    def transform(self, image: Image.Image) -> Tensor:
        """Return a picture as the model gets it in evaluation, [3, S, S]."""
        ...


def within_budget(model: Measurable, reducer: ReducerConfig, gmacs: float, images: Images) -> ReducerConfig:
    """Return the reducer with the weakest parameters that keep an image within a budget in the image encoder."""

    def with_params(params: Params) -> ReducerConfig:
        return ReducerConfig(name=reducer.name, strict=reducer.strict, until=reducer.until, **params)

    def cost(params: Params) -> float:
        return model.measure(with_params(params), partial(vision_cost, images=images)).total

    depth = model.measure(reducer, lambda encoder, _: encoder.depth)
    plan = meet_budget(reducer.name, REDUCERS.get(reducer.name), reducer.params, 1e9 * gmacs, cost, depth)
    return with_params(plan.params)


class PlainVit:
    """A ViT of timm with its classifier head.

    Args:
        name: timm's.
        image_size: side of the image, pixels; None for timm's default.
        weights: `timm` for pretrained ones, a checkpoint file, or None for random ones.
        classifier: whether it has that head; without, it gives the feature that timm pools for it.
    """

    def __init__(
        self, name: str, image_size: int | None = None, weights: str | None = None, *, classifier: bool = True
    ) -> None:
        if not timm.is_model(name):
            known = timm.list_models(["*vit*", "*deit*"])
            raise ConfigError(f"--vit: timm has no model {name!r}.{did_you_mean(name, known)}")
        default = timm.get_pretrained_cfg(name)
        size = image_size or (default.input_size[-1] if default else 224)
        config = VisionConfig(name=name, image_size=size, weights=weights)
        self._image_size = size
        self._encoders = _Encoders(config, default.num_classes if default and classifier else 0)
        try:
            _ = self._encoders.with_values if weights else self._encoders.without_values
        except ConfigError as error:
            raise ConfigError(str(error).replace("model.vision.image_size", "--image-size")) from error

    @property
    def own(self) -> list[ReducerConfig]:
        return [ReducerConfig(name=BASELINE)]

    def parse(self, reducer: str) -> ReducerConfig:
        # checked as the section of any config is; which task it names makes no difference
        return config_from_dict({"task": {"name": "pretrain"}}, "--vit", [f"reducer={reducer}"]).reducer

    def encoder_with(self, reducer: ReducerConfig) -> tuple[VisionEncoder, TokenReducer]:
        """Return the image encoder, with its weights, and the reducer made for it."""
        # the made-up text of a reducer that needs one is as wide as the ViT
        encoder = self._encoders.with_values
        return encoder, build_reducer(reducer, encoder, encoder.width)

    def measure(self, reducer: ReducerConfig, measure: Measure[T]) -> T:
        return self._encoders.measure(reducer, None, measure)

    def cost(self, reducer: ReducerConfig, images: Images) -> VisionCost:
        return self.measure(reducer, partial(vision_cost, images=images))

    def fvcore_macs(self) -> int:
        """Return what fvcore counts for one image, all tokens kept."""
        model = Classifier(self._encoders.with_values, None).eval()
        with torch.no_grad():
            return fvcore_macs(model, model.noise(1))

    def transform(self, image: Image.Image) -> Tensor:
        own = self._encoders.without_values.normalization
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
        self._encoders = _Encoders(config.model.vision)

    @property
    def own(self) -> list[ReducerConfig]:
        config = self._config.reducer
        return [config] if config.name == BASELINE else [ReducerConfig(name=BASELINE), config]

    def parse(self, reducer: str) -> ReducerConfig:
        return config_from_dict(config_to_dict(self._config), self._source, [f"reducer={reducer}"]).reducer

    def measure(self, reducer: ReducerConfig, measure: Measure[T]) -> T:
        return self._encoders.measure(reducer, bert_config(self._config.model.text).hidden_size, measure)

    def cost(self, reducer: ReducerConfig, images: Images) -> TaskCost:
        config = self._config
        if reducer != config.reducer:  # else it is evaluated as the config says
            evaluation = config.eval.model_copy(update={"reducer": None})
            config = config.model_copy(update={"reducer": reducer, "eval": evaluation})
        if config.train.device != "cpu" and torch.cuda.is_available():
            return task_cost(TASKS.build(config.task.name, config).to("cuda"), images)
        _ = self._encoders.without_values  # warns of what is odd about it
        if task := dry_build(config):
            with suppress(NoValuesError):
                return task_cost(task, images)
        return task_cost(TASKS.build(config.task.name, config), images)

    def transform(self, image: Image.Image) -> Tensor:
        own = self._encoders.without_values.normalization
        normalize = choose_normalize(self._config.data.normalization, own)
        return EvalTransform(self._config.model.vision.image_size, normalize)(image)


class _Encoders:
    """An image encoder twice, each made when it is asked for: with its weights, and on the meta device."""

    def __init__(self, config: VisionConfig, num_classes: int = 0) -> None:
        self._config, self._num_classes = config, num_classes

    @cached_property
    def with_values(self) -> VisionEncoder:
        return create_vision_encoder(self._config, self._num_classes)

    @cached_property
    def without_values(self) -> VisionEncoder:
        try:
            with META:
                encoder = create_vision_encoder(self._config.model_copy(update={"weights": None}), self._num_classes)
            warn_of_unseen_pixels(self._config.image_size, cast(PatchEmbed, encoder.patch_embed).patch_size[0])
            return encoder
        except Exception:  # a version of timm that computes while it builds; what else is wrong shows with values
            return self.with_values

    def measure(self, reducer: ReducerConfig, text_width: int | None, measure: Measure[T]) -> T:
        """Return what `measure` gives for the encoder and a reducer, with values where it cannot do without."""
        encoder = self.without_values
        with suppress(NoValuesError):
            with META:  # a reducer's own parameters, too
                made = build_reducer(reducer, encoder, text_width or encoder.width)
            return measure(encoder, made)
        encoder = self.with_values
        return measure(encoder, build_reducer(reducer, encoder, text_width or encoder.width))


SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


class PictureItem(TypedDict):
    """What is wanted of an annotated item."""

    image: str


class Pictures(Sequence[Tensor]):
    """Pictures as the encoder gets them, [3, S, S] each, opened when they are asked for.

    Args:
        images: the folder of the pictures.
        paths: of the files.
        transform: from a picture to the encoder's input.
    """

    def __init__(self, images: ImageFolder, paths: Sequence[str], transform: Callable[[Image.Image], Tensor]) -> None:
        self._images, self._paths, self._transform = images, paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...
    def __getitem__(self, index: int | slice) -> "Tensor | Pictures":
        if isinstance(index, slice):
            return Pictures(self._images, self._paths[index], self._transform)
        return self._transform(self._images.open(self._paths[index]))


def find_pictures(
    source: Path, images: ImageFolder | None, limit: int, transform: Callable[[Image.Image], Tensor]
) -> Pictures:
    """Return pictures of a data set, evenly spread over it.

    Args:
        source: a folder of pictures, searched with its subfolders; or a JSON or JSON-lines file of items with a field
            `image`.
        images: the folder that relative paths in the file start from; None for the file's own.
        limit: the most pictures to take.
        transform: from a picture to the encoder's input.

    Raises:
        DataError: there are no pictures, or the file is missing or malformed.
    """
    if source.is_dir():
        images = replace(images or ImageFolder(), root=source)
        paths = picture_files(source)
    else:
        images = images or ImageFolder(source.parent)
        paths = [item["image"] for item in load_annotations([source], PictureItem)]
    if not paths:
        raise DataError(f"there are no pictures in {source} (known suffixes: {', '.join(sorted(SUFFIXES))}).")
    count = min(limit, len(paths))
    return Pictures(images, [paths[i * len(paths) // count] for i in range(count)], transform)


def picture_files(folder: Path) -> list[str]:
    """Return the files of pictures in a folder and its subfolders, in order, as paths from there."""
    found = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())
    return [str(path.relative_to(folder)) for path in found]
