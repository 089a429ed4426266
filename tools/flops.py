"""What token reducers cost, beside the model without one: GMACs by part, tokens per block, memory."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import timm
import torch
from timm.layers import PatchEmbed

from elip.config import config_from_dict, config_to_dict, load_config
from elip.config.schema import ReducerConfig, RunConfig, VisionConfig
from elip.efficiency.report import (
    LEGEND,
    Record,
    Row,
    Table,
    as_markdown,
    as_text,
    tables,
    to_csv,
    to_json,
    to_record,
)
from elip.efficiency.task import TaskCost, task_cost
from elip.efficiency.vision import VisionCost, vision_cost
from elip.errors import ConfigError, ElipError, did_you_mean
from elip.models.albef import build_reducer
from elip.models.vision import VisionEncoder
from elip.registry import REDUCERS, TASKS, load_plugins
from tools.cli import user_errors

EPILOG = """examples:
  python tools/flops.py --vit deit_small_patch16_224 --reducer none --json -
  python tools/flops.py --config configs/demo/pretrain.yaml --per-block
  python tools/flops.py --config configs/pretrain.yaml model.vision.image_size=384 --reducer elip --reducer random
  python tools/flops.py --vit vit_base_patch16_224 --image-size 256 --reducer '{name: elip, full_look_ahead: true}'
"""
BASELINE = "none"
OWN = ""
"""The reducer of the config, with its parameters."""
STDOUT = "-"
BERT_BASE = "bert-base-uncased"
"""Pretrained weights for the shape that BERT has by default."""

Measure = Callable[[str], Row]
"""Costs one reducer, given as on the command line."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="flops.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--vit", metavar="NAME", help="a plain ViT of timm with its classifier head, random weights")
    what.add_argument("--config", type=Path, metavar="FILE", help="the whole model of a run's config, random weights")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="with --config: dotted keys to change")
    parser.add_argument("--image-size", type=int, metavar="PX", help="with --vit: side of the image (default: timm's)")
    parser.add_argument(
        "--reducer",
        action="append",
        metavar="NAME|MAPPING",
        help="a reducer, or a YAML mapping with its parameters: '{name: elip, keep_ratio: [0.9, 0.7, 0.5]}'; may be "
        "repeated (default: none, and with --config the config's own)",
    )
    parser.add_argument("--plugins", action="append", default=[], metavar="FILE", help=".py file that has reducers")
    parser.add_argument("--per-block", action="store_true", help="show the tokens in each block, too")
    for name in ("json", "csv", "markdown"):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write {name} to a file, or with - to standard output")
    return parser.parse_intermixed_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write what was asked for, and return 0."""
    args = parse_args(argv)
    check_args(args)
    load_plugins(args.plugins)
    config = random_weights(load_config(args.config, args.overrides)) if args.config else None
    measure = vit_measure(args) if config is None else partial(measure_task, config, str(args.config))
    records = [measured(measure, reducer) for reducer in args.reducer or default_reducers(config)]
    if args.json:
        write(args.json, to_json(records), "--json")
    if args.csv:
        write(args.csv, to_csv(records), "--csv")
    to_stdout = STDOUT in (args.json, args.csv, args.markdown)
    if to_stdout and not args.markdown:
        return 0  # nobody sees a table, so that nobody needs the baseline
    shown, baseline = beside_baseline(records, measure)
    found = tables(shown, baseline, args.per_block)
    notes = [LEGEND, *text_notes(records, args.vit)]
    if args.markdown:
        write(args.markdown, document(found, notes, as_markdown), "--markdown")
    if not to_stdout:
        print(document(found, notes, as_text), end="")
    return 0


def check_args(args: argparse.Namespace) -> None:
    """Raise an error for options that do not go together."""
    if args.vit and args.overrides:
        raise ConfigError(f"{args.overrides[0]!r}: key=value changes a config, and --vit has none; use --config FILE.")
    if args.config and args.image_size:
        raise ConfigError("--image-size goes with --vit; with --config, give model.vision.image_size=PX.")
    if args.image_size is not None and args.image_size < 1:
        raise ConfigError(f"--image-size: expected a number of pixels, got {args.image_size}.")
    if [args.json, args.csv, args.markdown].count(STDOUT) > 1:
        raise ConfigError("only one of --json, --csv and --markdown can go to standard output.")


def random_weights(config: RunConfig) -> RunConfig:
    """Return the config without pretrained weights that might be downloaded: random ones cost the same."""
    vision, text = config.model.vision, config.model.text
    encoders = {
        "vision": vision.model_copy(update={"weights": None}),
        "text": text.model_copy(update={"weights": None}) if text.weights == BERT_BASE else text,
    }
    return config.model_copy(update={"model": config.model.model_copy(update=encoders)})


def default_reducers(config: RunConfig | None) -> list[str]:
    """Return what to cost when no reducer is asked for: the baseline, and a config's own unless it is the baseline."""
    return [BASELINE] if config is None or config.reducer.name == BASELINE else [BASELINE, OWN]


