"""How long a training step, re-ranking, loading or a ViT takes, beside others: in turn, with ratios to the first."""

import argparse
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from elip.benchmark.compared import (
    Compared,
    Record,
    compare_loading,
    compare_reranking,
    compare_steps,
    loading_table,
    one_device,
    reranking_table,
    step_table,
)
from elip.benchmark.plain_vit import Pass, compare_reducers, reducer_table
from elip.config import config_from_dict, config_to_dict, load_config
from elip.config.schema import RunConfig
from elip.efficiency.costed import PlainVit
from elip.efficiency.report import Table, as_text, label
from elip.errors import ConfigError
from elip.registry import load_plugins
from tools.cli import user_errors, write

EPILOG = """examples:
  python tools/benchmark.py --config configs/demo/pretrain.yaml --with reducer.name=none --memory
  python tools/benchmark.py --config configs/pretrain.yaml --batch 4 --amp bf16 --reducer none --reducer tome
  python tools/benchmark.py --config configs/pretrain.yaml --batch 4 --with train.recompute=light --memory --threads 1
  python tools/benchmark.py --config configs/pretrain.yaml --batch 8 --with train.compile=true --against mine.yaml
  python tools/benchmark.py --config configs/demo/pretrain.yaml --loader --with data.fast_decode=true
  python tools/benchmark.py --config configs/retrieval_coco.yaml --evaluate --batch 64 --amp bf16
  python tools/benchmark.py --vit deit_small_patch16_224 --reducer evit --reducer '{name: tome, r: 13}'
  python tools/benchmark.py --vit vit_base_patch16_224 --image-size 256 --reducer elip --train --batch 4
"""
VIT, STEP, LOADER, EVALUATE = "--vit", "--config", "--config with --loader", "--config with --evaluate"
BATCH = {VIT: 8, LOADER: 32}
"""Images of a round where none are asked for; a config has its own."""
GO_WITH = {
    "image_size": (VIT,),
    "train": (VIT,),
    "with": (STEP, LOADER, EVALUATE),
    "against": (STEP, LOADER, EVALUATE),
    "reducer": (VIT, STEP, EVALUATE),
    "memory": (STEP, EVALUATE),
    "compile": (STEP,),
    "amp": (VIT, STEP, EVALUATE),
    "device": (VIT, STEP, EVALUATE),
    "threads": (VIT, STEP, EVALUATE),
}
"""What each option makes sense with."""


class Other(NamedTuple):
    """A column beside the first: what kind it is, and what it was given."""

    kind: str
    text: str


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="time a training step of a run's config")
    what.add_argument("--vit", metavar="NAME", help="time a plain ViT of timm with its classifier head")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="with --config: keys to change in all columns"
    )
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="with --config: time the re-ranking of retrieval instead, pairs of made-up images and texts",
    )
    parser.add_argument(
        "--loader",
        action="store_true",
        help="with --config: time the loading of its training images instead, by one process; waiting for disks is "
        "not counted",
    )
    beside = parser.add_argument_group("what to compare with; each is one more column, and may be repeated")
    add = partial(beside.add_argument, action="append", dest="others", default=[])
    add("--with", type=partial(Other, "with"), metavar="'KEY=VALUE ...'", help="the config with further keys changed")
    add("--against", type=partial(Other, "against"), metavar="FILE", help="another config")
    add(
        "--reducer",
        type=partial(Other, "reducer"),
        metavar="NAME|MAPPING",
        help="the same under another reducer, given as for flops.py",
    )
    parser.add_argument("--plugins", action="append", default=[], metavar="FILE", help=".py file that has reducers")
    parser.add_argument("--memory", action="store_true", help="tell what a step keeps for its backward pass, too")
    parser.add_argument("--image-size", type=int, metavar="PX", help="with --vit: side of the image (default: timm's)")
    parser.add_argument("--train", action="store_true", help="with --vit: time forward and backward, not forward alone")
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images in a batch (default: the config's; 8 for a ViT, 32 to load); texts that an image meets"
        " (default: task.k_test)",
    )
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="how often each is timed (default: 9)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one; with --config, the config's)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: as torch has it)")
    parser.add_argument(
        "--amp", choices=["bf16", "fp16"], help="arithmetic (default: fp32; with --config, the config's)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the model; how long that takes is told apart")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file, or with - to standard output")
    return parser.parse_intermixed_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the figures, and return 0."""
    args = parse_args(argv)
    mode = VIT if args.vit else LOADER if args.loader else EVALUATE if args.evaluate else STEP
    check_args(args, mode)
    load_plugins(args.plugins)
    with _threads(1 if mode is LOADER else args.threads):
        records, table = {VIT: of_vit, STEP: of_steps, LOADER: of_loading, EVALUATE: of_reranking}[mode](args)
    if args.json:
        write(args.json, json.dumps(records, indent=2) + "\n", "--json")
    if args.json != "-":
        print(as_text(table), end="")
    return 0


def check_args(args: argparse.Namespace, mode: str) -> None:
    """Raise an error for options that do not go together, or have no sensible value."""
    for name in ("batch", "rounds", "image_size", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"{_option(name)}: expected a number above 0, got {value}.")
    if args.vit and (args.loader or args.evaluate):
        raise ConfigError(f"--{'loader' if args.loader else 'evaluate'} goes with --config.")
    if args.loader and args.evaluate:
        raise ConfigError("--loader and --evaluate are two things to time: give one of them.")
    if args.vit and args.overrides:
        raise ConfigError(f"{args.overrides[0]!r}: key=value changes a config, and --vit has none; use --config FILE.")
    if args.vit and not any(other.kind == "reducer" for other in args.others):
        raise ConfigError("--vit: name the reducers to time, e.g. --reducer evit.")
    given = {name for name, value in vars(args).items() if value} | {other.kind for other in args.others}
    for name, modes in GO_WITH.items():
        if name in given and mode not in modes:
            raise ConfigError(f"{_option(name)} does not go with {mode}, but with {' or '.join(modes)}.")
    if args.device and args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--device: there is no CUDA device here; take cpu.")


def of_vit(args: argparse.Namespace) -> tuple[list[Record], Table]:
    """Return the figures of a plain ViT under reducers."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    what = Pass(args.train, args.batch or BATCH[VIT], args.amp or "fp32", device)
    records = compare_reducers(
        PlainVit(args.vit, args.image_size), [reducer.text for reducer in args.others], what, args.rounds
    )
    return records, reducer_table(records, what, args.rounds)


