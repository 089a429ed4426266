"""What token reducers cost, beside the model without one: GMACs by part, tokens per block, memory."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from elip.config import load_config
from elip.config.schema import ReducerConfig
from elip.data.images import ImageFolder
from elip.efficiency.costed import (
    BASELINE,
    CostedModel,
    Pictures,
    PlainVit,
    TaskModel,
    find_pictures,
    within_budget,
)
from elip.efficiency.report import (
    LEGEND,
    Record,
    Row,
    Table,
    as_markdown,
    as_text,
    label,
    tables,
    to_csv,
    to_json,
    to_record,
)
from elip.efficiency.vision_cost import NOISE_IMAGES, measure_properties
from elip.errors import ConfigError, ElipError
from elip.registry import REDUCERS, load_plugins
from elip.task.preflight import without_weights
from tools.cli import STDOUT, user_errors, write

EPILOG = """examples:
  python tools/flops.py --vit deit_small_patch16_224 --reducer none --json -
  python tools/flops.py --vit deit_small_patch16_224 --reducer evit --reducer '{name: tome, r: 13}' --per-block
  python tools/flops.py --vit deit_small_patch16_224 --reducer tome --reducer topk --target-gmacs 3.0
  python tools/flops.py --vit vit_base_patch16_224 --image-size 256 --reducer all --target-gmacs 11.6 --properties
  python tools/flops.py --vit deit_small_patch16_224 --weights timm --reducer ats --data path/to/pictures
  python tools/flops.py --config configs/demo/pretrain.yaml --per-block
  python tools/flops.py --config configs/pretrain.yaml model.vision.image_size=384 --reducer elip --reducer random
"""
ALL = "all"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="flops.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--vit", metavar="NAME", help="a plain ViT of timm with its classifier head")
    what.add_argument("--config", type=Path, metavar="FILE", help="the whole model of a run's config")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="with --config: dotted keys to change")
    parser.add_argument("--image-size", type=int, metavar="PX", help="with --vit: side of the image (default: timm's)")
    parser.add_argument(
        "--reducer",
        action="append",
        metavar="NAME|MAPPING",
        help="a reducer, or a YAML mapping with its parameters: '{name: elip, keep_ratio: [0.9, 0.7, 0.5]}'; or all; "
        "may be repeated (default: none, and with --config the config's own)",
    )
    parser.add_argument("--plugins", action="append", default=[], metavar="FILE", help=".py file that has reducers")
    parser.add_argument(
        "--target-gmacs",
        type=float,
        metavar="G",
        help="find the weakest reduction by each --reducer with which the image encoder costs at most G GMACs an image",
    )
    parser.add_argument("--per-block", action="store_true", help="show the tokens in each block, too")
    parser.add_argument(
        "--cross-check", action="store_true", help="with --vit: say what fvcore counts without reduction, too"
    )
    parser.add_argument(
        "--properties",
        action="store_true",
        help="with --vit: measure what else tells reducers apart: parameters, memory, dropping in training, source map",
    )
    for name in ("json", "csv", "markdown"):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write {name} to a file, or with - to standard output")
    data = parser.add_argument_group("reducers that keep different numbers of tokens in different images")
    data.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="take the mean over these pictures: a folder, or a JSON file of items with a field `image` "
        "(default: random noise); weights of the config are loaded then, which matter",
    )
    data.add_argument(
        "--image-root",
        type=Path,
        metavar="DIR",
        help="where paths in the JSON file start (default: its folder; with --config data.image_root)",
    )
    data.add_argument("--images", type=int, default=64, metavar="N", help="the most pictures to take (default: 64)")
    data.add_argument("--weights", metavar="FILE", help="with --vit: a checkpoint, or `timm` (default: random weights)")
    return parser.parse_intermixed_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write what was asked for, and return 0."""
    args = parse_args(argv)
    check_args(args)
    load_plugins(args.plugins)
    report = Report(model_of(args), args)
    records = report.records()
    if args.json:
        write(args.json, to_json(records), "--json")
    if args.csv:
        write(args.csv, to_csv(records), "--csv")
    to_stdout = STDOUT in (args.json, args.csv, args.markdown)
    if to_stdout and not args.markdown:
        return 0  # nobody sees a table, so that nobody needs the baseline
    shown, baseline = report.beside_baseline(records)
    found = tables(shown, baseline, args.per_block)
    notes = [LEGEND, *report.notes(shown, baseline), *report.cross_check(baseline)]
    if args.markdown:
        write(args.markdown, document(found, notes, as_markdown), "--markdown")
    if not to_stdout:
        print(document(found, notes, as_text), end="")
    return 0


