"""Encoders that reducers are tried in as they are, without training: a ViT of timm, or that of a trained run."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from elip.config import config_from_dict, config_to_dict
from elip.config.schema import ReducerConfig
from elip.data.images import ImageFolder
from elip.efficiency.costed import Images, Measure, PlainVit, T
from elip.efficiency.vision_cost import VisionCost, vision_cost
from elip.models.albef import Albef, build_reducer
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import VisionOutput
from elip.trained import TrainedTask


class Made(NamedTuple):
    """A reducer, and whether whatever parameters it has are trained."""

    reducer: TokenReducer
    trained: bool


class Subject(Protocol):
    """An encoder with its weights, in evaluation mode; a `CostedModel` whose cost is that of the encoder."""

    name: str
    encoder: VisionEncoder
    images: ImageFolder

    def parse(self, reducer: str) -> ReducerConfig:
        """Return a reducer, given as in `reducer=...` on the command line, its parameters' names checked."""
        ...

    def make(self, reducer: ReducerConfig) -> Made:
        """Return the reducer for this encoder; parameters that are not trained are random."""
        ...

    def measure(self, reducer: ReducerConfig, measure: Measure[T]) -> T:
        """Return what `measure` gives for the image encoder and the reducer made for it."""
        ...

    def cost(self, reducer: ReducerConfig, images: Images) -> VisionCost:
        """Return what an image costs in the encoder under a reducer."""
        ...

    def transform(self, image: Image.Image) -> Tensor:
        """Return a picture as the encoder gets it in evaluation, [3, S, S]."""
        ...

    def guide(self, captions: Sequence[str]) -> Guide | None:
        """Return what captions tell a reducer of their images; None where there is no text encoder."""
        ...

    @property
    def joint_space(self) -> "JointSpace | None":
        """Where images and texts have features beside each other; None where there is no such place."""
        ...


class JointSpace(Protocol):
    """The space of E features that images and texts have in common."""

    def of_texts(self, captions: Sequence[str]) -> Tensor:
        """Return unit features of texts, [T, E]."""
        ...

    def of_images(self, output: VisionOutput) -> Tensor:
        """Return unit features of encoded images, [B, E]."""
        ...


class VitSubject:
    """A ViT of timm without its classifier; nothing in it reads texts.

    Args:
        name: timm's.
        image_size: side of the image, pixels; None for timm's default.
        weights: `timm` for pretrained ones, or a checkpoint file.
        device: to compute on.
    """

    joint_space = None

    def __init__(self, name: str, image_size: int | None, weights: str, device: torch.device) -> None:
        self._vit = PlainVit(name, image_size, weights, classifier=False)
        self.name = f"{name}, weights {weights if weights == 'timm' else Path(weights).name}"
        self.encoder = self._vit.encoder_with(self.parse("none"))[0].to(device).eval()
        self.images = ImageFolder()

    def parse(self, reducer: str) -> ReducerConfig:
        return self._vit.parse(reducer)

    def make(self, reducer: ReducerConfig) -> Made:
        made = self._vit.encoder_with(reducer)[1].to(next(self.encoder.parameters()).device).eval()
        return Made(made, next(made.parameters(), None) is None)

    def measure(self, reducer: ReducerConfig, measure: Measure[T]) -> T:
        return self._vit.measure(reducer, measure)

    def cost(self, reducer: ReducerConfig, images: Images) -> VisionCost:
        return self.measure(reducer, partial(vision_cost, images=images))

    def transform(self, image: Image.Image) -> Tensor:
        return self._vit.transform(image)

    def guide(self, captions: Sequence[str]) -> Guide | None:
        return None


class RunSubject:
    """The image encoder of a trained run, and its text encoder where texts are to be found or let decide.

    A reducer of the same name as the run's takes the run's parameters where it is given none.

    Args:
        run: in evaluation mode, on its device.
    """

    def __init__(self, run: TrainedTask) -> None:
        self._run = run
        self._albef: Albef = run.task.model.albef
        self.name = f"{run.task.config.task.name} of {run.path.parent.name}/{run.path.name}"
        self.encoder = self._albef.visual_encoder
        self.images = run.task.images

    def parse(self, reducer: str) -> ReducerConfig:
        values = config_to_dict(self._run.task.config)
        return config_from_dict(values, str(self._run.path), [f"reducer={reducer}"]).reducer

    def make(self, reducer: ReducerConfig) -> Made:
        device = next(self.encoder.parameters()).device
        made = build_reducer(reducer, self.encoder, self._albef.text_encoder.width).to(device).eval()
        return Made(made, next(made.parameters(), None) is None or self._take_trained(made))

    def measure(self, reducer: ReducerConfig, measure: Measure[T]) -> T:
        return measure(self.encoder, self.make(reducer).reducer)

    def cost(self, reducer: ReducerConfig, images: Images) -> VisionCost:
        return self.measure(reducer, partial(vision_cost, images=images))

    def transform(self, image: Image.Image) -> Tensor:
        return self._run.task.eval_transform(image)

    def guide(self, captions: Sequence[str]) -> Guide | None:
        return Guide(self._run.text(captions))

    @property
    def joint_space(self) -> JointSpace | None:
        return _SpaceOfRun(self._run) if hasattr(self._albef, "vision_proj") else None

    def _take_trained(self, made: TokenReducer) -> bool:
        """Give a reducer the parameters of the run's own, if that one has the very same; return whether it has."""
        own = self._albef.reducer
        if type(own) is not type(made):
            return False
        trained, mine = own.state_dict(), made.state_dict()
        if {key: value.shape for key, value in trained.items()} != {key: value.shape for key, value in mine.items()}:
            return False
        made.load_state_dict(trained)
        return True


class _SpaceOfRun:
    def __init__(self, run: TrainedTask) -> None:
        self._run = run

    def of_texts(self, captions: Sequence[str]) -> Tensor:
        return self._run.encode_text(captions)

    def of_images(self, output: VisionOutput) -> Tensor:
        return self._run.task.model.albef.image_feat(output.embeds)


def at_root(images: ImageFolder, root: Path | None) -> ImageFolder:
    """Return the folder of pictures at another place, read in the same way; the same one for None."""
    return images if root is None else replace(images, root=root)
