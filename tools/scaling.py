"""How time and memory of a training step grow with a config's sizes, and what batches fit on a card, as a page."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from elip.config import load_config
from elip.config.schema import RunConfig
from elip.errors import ConfigError, ElipError
from elip.lab.drawing import format_of
from elip.lab.scaling.axes import Axis, Growth, axes_of, changed, go_along
from elip.lab.scaling.fits import trainings
from elip.lab.scaling.memory import Held, without_memory
from elip.lab.scaling.page import Found, laws, page
from elip.lab.scaling.plot import draw
from elip.lab.scaling.times import Timed, time_along
from tools.cli import STDOUT, user_errors, write

EPILOG = """examples:
  python tools/scaling.py --config configs/pretrain.yaml --no-times
  python tools/scaling.py --config configs/pretrain.yaml --out docs/costs.md --plot docs/costs.png
  python tools/scaling.py --config configs/retrieval_coco.yaml --image 256 384 --batch 2 4 8 --no-times
"""
BATCH = 4
"""Images of the config's step where none are asked for: the same figures, and times that a CPU can wait for."""
TIMED_BATCHES = (1, 2, 3, 4)
_SIZES: dict[str, tuple[list[Any], Callable[[str], Any], str]] = {
    "batch": ([1, 2, 4, 8, 16], int, "train.batch_size"),
    "image": ([224, 256, 288, 320, 384], int, "model.vision.image_size, pixels"),
    "tokens": ([0.0, 0.25, 0.5, 0.75, 1.0, 1.25], float, "strengths of the reducer: 0 keeps all, 1 is the config's"),
    "text": ([15, 25, 40, 60, 100], int, "task.text_length"),
    "queue": ([1024, 16384, 65536, 262144], int, "task.queue_size"),
}
"""Of each size that is varied: values, their type, and what they are."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="scaling.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the config of a run")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help=f"keys to change (train.batch_size is {BATCH} by default)"
    )
    sizes = parser.add_argument_group("sizes to go through; those that the config's task does not have are left out")
    for name, (values, kind, what) in _SIZES.items():
        shown = " ".join(f"{value:g}" for value in values)
        sizes.add_argument(
            f"--{name}", nargs="+", type=kind, default=values, metavar="N", help=f"{what} (default: {shown})"
        )
    parser.add_argument(
        "--no-times", action="store_true", help="compute bytes and multiply-adds only: less than a minute"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each step is timed (default: 3)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: as torch has it)")
    parser.add_argument("--out", metavar="FILE", help="write the page to a file (default: standard output)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the growth: .png, .svg or .pdf")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file, or with - to standard output")
    return parser.parse_intermixed_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write page, picture and figures, and return 0."""
    args = parse_args(argv)
    check_args(args)
    config = load_config(args.config, [f"train.batch_size={BATCH}", *args.overrides])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(args.threads or before)
        found = measure(config, args)
    finally:
        torch.set_num_threads(before)
    if args.plot:
        write(str(args.plot), draw(found.growths, format_of(args.plot)), "--plot")
    if args.json:
        write(args.json, json.dumps(as_values(found), indent=1) + "\n", "--json")
    if args.out or args.json != STDOUT:
        words = sys.argv[1:] if argv is None else argv
        command = shlex.join(["python", "tools/scaling.py", *words])
        write(args.out or STDOUT, page(found, command, _picture(args)), "--out")
    return 0


def check_args(args: argparse.Namespace) -> None:
    """Raise an error for values that make no sense, before anything takes time."""
    for name in ("rounds", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name}: expected a number above 0, got {getattr(args, name)}.")
    if args.plot:
        format_of(args.plot)
    if args.json == STDOUT and args.out == STDOUT:
        raise ConfigError("only one of --json and --out can go to standard output.")


def measure(config: RunConfig, args: argparse.Namespace) -> Found:
    """Return what there is to tell of a config."""
    growths = []
    for axis in axes_of(config, {name: getattr(args, name) for name in _SIZES}):
        tell(f"computing along {axis.name}")
        growths.append(go_along(axis, config))
    if not any(laws(growth) for growth in growths):
        refused = next((reason for growth in growths for reason in growth.refused), "each size has one value only.")
        raise ConfigError(f"there is nothing to fit: {refused}")
    tell("computing what fits")
    sizes = sorted(args.image)
    fitting = list(trainings(config, [size for size in (sizes[0], sizes[-1]) if _takes(config, size)]))
    times: list[Timed] = [] if args.no_times else time_along(config, timed_of(growths), args.rounds, tell)
    return Found(config, growths, Held.of(without_memory(config)), fitting, times, args.rounds)


def timed_of(growths: Sequence[Growth]) -> list[Axis]:
    """Return the axes with what is timed of them: small batches, and of the others the first value the config takes."""
    batch, *others = growths
    smallest = min((point.value for point in batch.points), default=1)
    sizes: list[float] = [size for size in TIMED_BATCHES if size >= smallest] or [smallest]
    return [
        replace(batch.axis, values=sizes),
        *(replace(growth.axis, values=[growth.points[0].value]) for growth in others if growth.points),
    ]


def _takes(config: RunConfig, image_size: int) -> bool:
    with suppress(ElipError):
        without_memory(changed(config, f"model.vision.image_size={image_size}"))
        return True
    return False


def as_values(found: Found) -> dict[str, object]:
    """Return the figures in plain values, for JSON."""
    return {
        "axes": {
            growth.axis.name: {
                "points": [asdict(point) for point in growth.points],
                "laws": {name: asdict(law) for name, law in laws(growth).items()},
                "refused": growth.refused,
            }
            for growth in found.growths
        },
        "held": asdict(found.held),
        "trainings": [asdict(one) for one in found.trainings],
        "times": [asdict(one) for one in found.times],
    }


def tell(what: str) -> None:
    """Say what is being done, to whom waits."""
    print(f"{what} ...", file=sys.stderr)


def _picture(args: argparse.Namespace) -> str | None:
    """Return the path of the picture as seen from the page."""
    if not args.plot:
        return None
    page_folder = Path(args.out).parent if args.out and args.out != STDOUT else Path()
    return Path(os.path.relpath(args.plot, page_folder)).as_posix()


if __name__ == "__main__":
    raise SystemExit(main())