def check_args(args: argparse.Namespace) -> None:
    """Raise an error for options that do not go together."""
    if args.vit and args.overrides:
        raise ConfigError(f"{args.overrides[0]!r}: key=value changes a config, and --vit has none; use --config FILE.")
    for name, instead in (("image_size", "model.vision.image_size=PX"), ("weights", "model.vision.weights=FILE")):
        if args.config and getattr(args, name):
            raise ConfigError(f"--{name.replace('_', '-')} goes with --vit; with --config, give {instead}.")
    if args.config and args.cross_check:
        raise ConfigError("--cross-check goes with --vit: fvcore traces a plain ViT.")
    if args.config and args.properties:
        raise ConfigError("--properties goes with --vit; a config's tables tell parameters and memory anyway.")
    for name, unit in (("image_size", "of pixels"), ("images", "of pictures")):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected a number {unit}, got {getattr(args, name)}.")
    if args.target_gmacs is not None and args.target_gmacs <= 0:
        raise ConfigError(f"--target-gmacs: expected a number above 0, got {args.target_gmacs:g}.")
    if args.target_gmacs is not None and args.vit and not args.reducer:
        raise ConfigError("--target-gmacs: name the reducers to find parameters of, e.g. --reducer tome.")
    if [args.json, args.csv, args.markdown].count(STDOUT) > 1:
        raise ConfigError("only one of --json, --csv and --markdown can go to standard output.")


def model_of(args: argparse.Namespace) -> CostedModel:
    """Return the model to cost reducers in."""
    if args.vit:
        args.folder = ImageFolder(args.image_root) if args.image_root else None
        return PlainVit(args.vit, args.image_size, args.weights)
    config = load_config(args.config, args.overrides)
    args.folder = ImageFolder.configured(config.data)
    if args.image_root:
        args.folder = replace(args.folder, root=args.image_root)
    return TaskModel(config if args.data else without_weights(config), str(args.config))


