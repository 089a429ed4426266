"""Convert weights between the names of the published ALBEF and ELIP checkpoints and ours, without loss."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from elip.errors import CheckpointError
from elip.registry import TASKS
from elip.weights.files import Form, Weights, read_weights, write_weights
from elip.weights.names import short, to_albef
from tools.cli import user_errors

EPILOG = """A name that ends in .safetensors is read or written as safetensors, any other as a pickled dict with the
weights under `model`. Of a run's checkpoint the weights and the config are converted, not what only --resume needs.

examples:
  python tools/convert_checkpoint.py ALBEF.pth albef.safetensors --to elip
  python tools/convert_checkpoint.py runs/ve ve.pth --to albef
  python tools/convert_checkpoint.py ALBEF.pth nlvr.pth --to albef --task nlvr
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="convert_checkpoint.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", type=Path, metavar="IN", help="file of weights, or folder of a run")
    parser.add_argument("output", type=Path, metavar="OUT", help="file to write")
    parser.add_argument("--to", required=True, choices=get_args(Form), help="whose names to write")
    parser.add_argument(
        "--task",
        metavar="T",
        help="also adapt the weights to this task, as --init does (nlvr: fusion layers doubled)",
    )
    return parser.parse_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Convert, and return 0."""
    args = parse_args(argv)
    weights = read_weights(args.input)
    check_derived(weights)
    state = weights.state
    if args.task is not None:
        state = TASKS.get(args.task).adapt_checkpoint(state)
    count = write_weights(args.output, state, args.to, weights.run)
    print(f"{weights.describe()}: {len(weights.state) + len(weights.derived)} tensors")
    print(f"{args.output} (--to {args.to}): {count} tensors")
    if weights.left_out:
        print(f"left out, as they are no weights: {', '.join(weights.left_out)}")
    return 0


def check_derived(weights: Weights) -> None:
    """Raise an error if a tensor that should only repeat others says something of its own, and would be lost."""
    again = to_albef({short(name): tensor for name, tensor in weights.state.items()})
    for name, tensor in weights.derived.items():
        spelled = name if name in again else name.replace(".bert.", ".", 1)
        if spelled not in again or not torch.equal(again[spelled], tensor):
            raise CheckpointError(
                f"{weights.path}: {name} should repeat other weights of the file (a range of positions, or the output "
                "layer tied to the word embeddings), but does not: converted, it would be lost."
            )


if __name__ == "__main__":
    raise SystemExit(main())
