"""How true an encoder stays to itself under token reducers, in minutes and without training.

Pictures are encoded with all tokens and under each reducer at each budget. What is compared: the pooled feature and the
patch features put back on the grid (cosine), the nearest neighbours, classes by the vote of neighbours, and, with
pairs, recall; each with a 95% bootstrap interval over pictures, and its difference to patches drawn by lot (random) at
the same cost.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from math import isfinite
from pathlib import Path

import torch

from elip.data.images import ImageFolder
from elip.efficiency.costed import BASELINE
from elip.efficiency.report import LEGEND, Table, as_markdown, as_text
from elip.efficiency.resources import machine
from elip.errors import ConfigError
from elip.lab.drawing import format_of
from elip.lab.fidelity.measure import YARDSTICK, Asked, Fidelity, Settings, measure
from elip.lab.fidelity.picture_sets import PictureSet, pictures_of_folder, pictures_of_pairs
from elip.lab.fidelity.plot import draw
from elip.lab.fidelity.subjects import RunSubject, Subject, VitSubject, at_root
from elip.lab.fidelity.table import Record, tables, to_csv, to_records
from elip.registry import REDUCERS, load_plugins
from elip.trained import load_task
from tools.cli import STDOUT, user_errors, write

EPILOG = """examples:
  python tools/fidelity.py --vit vit_small_patch14_dinov2 --weights timm --image-size 224 --images pictures \\
      --target-share 0.7,0.5,0.35 --plot fidelity.png
  python tools/fidelity.py --vit deit_small_patch16_224 --weights deit.pth --images pictures --limit 500 \\
      --reducer evit --reducer '{name: tome, r: 13}'
  python tools/fidelity.py --run runs/pretrain --data test.json --reducer elip --reducer tome --target-gmacs 11,8
"""
ALL = "all"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="fidelity.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = {field.name: field.default for field in fields(Settings)}
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--vit", metavar="NAME", help="a plain ViT of timm")
    what.add_argument("--run", type=Path, metavar="FOLDER", help="the image encoder of a trained run")
    parser.add_argument("--weights", metavar="FILE", help="with --vit: a checkpoint, or `timm` for timm's own")
    parser.add_argument("--image-size", type=int, metavar="PX", help="side of the image (default: timm's, the run's)")
    seen = parser.add_mutually_exclusive_group(required=True)
    seen.add_argument("--images", type=Path, metavar="FOLDER", help="of pictures; a folder a class, where there are")
    seen.add_argument("--data", type=Path, metavar="FILE", help="JSON items with `image` and `caption`")
    parser.add_argument(
        "--image-root", type=Path, metavar="DIR", help="where paths in --data start (default: its folder, or the run's)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the most pictures, evenly spread over all")
    parser.add_argument(
        "--reducer",
        action="append",
        metavar="NAME|MAPPING",
        help="a reducer, or a YAML mapping with its parameters, or all (the default); may be repeated; with a mapping "
        "of random its parameters are those of the yardstick",
    )
    parser.add_argument("--plugins", action="append", default=[], metavar="FILE", help=".py file that has reducers")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--target-gmacs", metavar="G,...", help="budgets, GMACs an image: find each reducer's weakest parameters there"
    )
    budget.add_argument("--target-share", metavar="S,...", help="the same as shares of the cost with all tokens")
    parser.add_argument(
        "--k", type=int, default=default["neighbours"], metavar="N", help="nearest neighbours compared (default: 10)"
    )
    parser.add_argument(
        "--votes", type=int, default=default["votes"], metavar="N", help="neighbours that vote for a class (default: 5)"
    )
    parser.add_argument("--batch", type=int, default=default["batch"], metavar="N", help="pictures at once (32)")
    parser.add_argument(
        "--draws", type=int, default=default["draws"], metavar="N", help="of the yardstick, random (default: 5)"
    )
    parser.add_argument(
        "--rounds", type=int, default=default["rounds"], metavar="N", help="of timing, 0 for none (default: 5)"
    )
    parser.add_argument("--samples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)")
    parser.add_argument("--seed", type=int, default=default["seed"], help="of draws and bootstrap (default: 0)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    for name in ("json", "csv", "markdown"):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write {name} to a file, or with - to standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw metrics against GMACs (.png, .svg, .pdf)")
    return parser.parse_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write what was asked for, and return 0."""
    args = parse_args(argv)
    check_args(args)
    budgets = budgets_of(args)
    kind = format_of(args.plot) if args.plot else None
    load_plugins(args.plugins)
    subject = subject_of(args)
    pictures = pictures_of(args, subject).spread(args.limit)
    settings = Settings(args.k, args.votes, args.batch, args.draws, args.rounds, args.seed)
    found = measure(subject, pictures, asked_for(args, subject), budgets, settings, shares=bool(args.target_share))
    records = to_records(found, samples=args.samples, seed=args.seed)
    about, notes = about_of(args, subject, pictures), notes_of(args, subject, pictures, found, records)
    if args.json:
        write(args.json, json.dumps({"about": about, "notes": notes, "rows": records}, indent=2) + "\n", "--json")
    if args.csv:
        write(args.csv, to_csv(records), "--csv")
    if kind:
        write(str(args.plot), draw(records, about, kind), "--plot")
    if args.markdown:
        write(args.markdown, document(about, tables(records), notes, as_markdown), "--markdown")
    if STDOUT not in (args.json, args.csv, args.markdown):
        print(document(about, tables(records), notes, as_text), end="")
    return 0