class Report:
    """Costs of the reducers asked for, in one model.

    Args:
        model: that reducers are costed in.
        args: of the command line.
    """

    def __init__(self, model: CostedModel, args: argparse.Namespace) -> None:
        self._model, self._args = model, args
        self._left_out: list[str] = []

    def records(self) -> list[Record]:
        """Return what is known of each reducer."""
        records = []
        for asked in self._args.reducer or [None]:
            if asked == ALL:
                names = [name for name in REDUCERS.names() if name != BASELINE]
                records += [record for name in (BASELINE, *names) for record in self._if_it_fits(name)]
            else:
                reducers = self._model.own if asked is None else [self._model.parse(asked)]
                records += [self._measured(reducer) for reducer in reducers]
        return records

    def beside_baseline(self, records: list[Record]) -> tuple[list[Record], Record]:
        """Return the records with the baseline among them, and the baseline."""
        for record in records:
            if record["reducer"] == BASELINE:
                return records, record
        baseline = self._measured(self._model.parse(BASELINE))
        return [baseline, *records], baseline

    def notes(self, records: Sequence[Record], baseline: Record) -> list[str]:
        """Return what to say below the tables."""
        ending = [record for record in records if "until" in record["options"] and record["reducer"] != BASELINE]
        needing = {r["reducer"]: r for r in records if r["requires_text"] and (self._args.vit or r not in ending)}
        notes = [f"{name} {self._of_text(record, baseline)}" for name, record in needing.items()]
        notes += [
            f"{name} {self._of_teacher()}" for name in {r["reducer"]: r for r in records if r["requires_teacher"]}
        ]
        notes += [f"{record['label']}: {self._of_end(record['options']['until'])}" for record in ending]
        if any(record["vision_spread"] for record in records):
            notes.append(f"±: standard deviation between images; mean of {self._source_of_images()}.")
        if self._args.target_gmacs:
            notes += [_found(record) for record in records if record["reducer"] != BASELINE]
        return notes + self._left_out

    def cross_check(self, baseline: Record) -> list[str]:
        """Return what fvcore counts beside our own count, where that was asked for."""
        if not (self._args.cross_check and isinstance(self._model, PlainVit)):
            return []
        theirs = self._model.fvcore_macs() / 1e9
        return [f"Without reduction fvcore counts {theirs:.4f} GMACs, this command {baseline['vision_gmacs']:.4f}."]

    def _of_text(self, record: Record, baseline: Record) -> str:
        """Return what a reducer that needs a text does without one."""
        if self._args.vit:
            return "needs a text: a made-up text [CLS] as wide as the ViT stands for it."
        if record["tokens"] == baseline["tokens"]:
            return "needs a text, and this task encodes images alone: it keeps all tokens."
        return "needs a text, which is there in this inference; where images are encoded alone, it keeps all tokens."

    def _of_teacher(self) -> str:
        """Return what a reducer that needs a momentum encoder does without one."""
        if self._args.vit:
            return "needs what a momentum encoder saw: made-up attention stands for it."
        return "needs what the momentum encoder saw, which there is in training only: an inference keeps all tokens."

    def _of_end(self, until: float) -> str:
        """Return what a reducer that is over before training is counts as."""
        if self._args.vit:
            return f"acts in the first {until:g} of a training, and is costed as it is then."
        return f"all tokens are kept from {until:g} of the training on, and in an inference; a step is one before that."

    def _if_it_fits(self, name: str) -> list[Record]:
        """Return the record of a reducer that nobody named; none, and a note, if it does not fit this model."""
        try:
            return [self._measured(self._model.parse(name))]
        except ElipError as error:
            self._left_out.append(f"{name} is left out: {error}")
            return []

    def _measured(self, reducer: ReducerConfig) -> Record:
        """Return what is known of one reducer; whoever waits at a terminal is told what is being done."""
        if sys.stderr.isatty():
            print(f"counting {label(reducer)} ...", file=sys.stderr)
        model, name = self._model, label(reducer)
        images, target = self._images, self._args.target_gmacs
        if target is not None and reducer.name != BASELINE:
            reducer = within_budget(model, reducer, target, images)
        properties = model.measure(reducer, measure_properties) if self._args.properties else None
        return to_record(Row(reducer, model.cost(reducer, images), properties, name))

    @cached_property
    def _images(self) -> Pictures | None:
        args = self._args
        if not args.data:
            return None
        return find_pictures(args.data, args.folder, args.images, self._model.transform)

    def _source_of_images(self) -> str:
        args = self._args
        if args.data:
            return f"up to {args.images} pictures of {args.data}"
        return (
            f"{NOISE_IMAGES} images of noise under random weights, which says little: give --data and trained weights"
        )


def _found(record: Record) -> str:
    options = json.dumps({"name": record["reducer"], **record["options"]})
    return f"{record['label']}: {record['vision_gmacs']:.2f} GMACs with --reducer '{options}'"


def document(found: Sequence[Table], notes: Sequence[str], style: Callable[[Table], str]) -> str:
    """Return the tables and the notes below them as one text."""
    return "\n".join([*(style(table) for table in found), *notes, ""])


if __name__ == "__main__":
    raise SystemExit(main())
