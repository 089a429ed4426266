"""Draw which patches trained weights keep of any pictures under any texts, and where matching looks (Grad-CAM)."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elip.data.cleaning import usable_caption
from elip.engine.results import write_sheet
from elip.errors import ConfigError, located
from elip.models.contrastive import AlignmentModel
from elip.models.grad_cam import matching_map
from elip.reduction.guide import Guide, Text, Watch
from elip.registry import TASKS
from elip.sheets import Example, examples_sheet, kept_patches_sheet
from elip.task import Task
from elip.task.vision_language import VisionLanguageTask
from elip.task.vocabulary import warn_of_other_vocabulary
from elip.weights import run_folder
from elip.weights.files import read_weights
from elip.weights.fitting import load_all
from tools.cli import user_errors
from tools.evaluate import add_plugins, choose_config, with_plugins

EPILOG = """examples:
  python tools/visualize.py runs/demo/pretrain --pair data/digitscenes/images/test/000000.jpg 'a white six'
  python tools/visualize.py runs/mine --pair dog.jpg 'a dog on a beach' --pair dog.jpg 'the sea' --heat 8
  python tools/visualize.py runs/mine --pair dog.jpg 'a dog on a beach' eval.reducer.name=random --out random.png
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="visualize.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint file, or folder of a run: its best, else its last")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the config to change")
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        required=True,
        metavar=("IMAGE", "TEXT"),
        help="a picture and a text to look at it with; may be repeated",
    )
    parser.add_argument(
        "--heat",
        type=int,
        metavar="LAYER",
        help="draw Grad-CAM of a match in this layer of the text encoder, counted from 0 over all layers (ALBEF's: 8); "
        "the image is encoded without the text for it, as in training",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("kept.png"), metavar="FILE", help="sheet to write (%(default)s)"
    )
    add_plugins(parser)
    return parser.parse_intermixed_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the sheet, and return 0."""
    args = parse_args(argv)
    path = run_folder.find(args.checkpoint)
    weights = read_weights(path)
    config = choose_config(weights, None, with_plugins(args.overrides, args.plugins))
    task = TASKS.build(config.task.name, config)
    load_all(task, weights.state, path)
    warn_of_other_vocabulary(task, weights)
    sheet = draw(task.eval(), args.pair, args.heat)
    write_sheet(sheet, args.out)
    print(f"{len(args.pair)} pictures are in {args.out}")
    return 0


@torch.no_grad()
def draw(task: Task, pairs: Sequence[tuple[str, str]], heat_layer: int | None) -> np.ndarray:
    """Return a sheet with one row a pair of picture and text, [H, W, 3] uint8.

    Args:
        task: in evaluation mode.
        pairs: paths and texts.
        heat_layer: draw Grad-CAM of this layer, and patches kept after the last stage only.

    Raises:
        ConfigError: the task has no such encoders or layer, or there is nothing to show.
        DataError: no picture is there, or a text is empty.
    """
    if not isinstance(task, VisionLanguageTask):
        raise ConfigError(f"{task.config.task.name} has no encoders of images and texts that this command could draw.")
    texts, images = [], []
    for number, (path, text) in enumerate(pairs, start=1):
        with located(f"--pair {number}"):
            texts.append(usable_caption(text, task.config.data.max_words, "TEXT"))
            images.append(task.eval_transform(replace(task.images, root=".").open(path, "IMAGE")))
    image, (ids, mask) = torch.stack(images), task.tokenizer.encode(texts, task.fitting(None))
    albef = task.model.albef
    kept = albef.encode_image(image, Guide(Text(albef.text_encoder.encode(ids, mask), mask)), Watch(source=True)).kept
    shown = task.normalize.to_pixels(image)
    if heat_layer is not None:
        return _with_heat(shown, texts, kept[max(kept)] if kept else None, _heat(task, image, ids, mask, heat_layer))
    if not kept:
        name = (task.config.eval.reducer or task.config.reducer).name
        raise ConfigError(
            f"reducer {name!r} drops no patch here: choose another one, e.g. eval.reducer.name=elip, or --heat."
        )
    return kept_patches_sheet(shown, texts, kept)


def _heat(task: VisionLanguageTask, image: Tensor, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
    """Return Grad-CAM of each pair alone, [B, rows, columns]: maps are compared within a picture only."""
    model = task.model
    if not isinstance(model, AlignmentModel):
        raise ConfigError(f"--heat: {task.config.task.name} matches no texts with images; take a run that does.")
    text = model.albef.text_encoder
    first, last = text.fusion_layer, text.bert_config.num_hidden_layers - 1
    if not first <= layer <= last:
        raise ConfigError(f"--heat: fusion layers are {first} to {last}, got {layer}.")
    return matching_map(model, image, ids, mask, layer)


def _with_heat(image: Tensor, texts: Sequence[str], kept: Tensor | None, heat: Tensor) -> np.ndarray:
    heat = heat.clamp_min(0)
    heat = heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    examples = [
        Example(image[i][None], "", [text], None if kept is None else kept[i][None], heat[i][None])
        for i, text in enumerate(texts)
    ]
    return examples_sheet(examples)


if __name__ == "__main__":
    raise SystemExit(main())