def of_steps(args: argparse.Namespace) -> tuple[list[Record], Table]:
    """Return the figures of training steps."""
    records = compare_steps(runs_of(args), args.rounds, args.memory)
    return records, step_table(records, args.rounds)


def of_reranking(args: argparse.Namespace) -> tuple[list[Record], Table]:
    """Return the figures of re-ranking."""
    runs = runs_of(args)
    if args.memory and one_device(runs).type != "cuda":
        raise ConfigError("--memory: re-ranking saves nothing for a backward pass, and its peak is told on CUDA only.")
    records = compare_reranking(runs, args.batch, args.rounds, args.memory)
    return records, reranking_table(records, args.rounds)


def of_loading(args: argparse.Namespace) -> tuple[list[Record], Table]:
    """Return the figures of loading."""
    images = args.batch or BATCH[LOADER]
    records = compare_loading(runs_of(args), images, args.rounds)
    return records, loading_table(records, images, args.rounds)


def runs_of(args: argparse.Namespace) -> list[Compared]:
    """Return the config and what it is compared with, each with the overrides of the command line."""
    overrides = [*args.overrides, *_meant_by_options(args)]
    config = load_config(args.config, overrides)
    return [
        Compared(str(args.config), config),
        *(_beside(other, config, args.config, overrides) for other in args.others),
    ]


def _meant_by_options(args: argparse.Namespace) -> list[str]:
    """Return the overrides that options stand for."""
    options = {
        "train.batch_size": None if args.loader or args.evaluate else args.batch,
        "train.device": args.device,
        "train.precision": args.amp,
        "train.compile": "true" if args.compile else None,
    }
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def _beside(other: Other, config: RunConfig, file: Path, overrides: Sequence[str]) -> Compared:
    if other.kind == "against":
        return Compared(other.text, load_config(Path(other.text), overrides))
    # from the config as it is: what is not changed stays, such as the parameters of the reducer under its own name
    values = config_to_dict(config)
    if other.kind == "reducer":
        changed = config_from_dict(values, str(file), [f"reducer={other.text}"])
        return Compared(label(changed.reducer), changed)
    try:
        further = shlex.split(other.text)
    except ValueError as error:
        raise ConfigError(f"--with {other.text}: {error}.") from error
    if not further or not all("=" in word for word in further):
        raise ConfigError(f"--with {other.text!r}: expected KEY=VALUE, or several with spaces between.")
    return Compared(other.text, config_from_dict(values, str(file), further))


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if __name__ == "__main__":
    raise SystemExit(main())