def check_args(args: argparse.Namespace) -> None:
    """Raise an error for options that do not go together."""
    if args.vit and not args.weights:
        raise ConfigError("--weights: name a checkpoint, or timm; features of random weights say nothing.")
    if args.run and args.weights:
        raise ConfigError("--weights goes with --vit; a run has its own.")
    if args.images and args.image_root:
        raise ConfigError("--image-root goes with --data; --images is itself the folder.")
    for name in ("image_size", "limit", "k", "votes", "batch", "draws", "samples"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected a number above 0, got {getattr(args, name)}.")
    for name, most in (("rounds", 2**31), ("seed", 2**31)):
        if not 0 <= getattr(args, name) < most:
            raise ConfigError(f"--{name}: expected a whole number from 0 to 2^31 - 1, got {getattr(args, name)}.")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--device: there is no CUDA device here; take cpu.")
    if [args.json, args.csv, args.markdown].count(STDOUT) > 1:
        raise ConfigError("only one of --json, --csv and --markdown can go to standard output.")


def budgets_of(args: argparse.Namespace) -> list[float]:
    """Return the budgets, as GMACs or as shares, without those that are there twice."""
    option, given = (
        ("--target-share", args.target_share) if args.target_share else ("--target-gmacs", args.target_gmacs)
    )
    if given is None:
        return []
    most = 1.0 if args.target_share else float("inf")
    try:
        budgets = [float(part) for part in given.split(",")]
    except ValueError:
        budgets = [-1.0]
    if not all(isfinite(budget) and 0 < budget < most for budget in budgets):
        wanted = "shares between 0 and 1" if args.target_share else "numbers above 0"
        raise ConfigError(f"{option}: expected {wanted} with commas between, got {given!r}.")
    return list(dict.fromkeys(budgets))


def subject_of(args: argparse.Namespace) -> Subject:
    """Return the encoder to measure in."""
    if args.vit:
        return VitSubject(args.vit, args.image_size, args.weights, torch.device(args.device))
    sized = [f"model.vision.image_size={args.image_size}"] if args.image_size else []
    return RunSubject(load_task(args.run, *sized, device=args.device, plugins=args.plugins))


def pictures_of(args: argparse.Namespace, subject: Subject) -> PictureSet:
    """Return the pictures to measure on."""
    if args.images:
        return pictures_of_folder(args.images, subject.images)
    images = ImageFolder(args.data.parent) if args.vit else subject.images
    return pictures_of_pairs(args.data, at_root(images, args.image_root))


def asked_for(args: argparse.Namespace, subject: Subject) -> list[Asked]:
    """Return the reducers to measure."""
    asked = []
    for given in args.reducer or [ALL]:
        if given != ALL:
            asked.append(Asked(subject.parse(given)))
            continue
        names = [name for name in REDUCERS.names() if name not in (BASELINE, YARDSTICK)]
        asked += [Asked(subject.parse(name), named=False) for name in names]
    return asked


def about_of(args: argparse.Namespace, subject: Subject, pictures: PictureSet) -> str:
    """Return one line on what was measured."""
    size = f", {args.image_size} px" if args.image_size else ""
    classes = "" if pictures.classes is None else f" of {len(set(pictures.classes))} classes"
    return f"{subject.name}{size}; {len(pictures.paths):,} pictures{classes} of {(args.images or args.data).name}"


def notes_of(
    args: argparse.Namespace, subject: Subject, pictures: PictureSet, found: Fidelity, records: Sequence[Record]
) -> list[str]:
    """Return what to say below the tables."""
    notes = [
        LEGEND,
        f"In brackets: 95% bootstrap intervals over pictures ({args.samples} samples), of random over {args.draws} "
        "draws, too. A difference whose interval holds 0 is a tie. Ranked by the pooled cosine.",
        "Patch cosine: a patch that was dropped counts 0; - where tokens are mixed softly and no patch has a place.",
        f"Neighbours: share of the {args.k} nearest by cosine that the dense features have, too.",
    ]
    if pictures.classes is not None:
        notes.append(f"Accuracy: vote of the {args.votes} nearest others; their features reduced, too (own) or dense.")
    if args.data and args.vit:
        notes.append("A ViT alone reads no texts: there is no recall. For that, take a trained run (--run).")
    elif args.data and subject.joint_space is None:
        notes.append("This run's task has no joint space of images and texts: there is no recall.")
    elif args.data and pictures.captions is None:
        notes.append("The items have no captions: there is no recall.")
    elif args.data:
        notes.append("Recall: of all texts and pictures here, by similarity; - where its own text chose its patches.")
    if args.rounds:
        where = machine(torch.device(args.device))
        notes.append(f"Time: of a forward pass, a ratio to dense, median of {args.rounds} rounds in turn; {where}.")
    planned = [record for record in records[1:] if args.target_gmacs or args.target_share]
    return notes + found.notes + [_found(record) for record in planned]


def _found(record: Record) -> str:
    options = json.dumps({"name": record["reducer"], **record["options"]})
    return f"{record['label']} at {record['gmacs']:.3f} GMACs: --reducer '{options}'"


def document(about: str, found: Sequence[Table], notes: Sequence[str], style: Callable[[Table], str]) -> str:
    """Return the tables and the notes below them as one text."""
    if style is as_markdown:
        return "\n".join([about, "", *(style(table) for table in found), *(f"- {note}" for note in notes), ""])
    return "\n".join([about, "", *(style(table) for table in found), *notes, ""])


if __name__ == "__main__":
    raise SystemExit(main())
