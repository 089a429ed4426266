"""How long a ViT takes under token reducers, as a ratio to the same ViT without one, timed in turn in one process."""

import argparse
import json
from collections.abc import Callable, Sequence

import torch

from elip.efficiency.costed import BASELINE, PlainVit
from elip.efficiency.report import Table, as_text, label
from elip.efficiency.resources import Timing, machine, time_in_turn
from elip.efficiency.vision_cost import Classifier
from elip.errors import ConfigError
from elip.registry import load_plugins
from tools.cli import user_errors, write

EPILOG = """examples:
  python tools/benchmark.py --vit deit_small_patch16_224 --reducer evit --reducer '{name: tome, r: 13}'
  python tools/benchmark.py --vit vit_base_patch16_224 --image-size 256 --reducer elip --train --batch 4
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vit", required=True, metavar="NAME", help="a plain ViT of timm with its classifier head")
    parser.add_argument("--image-size", type=int, metavar="PX", help="side of the image (default: timm's)")
    parser.add_argument(
        "--reducer", action="append", required=True, metavar="NAME|MAPPING", help="as for flops.py; may be repeated"
    )
    parser.add_argument("--plugins", action="append", default=[], metavar="FILE", help=".py file that has reducers")
    parser.add_argument("--train", action="store_true", help="time forward and backward, not the forward pass alone")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images in a batch (default: 8)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="how often each is timed (default: 9)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--amp", choices=["bf16", "fp16"], help="run under autocast (default: single precision)")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file, or with - to standard output")
    return parser.parse_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the figures, and return 0."""
    args = parse_args(argv)
    for name in ("batch", "rounds"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}: expected a number above 0, got {getattr(args, name)}.")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--device: there is no CUDA device here; take cpu.")
    load_plugins(args.plugins)
    records = measured(args)
    if args.json:
        write(args.json, json.dumps(records, indent=2) + "\n", "--json")
    if args.json != "-":
        print(as_text(_table(records, args)), end="")
    return 0


def measured(args: argparse.Namespace) -> list[dict[str, object]]:
    """Return name, time and cost of the baseline and of each reducer asked for."""
    vit, device = PlainVit(args.vit, args.image_size), torch.device(args.device)
    reducers = [vit.parse(reducer) for reducer in (BASELINE, *args.reducer)]
    costs = [vit.cost(reducer, images=None) for reducer in reducers]
    macs = [cost.forward_backward if args.train else cost.total for cost in costs]
    models = [Classifier(*vit.encoder_with(reducer)).to(device) for reducer in reducers]
    steps = [_step(model.train(args.train), args, device) for model in models]
    timings: list[Timing] = time_in_turn(steps, device, args.rounds)
    return [
        {
            "reducer": label(reducer),
            "milliseconds_per_image": 1e3 * timing.median_seconds / args.batch,
            "time_ratio": timing.ratio,
            "time_ratio_range": [min(timing.ratios), max(timing.ratios)],
            "macs_ratio": mine / macs[0],
            "machine": machine(device),
        }
        for reducer, timing, mine in zip(reducers, timings, macs, strict=True)
    ]


def _step(model: Classifier, args: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    """Return a function that runs the model once, on the same made-up images each time."""
    inputs = tuple(torch.cat([tensor] * args.batch).to(device) for tensor in model.example())
    amp = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.amp, torch.float32)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(args.train), torch.autocast(device.type, amp, enabled=args.amp is not None):
            if args.train:
                model.loss(*inputs).backward()
            else:
                model(*inputs)

    return step


def _table(records: Sequence[dict], args: argparse.Namespace) -> Table:
    what = "forward and backward" if args.train else "forward"
    title = f"Time of {what}, batch {args.batch}, median of {args.rounds} rounds; {records[0]['machine']}"
    rows = [
        [
            record["reducer"],
            f"{record['milliseconds_per_image']:.2f}",
            f"{record['time_ratio']:.2f}",
            "{:.2f} to {:.2f}".format(*record["time_ratio_range"]),
            f"{record['macs_ratio']:.2f}",
        ]
        for record in records
    ]
    return Table(title, ["reducer", "ms an image", "time ratio", "of all rounds", f"MACs ratio of {what}"], rows)


if __name__ == "__main__":
    raise SystemExit(main())
