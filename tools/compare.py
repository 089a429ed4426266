"""Runs side by side: each figure with its weights, its cost and chance; or several folders of runs as columns."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from elip.efficiency.report import Table, as_markdown, as_text
from elip.engine.results import IN_TRAINING
from elip.errors import ConfigError, ElipError
from elip.lab.report.outcomes import NOT_RECORDED, Outcome, RunFolder, common_split, names_of
from tools.cli import STDOUT, user_errors, write
from tools.scatter import draw

EPILOG = """examples:
  python tools/compare.py runs/elip runs/tome runs/none --csv runs.csv --plot runs.png
  python tools/compare.py --column 'no pre-training=runs/scratch' --column ours=runs/tuned

With --column, the runs of one name in the folders given make one row: runs/scratch/vqa and runs/tuned/vqa.
"""

Columns = Mapping[str, Mapping[str, Outcome]]
"""Outcomes by column, then by name of the run."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="output folders of runs")
    parser.add_argument(
        "--column", action="append", default=[], metavar="NAME=FOLDER", help="a folder of runs; may be repeated"
    )
    parser.add_argument(
        "--split", help="split to compare (default: one that all were evaluated on, test before others)"
    )
    parser.add_argument("--metric", help="metric to compare (default: each task's headline)")
    for name in ("json", "csv", "markdown"):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write {name} to a file, or with - to standard output")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw metric against cost; .png, .svg or .pdf by the file's ending"
    )
    return parser.parse_intermixed_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write what was asked for, and return 0."""
    args = parse_args(argv)
    if bool(args.runs) == bool(args.column):
        raise ConfigError("name runs to compare, or folders of runs with --column NAME=FOLDER, and not both.")
    if [args.json, args.csv, args.markdown].count(STDOUT) > 1:
        raise ConfigError("only one of --json, --csv and --markdown can go to standard output.")
    left_out: list[str] = []
    if args.column:
        columns = read_columns(args, left_out)
        records: Any = {name: [asdict(one) for one in runs.values()] for name, runs in columns.items()}
        rows = [{"column": name, **record} for name, found in records.items() for record in found]
        outcomes = {f"{name}/{one.run}": one for name, runs in columns.items() for one in runs.values()}
        tables = [by_column(columns), by_run(outcomes)]
    else:
        runs = [RunFolder(folder) for folder in args.runs]
        split = args.split or common_split(runs)
        found = [run.outcome(split, args.metric, name) for run, name in zip(runs, names_of(args.runs), strict=True)]
        outcomes = {one.run: one for one in found}
        tables, records = [by_run(outcomes)], [asdict(one) for one in found]
        rows = records
    if args.json:
        write(args.json, json.dumps(records, indent=2) + "\n", "--json")
    if args.csv:
        write(args.csv, _to_csv(rows), "--csv")
    said = "".join(f"{note}\n" for note in [*notes(outcomes), *left_out])
    if args.markdown:
        write(args.markdown, "\n".join([*map(as_markdown, tables), said]), "--markdown")
    if args.plot:
        left_out_of_plot = draw(outcomes, args.plot)
        sys.stderr.writelines(f"--plot: {text}\n" for text in left_out_of_plot)
    if STDOUT not in (args.json, args.csv, args.markdown):
        print("\n".join([*map(as_text, tables), said]), end="")
    return 0


def read_columns(args: argparse.Namespace, left_out: list[str]) -> Columns:
    """Return the outcomes of each column; of what cannot be read the reason is put into `left_out`."""
    columns: dict[str, dict[str, RunFolder]] = {}
    for name, folder in map(_named_folder, args.column):
        if name in columns:
            raise ConfigError(f"--column: the name {name!r} is given twice.")
        found = sorted(path.parent for path in folder.glob("*/config.yaml"))
        if not found:
            raise ConfigError(f"--column: there is no run in {folder}.")
        columns[name] = _tried({run.name: partial(RunFolder, run) for run in found}, left_out)
    splits = {
        row: args.split or common_split(runs[row] for runs in columns.values() if row in runs)
        for row in {row for runs in columns.values() for row in runs}
    }
    outcomes = {
        name: _tried(
            {row: partial(run.outcome, splits[row], args.metric) for row, run in runs.items()},
            left_out,
        )
        for name, runs in columns.items()
    }
    if not any(outcomes.values()):
        raise ConfigError(f"there is nothing to compare. {' '.join(left_out)}")
    return outcomes


def by_run(outcomes: Mapping[str, Outcome]) -> Table:
    """Return a table with a row for each run, by the name to show."""
    columns: dict[str, Callable[[Outcome], str]] = {
        "task": lambda o: o.task,
        "split": lambda o: o.split,
        "metric": lambda o: o.metric,
        "value": lambda o: _number(o.value),
        "chance": lambda o: _number(o.chance),
        "weights": lambda o: o.weights,
        "GMACs in evaluation": lambda o: NOT_RECORDED if o.eval_gmacs is None else _number(o.eval_gmacs),
        "ratio": lambda o: _number(o.eval_gmacs / o.eval_gmacs_dense if o.eval_gmacs and o.eval_gmacs_dense else None),
        "GMACs in training": lambda o: _number(o.train_gmacs),
        "images/s": lambda o: _number(o.images_per_second),
        "reducer in evaluation": _eval_reducer,
        "reducer in training": lambda o: o.train_reducer,
    }
    rows = [[name, *(cell(one) for cell in columns.values())] for name, one in outcomes.items()]
    title = "Runs; GMACs: image encoder, one image, forward; ratio: to all tokens kept"
    return Table(title, ["run", *columns], rows)


def by_column(columns: Columns) -> Table:
    """Return a table with a row for each name of a run, and a column for each folder of runs."""
    rows = []
    for name in sorted({name for runs in columns.values() for name in runs}):
        found = [runs.get(name) for runs in columns.values()]
        first = next(each for each in found if each)
        cells = ["-" if one is None else _number(one.value) + _otherwise(one, first) for one in found]
        rows.append([name, f"{first.metric}, {first.split}", _number(first.chance), *cells])
    return Table("Runs of one name", ["task", "metric", "chance", *columns], rows)


def notes(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Return what is to be known of the figures, each with the names of the runs that it is true of."""
    remarks: dict[str, list[str]] = {}
    for name, one in outcomes.items():
        for remark in one.remarks:
            remarks.setdefault(remark, []).append(name)
    said = [f"{', '.join(names)}: {remark}." for remark, names in remarks.items()]
    if len({one.split for one in outcomes.values()}) > 1:
        said.append(f"Splits differ: {_grouped(outcomes, lambda one: one.split)}.")
    kinds = {one.checkpoint == IN_TRAINING for one in outcomes.values() if one.checkpoint is not None}
    if len(kinds) > 1:
        groups = _grouped(outcomes, lambda one: "in training" if one.checkpoint == IN_TRAINING else str(one.checkpoint))
        said.append(
            f"Weights differ in kind: {groups}. In training the step of an evaluation counts, whether it was the best "
            "or not; evaluate all alike with tools/evaluate.py RUN --split SPLIT."
        )
    return said


