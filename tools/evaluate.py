"""Evaluate a trained checkpoint: metrics, predictions and pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from elip.config import config_from_dict
from elip.distributed import on_first_rank
from elip.engine import checkpoint
from elip.engine.evaluator import evaluate
from elip.engine.results import write_pictures, write_result
from elip.engine.runtime import start_run
from elip.errors import CheckpointError, ConfigError
from elip.registry import TASKS
from tools.cli import user_errors

EPILOG = """examples:
  python tools/evaluate.py runs/demo/pretrain
  python tools/evaluate.py runs/demo/pretrain/best.pt --split test eval.reducer.name=none
  torchrun --nproc-per-node 4 tools/evaluate.py runs/pretrain
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint file, or folder of a run: its best, else its last")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the run's config to change")
    parser.add_argument("--split", help="split to evaluate: val, test, ... (default: test if there is one, else val)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the results (default: eval/SPLIT in the run's output_dir)"
    )
    return parser.parse_intermixed_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print the metrics, write results and pictures, and return 0."""
    args = parse_args(argv)
    path = find_checkpoint(args.checkpoint)
    contents = checkpoint.load(path)
    config = config_from_dict(contents["config"], source=str(path), overrides=args.overrides)
    with start_run(config) as run:
        task = TASKS.build(config.task.name, config)
        checkpoint.load_weights(task, contents["model"], path)
        split = choose_split(args.split, list(task.eval_splits()))
        result = evaluate(task.to(run.device), split, config, run)
        folder = args.out or run.output_dir / "eval" / split

        def write() -> None:
            write_result(result, folder)
            write_pictures(result.pictures, folder)
            print(f"{path}, {split}:")
            for name, value in result.metrics.items():
                by_chance = f"   by chance {result.chance[name]:6.2f}" if name in result.chance else ""
                print(f"  {name:12} {value:7.2f}{by_chance}")
            print(f"metrics, predictions and pictures are in {folder}")

        on_first_rank(write)
    return 0


def find_checkpoint(path: Path) -> Path:
    """Return the file itself, or the best (else the last) checkpoint in a folder."""
    if not path.is_dir():
        return path
    best, last = path / checkpoint.BEST, checkpoint.latest(path)
    if best.exists():
        return best
    if last is None:
        raise CheckpointError(f"there is no checkpoint in {path}. Name the output_dir of a run, or a checkpoint file.")
    return last


def choose_split(asked: str | None, known: list[str]) -> str:
    """Return the split asked for, or the last one known, which is test if there is one."""
    if not known:
        raise ConfigError(
            "this config names no evaluation data: give it with data.test=[FILE], data.image_root=FOLDER."
        )
    if asked is None:
        return known[-1]
    if asked not in known:
        raise ConfigError(f"--split {asked}: this config has data for {', '.join(known)} only.")
    return asked


if __name__ == "__main__":
    raise SystemExit(main())
