"""Make DigitScenes, the demo data set: pictures, annotations for every task, and a tokenizer. Nothing is downloaded."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from elip.data.digitscenes import Settings, build, is_built
from elip.errors import ElipError
from tools.cli import user_errors


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python tools/make_demo_data.py --out data/digitscenes --train 400 --val 50 --test 50",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make the data set in")
    parser.add_argument(
        "--train", type=int, default=4000, metavar="N", help="pictures in the training split (%(default)s)"
    )
    parser.add_argument(
        "--val", type=int, default=200, metavar="N", help="pictures in the validation split (%(default)s)"
    )
    parser.add_argument("--test", type=int, default=200, metavar="N", help="pictures in the test split (%(default)s)")
    parser.add_argument(
        "--image-size", type=int, default=64, metavar="PX", help="side of the pictures, 32 to 4096 px (%(default)s)"
    )
    parser.add_argument(
        "--clutter",
        type=int,
        default=0,
        metavar="LEVEL",
        help="0: large digits on bare paper; 1 or 2: smaller ones among shapes that no text tells of (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed makes other scenes and texts (%(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace a DigitScenes set that is already in DIR")
    return parser.parse_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Make the data set, say so, and return 0."""
    args = parse_args(argv)
    sizes = {"num_train": args.train, "num_val": args.val, "num_test": args.test}
    look = {"image_size": args.image_size, "clutter": args.clutter, "seed": args.seed}
    settings = Settings(**sizes, **look)
    try:
        already_there = is_built(args.out, settings) and not args.force
        build(args.out, **sizes, **look, force=args.force)
    except OSError as error:
        raise ElipError(f"cannot use {error.filename or args.out}: {error.strerror or error}") from error
    print(f"{args.out}: already there" if already_there else f"{args.out}: {sum(sizes.values())} pictures made")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
