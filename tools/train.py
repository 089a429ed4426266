"""Train any task from a YAML config, on one process or, under torchrun, on many."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from elip.config import load_config
from elip.efficiency.evaluation import EvaluationCost
from elip.efficiency.running import RunningCost
from elip.engine.runtime import start_run
from elip.engine.trainer import Trainer
from elip.engine.warm_start import start_from
from elip.engine.weights_file import read_weights
from elip.registry import REDUCERS, TASKS, Registry
from tools.cli import user_errors

EPILOG = """examples:
  python tools/train.py configs/demo/pretrain.yaml
  python tools/train.py configs/demo/pretrain.yaml reducer.name=random train.max_steps=100 output_dir=runs/random
  python tools/train.py configs/demo/pretrain.yaml --resume
  python tools/train.py configs/demo/ve.yaml --init runs/demo/pretrain
  torchrun --nproc-per-node 4 tools/train.py configs/pretrain.yaml
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys to change, e.g. optim.lr=5e-5")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CHECKPOINT",
        help="go on from the last checkpoint in the output folder, or from the one given (a file or a folder)",
    )
    parser.add_argument(
        "--init",
        metavar="FILE",
        help="weights to start from: a checkpoint of any task, ours (or the folder of a run) or of ALBEF or ELIP, or "
        "safetensors; with --resume, which has weights of its own, they are not read",
    )
    parser.add_argument("--list-reducers", action="store_true", help="print all reducers with their papers, and exit")
    parser.add_argument("--list-tasks", action="store_true", help="print all tasks with their papers, and exit")
    args = parser.parse_intermixed_args(argv)
    if args.config is None and not (args.list_reducers or args.list_tasks):
        parser.error("a config is needed, e.g. configs/demo/pretrain.yaml")
    if isinstance(args.resume, str):
        args.resume = Path(args.resume)
    if args.init is not None:
        args.overrides.append(f"model.init={json.dumps(args.init)}")
    return args


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Train, and return 0 when training came to its end or was stopped by a signal after writing a checkpoint."""
    args = parse_args(argv)
    config = load_config(args.config, args.overrides) if args.config else None  # also loads the config's plug-ins
    for wanted, registry in ((args.list_reducers, REDUCERS), (args.list_tasks, TASKS)):
        if wanted:
            print_listing(registry)
    if args.list_reducers or args.list_tasks or config is None:
        return 0
    with start_run(config, exclusive=True) as run:
        task = TASKS.build(config.task.name, config)
        if config.model.init is not None and args.resume is False:
            report = start_from(task, read_weights(Path(config.model.init)), config.model.init_allow)
            logging.getLogger(__name__).info("%s", report)
        task = task.to(run.device)
        costs = RunningCost(task).figures, EvaluationCost(task).figures
        outcome = Trainer(task, config, run, *costs).fit(args.resume)
        logging.getLogger(__name__).info("%s", _summary(outcome, run.output_dir))
    return 0


def print_listing(registry: Registry) -> None:
    """Print name, one line and paper of every entry."""
    entries = registry.describe()
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        paper = f"  [{entry.paper}]" if entry.paper else ""
        print(f"{entry.name:{width}}  {entry.summary}{paper}")


def _summary(outcome: dict, folder: Path) -> str:
    state = "stopped" if outcome["stopped"] else "done"
    best = outcome["best"]
    figures = f"; best at step {best['step']}: {_figures(best['metrics'])}" if best else ""
    return f"{state} after step {outcome['step']}{figures}; everything is in {folder}"


def _figures(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in metrics.items())


if __name__ == "__main__":
    raise SystemExit(main())
