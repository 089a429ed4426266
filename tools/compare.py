"""Runs side by side: task, reducer, headline beside chance, GMACs, speed; or several folders of runs as columns."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elip.config import load_config
from elip.efficiency.report import label
from elip.efficiency.tables import Table, as_markdown, as_text
from elip.errors import ConfigError
from elip.registry import TASKS
from tools.cli import user_errors, write

EPILOG = """examples:
  python tools/compare.py runs/elip runs/tome runs/none
  python tools/compare.py --column 'no pre-training=runs/scratch' --column ours=runs/tuned

With --column, the runs of one name in the folders given make one row: runs/scratch/vqa and runs/tuned/vqa.
"""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Args:
        run: name of its folder.
        task: its task.
        reducer: with its parameters.
        split: that was evaluated.
        metric: the task's headline.
        value: of the metric.
        chance: what guessing would reach; None if not known.
        gmacs: of the image encoder, for one image in the last step of training; None if not logged.
        images_per_second: in training, the median of what was logged.
    """

    run: str
    task: str
    reducer: str
    split: str
    metric: str
    value: float
    chance: float | None
    gmacs: float | None
    images_per_second: float | None


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="output folders of runs")
    parser.add_argument(
        "--column", action="append", default=[], metavar="NAME=FOLDER", help="a folder of runs; may be repeated"
    )
    parser.add_argument("--split", help="split to compare (default: test where there is one, else the first evaluated)")
    parser.add_argument("--metric", help="metric to compare (default: each task's headline)")
    for name in ("json", "markdown"):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write {name} to a file, or with - to standard output")
    return parser.parse_intermixed_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write what was asked for, and return 0."""
    args = parse_args(argv)
    if bool(args.runs) == bool(args.column):
        raise ConfigError("name runs to compare, or folders of runs with --column NAME=FOLDER, and not both.")
    if args.column:
        columns = {name: outcomes_in(folder, args) for name, folder in map(_named_folder, args.column)}
        records: Any = {name: [asdict(outcome) for outcome in found.values()] for name, found in columns.items()}
        table = by_column(columns)
    else:
        outcomes = [outcome(run, args.split, args.metric) for run in args.runs]
        records, table = [asdict(each) for each in outcomes], by_run(outcomes)
    if args.json:
        write(args.json, json.dumps(records, indent=2) + "\n", "--json")
    if args.markdown:
        write(args.markdown, as_markdown(table), "--markdown")
    if "-" not in (args.json, args.markdown):
        print(as_text(table), end="")
    return 0


def outcome(run: Path, split: str | None = None, metric: str | None = None) -> Outcome:
    """Return what a run came to.

    Raises:
        ConfigError: it is no folder of a run, or lacks that split or metric.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} is no run: it has no config.yaml. Name the output_dir of a run.")
    config = load_config(run / "config.yaml")
    evaluated = sorted(path.parent.name for path in run.glob("eval/*/metrics.json"))
    if not evaluated:
        raise ConfigError(f"{run}: nothing was evaluated; run tools/evaluate.py {run}.")
    if split not in (None, *evaluated):
        raise ConfigError(f"{run}: {split} was not evaluated, but {', '.join(evaluated)}; run tools/evaluate.py.")
    split = split or ("test" if "test" in evaluated else evaluated[0])
    metrics = _json(run / "eval" / split / "metrics.json")
    name = metric or TASKS.get(config.task.name).headline
    if name not in metrics:
        raise ConfigError(f"{run}: {split} has no metric {name!r}; it has {', '.join(metrics)}.")
    steps = _training_log(run)
    speeds = sorted(step["images_per_second"] for step in steps if "images_per_second" in step)
    chance = run / "eval" / split / "chance.json"
    return Outcome(
        run=run.name,
        task=config.task.name,
        reducer=label(config.reducer),
        split=split,
        metric=name,
        value=metrics[name],
        chance=_json(chance).get(name) if chance.is_file() else None,
        gmacs=next((step["gmacs/vision"] for step in reversed(steps) if "gmacs/vision" in step), None),
        images_per_second=speeds[len(speeds) // 2] if speeds else None,
    )


def outcomes_in(folder: Path, args: argparse.Namespace) -> dict[str, Outcome]:
    """Return what each run in a folder came to, by its name."""
    runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
    if not runs:
        raise ConfigError(f"--column: there is no run in {folder}.")
    return {run.name: outcome(run, args.split, args.metric) for run in runs}


def by_run(outcomes: Sequence[Outcome]) -> Table:
    """Return a table with a row for each run."""
    header = ["run", "task", "reducer", "split", "metric", "value", "chance", "GMACs", "images/s"]
    rows = [
        [o.run, o.task, o.reducer, o.split, o.metric, *map(_number, (o.value, o.chance, o.gmacs, o.images_per_second))]
        for o in outcomes
    ]
    return Table("Runs; GMACs: image encoder, one image, forward", header, rows)


def by_column(columns: dict[str, dict[str, Outcome]]) -> Table:
    """Return a table with a row for each name of a run, and a column for each folder of runs."""
    names = sorted({name for runs in columns.values() for name in runs})
    rows = []
    for name in names:
        found = {column: runs.get(name) for column, runs in columns.items()}
        first = next(each for each in found.values() if each)
        values = [_number(each.value if each else None) for each in found.values()]
        rows.append([name, f"{first.metric}, {first.split}", _number(first.chance), *values])
    return Table("Runs of one name", ["task", "metric", "chance", *columns], rows)


def _training_log(run: Path) -> list[dict[str, Any]]:
    log = run / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return [entry for entry in map(json.loads, lines) if entry["event"] == "train"]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals:
        raise ConfigError(f"--column: expected NAME=FOLDER, got {text!r}.")
    return name, Path(folder)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


if __name__ == "__main__":
    raise SystemExit(main())