def _eval_reducer(one: Outcome) -> str:
    if one.eval_reducer is None:
        return NOT_RECORDED
    return one.eval_reducer if one.eval_reducer != one.train_reducer else "that of training"


def _otherwise(one: Outcome, first: Outcome) -> str:
    """Return what tells a figure from the first of its row, where they are not of one kind."""
    differing = [getattr(one, key) for key in ("metric", "split") if getattr(one, key) != getattr(first, key)]
    return f" ({', '.join(differing)})" if differing else ""


def _grouped(outcomes: Mapping[str, Outcome], kind: Callable[[Outcome], str]) -> str:
    groups: dict[str, list[str]] = {}
    for name, one in outcomes.items():
        groups.setdefault(kind(one), []).append(name)
    return "; ".join(f"{group} for {', '.join(names)}" for group, names in groups.items())


def _tried(attempts: Mapping[str, Callable[[], Any]], left_out: list[str]) -> dict[str, Any]:
    """Return what succeeds, and put into `left_out` why the rest does not."""
    found = {}
    for name, attempt in attempts.items():
        try:
            found[name] = attempt()
        except ElipError as error:
            left_out.append(f"left out: {error}")
    return found


def _to_csv(rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "remarks": "; ".join(row["remarks"])} for row in rows)
    return out.getvalue()


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals:
        raise ConfigError(f"--column: expected NAME=FOLDER, got {text!r}.")
    return name, Path(folder)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


if __name__ == "__main__":
    raise SystemExit(main())