def vit_measure(args: argparse.Namespace) -> Measure:
    """Return a function that costs reducers in a plain ViT."""
    if not timm.is_model(args.vit):
        known = timm.list_models(["*vit*", "*deit*"])
        raise ConfigError(f"--vit: timm has no model {args.vit!r}.{did_you_mean(args.vit, known)}")
    default = timm.get_pretrained_cfg(args.vit)
    size = args.image_size or (default.input_size[-1] if default else 224)
    encoder = VisionEncoder.create(VisionConfig(name=args.vit, image_size=size), default.num_classes if default else 0)
    if 0 in encoder.grid:
        patch = cast(PatchEmbed, encoder.patch_embed).patch_size[0]
        raise ConfigError(f"--image-size: {size} px is less than one patch of {patch}.")

    def measure(reducer: str) -> Row:
        # checked as the section of any config is; which task it names makes no difference
        plain = {"task": {"name": "pretrain"}}
        config = config_from_dict(plain, "--vit", [f"reducer={reducer}"]).reducer
        return row(config, vision_cost(encoder, build_reducer(config, encoder, encoder.width)))

    return measure


def measure_task(config: RunConfig, source: str, reducer: str) -> Row:
    """Return the cost of a config's task with a reducer, or with `OWN`.

    A reducer of the same name as the config's takes the config's parameters where it is given none.
    """
    if reducer != OWN:
        chosen = [f"reducer={reducer}", "eval.reducer=null"]
        config = config_from_dict(config_to_dict(config), source, chosen)
    on_cuda = config.train.device != "cpu" and torch.cuda.is_available()
    task = TASKS.build(config.task.name, config).to("cuda" if on_cuda else "cpu")
    return row(config.reducer, task_cost(task))


def row(config: ReducerConfig, cost: VisionCost | TaskCost) -> Row:
    """Return a reducer with its cost."""
    return Row(config, REDUCERS.get(config.name).requires_text, cost)


def measured(measure: Measure, reducer: str) -> Record:
    """Return what is known of one reducer; whoever waits at a terminal is told what is being done."""
    if sys.stderr.isatty():
        print(f"counting {reducer or 'the reducer of the config'} ...", file=sys.stderr)
    return to_record(measure(reducer))


def beside_baseline(records: list[Record], measure: Measure) -> tuple[list[Record], Record]:
    """Return the records with the baseline among them, and the baseline."""
    for record in records:
        if record["reducer"] == BASELINE:
            return records, record
    baseline = measured(measure, BASELINE)
    return [baseline, *records], baseline


def text_notes(records: Sequence[Record], vit: str | None) -> list[str]:
    """Return what to say about reducers that need a text where a plain ViT has none."""
    names = dict.fromkeys(record["reducer"] for record in records if record["requires_text"])
    return [f"{name} needs a text: a made-up text [CLS] as wide as the ViT stands for it." for name in names if vit]


def document(found: Sequence[Table], notes: Sequence[str], style: Callable[[Table], str]) -> str:
    """Return the tables and the notes below them as one text."""
    return "\n".join([*(style(table) for table in found), *notes, ""])


def write(target: str, text: str, option: str) -> None:
    """Write to a file, or to standard output."""
    if target == STDOUT:
        print(text, end="")
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ElipError(f"{option}: cannot write {target}: {error.strerror}.") from error


if __name__ == "__main__":
    raise SystemExit(main())
