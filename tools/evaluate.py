"""Evaluate trained weights: metrics, predictions and sheets."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from elip.config import config_from_dict, load_config
from elip.config.schema import RunConfig
from elip.config.sources import read_overrides
from elip.distributed import on_first_rank
from elip.efficiency.run_cost import EvaluationCost, describe_cost
from elip.engine.evaluator import evaluate
from elip.engine.results import write_result
from elip.engine.runtime import start_run
from elip.errors import CheckpointError, ConfigError
from elip.registry import TASKS
from elip.task.preflight import SPLITS, check_run, without_weights
from elip.task.vocabulary import warn_of_other_vocabulary
from elip.weights import run_folder
from elip.weights.files import Weights, read_weights
from elip.weights.fitting import load_all
from elip.weights.warm_start import start_from
from tools.cli import user_errors

logger = logging.getLogger(__name__)

EPILOG = """examples:
  python tools/evaluate.py runs/demo/pretrain
  python tools/evaluate.py runs/demo/pretrain/best.pt --split test eval.reducer.name=none
  python tools/evaluate.py ALBEF.pth --config configs/ve.yaml data.image_root=/path/to/flickr30k
  torchrun --nproc-per-node 4 tools/evaluate.py runs/pretrain
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="checkpoint file, or folder of a run: its best, else its last; with --config also of ALBEF or ELIP, or "
        "safetensors",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the config to change")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file to use instead of the config in the checkpoint"
    )
    parser.add_argument("--split", help="split to evaluate: val, test, ... (default: test if there is one, else val)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the results (default: eval/SPLIT beside the checkpoint, or in output_dir=... if given)",
    )
    add_plugins(parser)
    return parser.parse_intermixed_args(argv)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add the option that allows plug-ins: those named in a checkpoint are not imported by themselves."""
    parser.add_argument(
        "--plugins",
        action="append",
        default=[],
        metavar="FILE|MODULE",
        help="plug-in to import: those that a checkpoint names are not, as that runs their code; may be repeated",
    )


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print the metrics, write results and sheets, and return 0."""
    args = parse_args(argv)
    path = run_folder.find(args.checkpoint)
    weights = read_weights(path)
    overrides = with_plugins(args.overrides, args.plugins)
    config = choose_config(weights, args.config, overrides)
    place = Path(config.output_dir) if read_overrides(overrides).sets(("output_dir",)) else path.parent
    check_run(config, [args.split] if args.split else [split for split in SPLITS if getattr(config.data, split)][:1])
    with start_run(config.model_copy(update={"output_dir": str(args.out or place)})) as run:
        task = TASKS.build(config.task.name, config)
        if args.config is None:
            load_all(task, weights.state, path)
            logger.info("weights from %s", weights.describe())
        else:
            report = start_from(task, weights, config.model.init_allow, complete=True)
            logger.info("%s", report)
        warn_of_other_vocabulary(task, weights)
        split = choose_split(args.split, list(task.eval_splits()))
        cost = EvaluationCost(task)
        result = evaluate(task.to(run.device), split, config, run)
        folder = args.out or place / "eval" / split

        def write() -> None:
            about = {
                "checkpoint": path.name,
                "step": weights.run.get("step"),
                "headline": task.headline,
                **cost.figures(),
                "overrides": args.overrides,
            }
            write_result(result, folder, about, sheets=True)
            print(f"{path}, {split}:")
            for name, value in result.metrics.items():
                by_chance = f"   by chance {result.chance[name]:6.2f}" if name in result.chance else ""
                print(f"  {name:12} {value:7.2f}{by_chance}")
            print(describe_cost(about))
            print(f"metrics, predictions and sheets are in {folder}")

        on_first_rank(write)
    return 0


def with_plugins(overrides: list[str], plugins: list[str]) -> list[str]:
    """Return the overrides with those that make `--plugins` the plug-ins of the config."""
    return [*overrides, f"plugins={json.dumps(plugins)}"] if plugins else overrides


def choose_config(weights: Weights, file: Path | None, overrides: list[str]) -> RunConfig:
    """Return the config in the file given, else that of the run that the weights are from.

    Pretrained weights are left out of it, which may lie on another machine: those that are evaluated replace them.
    """
    if file is not None:
        return without_weights(load_config(file, overrides))
    if not weights.run:
        raise CheckpointError(
            f"{weights.path} does not tell the config of its run. Name one for its task, e.g. --config configs/ve.yaml"
        )
    return without_weights(config_from_dict(weights.run["config"], str(weights.path), overrides))


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
