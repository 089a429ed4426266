"""Trained runs as encoders of images and texts: what `elip.load_task` gives."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image, ImageFile
from torch import Tensor

from elip.config import config_from_dict
from elip.data.cleaning import usable_caption
from elip.data.pixels import to_rgb
from elip.errors import CheckpointError, ElipError
from elip.models.albef import Albef
from elip.reduction.guide import Guide, Text
from elip.registry import TASKS
from elip.task.alignment import AlignmentTask
from elip.task.preflight import without_weights
from elip.task.vision_language import VisionLanguageTask
from elip.task.vocabulary import warn_of_other_vocabulary
from elip.weights import run_folder
from elip.weights.files import read_weights
from elip.weights.fitting import load_all

Picture = str | Path | Image.Image
Pictures = Picture | Sequence[Picture] | Tensor
"""Paths or pictures of PIL, one or several; or a tensor [N, 3, S, S] that is normalised already."""
Texts = str | Sequence[str]

BATCH = 32
"""Images or texts that are encoded at once."""


def load_task(
    folder: str | Path, *overrides: str, device: str | torch.device = "auto", plugins: Sequence[str] = ()
) -> "TrainedTask":
    """Return a trained run, ready to encode images and texts.

    Args:
        folder: output folder of the run, of which the best checkpoint is taken, else the last; or a checkpoint.
        overrides: keys of its config to change, as on the command line: "eval.reducer.name=none".
        device: to compute on; `auto` for CUDA if there is any, else the CPU.
        plugins: files or modules of the run's own reducer or task. Those that only the checkpoint names are not
            imported, as that would run their code.

    Raises:
        ElipError: there is no checkpoint, it is damaged or tells no config, the run needs a plug-in, or its task has
            no encoders of images and texts.
    """
    path = run_folder.find(Path(folder))
    weights = read_weights(path)
    if not weights.run:
        raise CheckpointError(f"{path} does not tell the config of its run: elip.load_task takes runs of this toolkit.")
    named = [f"plugins={json.dumps([str(plugin) for plugin in plugins])}"] if plugins else []
    config = without_weights(config_from_dict(weights.run["config"], str(path), [*overrides, *named]))
    with torch.random.fork_rng([]):  # initial weights, which are replaced at once, take no random numbers of the user's
        task = TASKS.build(config.task.name, config)
    if not isinstance(task, VisionLanguageTask):
        raise ElipError(f"{path}: task {config.task.name!r} has no encoders of images and texts to use.")
    load_all(task, weights.state, path)
    warn_of_other_vocabulary(task, weights)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return TrainedTask(task.to(device), path)


class TrainedTask:
    """A trained run in evaluation mode, without gradients.

    Pictures go through the run's own transform, texts through its cleaning and its tokenizer, as in its evaluation; its
    reducer of evaluation acts. Pictures of PIL are taken as they are in memory, files turned as their EXIF data say.
    `task` is the whole of it, for anything else.

    Args:
        task: with its weights, on its device.
        path: of the checkpoint that they are from.
    """

    def __init__(self, task: VisionLanguageTask, path: Path) -> None:
        self.task = task.eval()
        self.path = path
        self._device = next(task.parameters()).device

    @torch.no_grad()
    def encode_image(self, images: Pictures, text: Texts | None = None) -> Tensor:
        """Return unit features of images, [N, E].

        Args:
            images: one or several.
            text: one of each image, or one for all, for a reducer that lets the text decide which patches to keep.
                None encodes images alone, as a search does: such a reducer keeps all tokens then.

        Raises:
            ElipError: the task has no projections to a joint space; a picture cannot be read, or a text is empty.
        """
        albef, shown = self._projecting(), _several(images)
        said = None if text is None else _repeated(_several(text), len(shown), "texts")

        def encode(at: slice) -> Tensor:
            guide = None if said is None else Guide(self.text(said[at]))
            return albef.image_feat(albef.encode_image(self._pixels(shown[at]), guide).embeds)

        return self._by_batch(encode, len(shown), albef.vision_proj.out_features)

    @torch.no_grad()
    def encode_text(self, texts: Texts) -> Tensor:
        """Return unit features of texts, [N, E].

        Raises:
            ElipError: the task has no projections to a joint space; a text is empty once it is cleaned.
        """
        albef, said = self._projecting(), _several(texts)

        def encode(at: slice) -> Tensor:
            return albef.text_feat(self.text(said[at]).states)

        return self._by_batch(encode, len(said), albef.text_proj.out_features)

    @torch.no_grad()
    def match(self, images: Pictures, texts: Texts) -> Tensor:
        """Return the probability that each image and its text belong together, by the matching head (ITM): [N].

        Args:
            images: one for each text, or one for all.
            texts: one for each image, or one for all.

        Raises:
            ElipError: the task has no matching head; numbers differ; a picture cannot be read, or a text is empty.
        """
        task, shown, said = self.task, _several(images), _several(texts)
        if not isinstance(task, AlignmentTask):
            raise ElipError(f"{self.path}: task {task.config.task.name!r} has no head that matches images with texts.")
        count = max(len(shown), len(said))
        shown, said = _repeated(shown, count, "images"), _repeated(said, count, "texts")

        def match(at: slice) -> Tensor:
            ids, mask = self._tokens(said[at])
            return task({"image": self._pixels(shown[at]), "ids": ids, "mask": mask}).softmax(dim=-1)[:, 1]

        return self._by_batch(match, count)

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Text:
        """Return the hidden states of texts, as a reducer's guide has them.

        Raises:
            ElipError: a text is empty once it is cleaned.
        """
        ids, mask = self._tokens(texts)
        return Text(self.task.model.albef.text_encoder.encode(ids, mask), mask)

    def _projecting(self) -> Albef:
        """Return the encoders, which must have projections to the joint space."""
        albef: Albef = self.task.model.albef
        if not hasattr(albef, "vision_proj"):
            raise ElipError(
                f"{self.path}: task {self.task.config.task.name!r} has no projections to a joint space of images and "
                "texts, so that neither has a feature of its own. Take a run of pretrain, retrieval or grounding."
            )
        return albef

    def _pixels(self, images: Sequence[Picture | Tensor]) -> Tensor:
        """Return images as the encoder gets them, [N, 3, S, S]."""
        rows = [image if isinstance(image, Tensor) else self._transformed(image) for image in images]
        return torch.stack(rows).to(self._device)

    def _transformed(self, image: Picture) -> Tensor:
        folder = replace(self.task.images, root=".")
        if not isinstance(image, Image.Image):
            return self.task.eval_transform(folder.open(str(image)))
        # Of a picture that was made and not opened, nothing is asked that only those from files have.
        return self.task.eval_transform(to_rgb(cast(ImageFile.ImageFile, image), folder.background))

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids and mask of texts, [N, L] each."""
        task = self.task
        cleaned = [usable_caption(text, task.config.data.max_words, "text") for text in texts]
        length = getattr(task.settings, "eval_text_length", None)
        ids, mask = task.tokenizer.encode(cleaned, task.fitting(length))
        return ids.to(self._device), mask.to(self._device)

    def _by_batch(self, encode: Callable[[slice], Tensor], count: int, *shape: int) -> Tensor:
        """Return what is encoded of all, a batch at a time: [count, *shape]."""
        starts = range(0, count, BATCH)
        return torch.cat([torch.empty(0, *shape, device=self._device), *(encode(slice(i, i + BATCH)) for i in starts)])


def _several(things: Any) -> Sequence[Any]:
    """Return a single picture or text as a list of one; lists, and images in a tensor, as they are."""
    return [things] if isinstance(things, str | Path | Image.Image) else things


def _repeated(things: Sequence[Any], count: int, what: str) -> Sequence[Any]:
    """Return as many things as asked for; a single one stands for all."""
    if len(things) == count:
        return things
    if len(things) != 1:
        raise ElipError(f"there are {len(things)} {what} for {count} of the others: give as many, or one for all.")
    return [things[0]] * count
