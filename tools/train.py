"""Train any task from a YAML config, on one process or, under torchrun, on many."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from elip.config import load_config
from elip.config.describe import help_on, listing, shipped_configs
from elip.efficiency.run_cost import EvaluationCost, RunningCost
from elip.engine import checkpoint
from elip.engine.runtime import start_run
from elip.engine.trainer import Trainer
from elip.errors import ConfigError
from elip.registry import REDUCERS, TASKS
from elip.task.preflight import check_run, without_weights
from elip.task.vocabulary import warn_of_other_vocabulary
from elip.weights.files import read_weights
from elip.weights.warm_start import start_from
from tools.cli import user_errors

logger = logging.getLogger(__name__)

EPILOG = """examples:
  python tools/train.py configs/demo/pretrain.yaml
  python tools/train.py configs/demo/pretrain.yaml reducer.name=random train.max_steps=100 output_dir=runs/random
  python tools/train.py configs/demo/pretrain.yaml --resume
  python tools/train.py configs/demo/ve.yaml --init runs/demo/pretrain
  python tools/train.py --help-config optim
  torchrun --nproc-per-node 4 tools/train.py configs/pretrain.yaml
"""
EVERYTHING = ""
"""Stands for all sections where one can be asked for."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options.

    Raises:
        ConfigError: a word is neither what its place asks for nor anything else that makes sense.
    """
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", help="YAML file of the run")
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
    shown = parser.add_argument_group("print, and exit")
    shown.add_argument("--list-configs", action="store_true", help="the configs that come with the toolkit")
    shown.add_argument("--list-reducers", action="store_true", help="all reducers, their papers and parameters")
    shown.add_argument("--list-tasks", action="store_true", help="all tasks, their papers and keys")
    shown.add_argument(
        "--help-config",
        nargs="?",
        const=EVERYTHING,
        metavar="SECTION",
        help="all keys of a config, or those of a section, a task, a reducer: optim, task.vqa, reducer.tome",
    )
    args = parser.parse_intermixed_args(_bare_options_last(sys.argv[1:] if argv is None else argv))
    args.config, args.overrides = _config_and_overrides([args.config, *args.overrides] if args.config else [])
    for option in ("resume", "init"):
        if isinstance(getattr(args, option), str):
            _check_weights(getattr(args, option), option)
    if args.config is None and not _shows(args):
        raise ConfigError(f"a config is needed, e.g. {_config_beside(args.resume) or 'configs/demo/pretrain.yaml'}")
    if isinstance(args.resume, str):
        args.resume = Path(args.resume).expanduser()
    if args.init is not None:
        args.overrides.append(f"model.init={json.dumps(os.path.expanduser(args.init))}")
    return args


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Train, and return 0 when training came to its end or was stopped by a signal after writing a checkpoint."""
    args = parse_args(argv)
    config = load_config(args.config, args.overrides) if args.config else None  # also loads the config's plug-ins
    if _shows(args) or config is None:
        print(_shown(args), end="")
        return 0
    built = without_weights(config) if args.resume else config  # a checkpoint has weights of its own
    check_run(built)
    with start_run(config, exclusive=True) as run:
        start = checkpoint.starting_point(run.output_dir, args.resume)
        weights = read_weights(Path(config.model.init)) if config.model.init and start is None else None
        task = TASKS.build(config.task.name, built)
        if weights is not None:
            logger.info("%s", start_from(task, weights, config.model.init_allow))
            warn_of_other_vocabulary(task, weights)
            del weights
        task = task.to(run.device)
        costs = RunningCost(task).figures, EvaluationCost(task).figures
        outcome = Trainer(task, config, run, *costs).fit(start or False)
        logger.info("%s", _summary(outcome, run.output_dir))
    return 0


def _shows(args: argparse.Namespace) -> bool:
    """Return whether something is to be printed in the place of a run."""
    return args.list_configs or args.list_reducers or args.list_tasks or args.help_config is not None


def _shown(args: argparse.Namespace) -> str:
    texts = (
        (args.list_configs, shipped_configs),
        (args.list_reducers, lambda: listing(REDUCERS)),
        (args.list_tasks, lambda: listing(TASKS)),
        (args.help_config is not None, lambda: help_on(args.help_config)),
    )
    return "".join(text() for wanted, text in texts if wanted)


def _bare_options_last(argv: Sequence[str]) -> list[str]:
    """Return the words with each option at the end whose value is optional, and which the word after it is not."""
    takes = {"--resume": _may_be_weights, "--help-config": _may_be_section}
    words: list[str] = []
    bare: list[str] = []
    for word, following in zip(argv, [*argv[1:], "-"], strict=True):
        is_bare = word in takes and not takes[word](following)
        (bare if is_bare else words).append(word)
    return [*words, *bare]


def _may_be_weights(word: str) -> bool:
    return not (word.startswith("-") or _is_override(word) or _is_config(word))


def _may_be_section(word: str) -> bool:
    return not (word.startswith("-") or "=" in word or _is_config(word))


def _is_override(word: str) -> bool:
    """Return whether a word is key=value, and no path in which a = happens to be."""
    return "=" in word and not os.path.exists(word) and not {"/", os.sep} & set(word.partition("=")[0])


def _is_config(word: str) -> bool:
    return word.lower().endswith((".yaml", ".yml"))


def _config_and_overrides(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the one word that is no override, and those that are, in whatever order they come."""
    overrides = [word for word in words if _is_override(word)]
    others = [word for word in words if word not in overrides]
    if len(others) > 1:
        config = next(filter(_is_config, others), others[0])
        odd = next(word for word in others if word is not config)
        raise ConfigError(
            f"{odd!r}: the config is {config} already, and this is not KEY=VALUE, such as optim.lr=5e-5. A checkpoint "
            "goes after --resume or --init."
        )
    if others and not _is_config(others[0]) and others[0].endswith((".pt", ".pth", ".safetensors")):
        raise ConfigError(f"{others[0]}: weights go after --resume or --init; name a config first.")
    return (Path(others[0]) if others else None), overrides


def _check_weights(word: str, option: str) -> None:
    """Raise an error for a word that cannot be a checkpoint."""
    if not word:
        raise ConfigError(f"--{option}: the path is empty. Name a checkpoint, or the folder of a run.")
    if _is_override(word):
        raise ConfigError(f"--{option} takes a checkpoint, and {word!r} is key=value. Name one, or put this before it.")
    if _is_config(word):
        raise ConfigError(f"--{option} takes a checkpoint, and {word} is a config. The config comes first.")


def _config_beside(checkpoint: str | bool) -> Path | None:
    """Return the config of the run that a checkpoint is from, if it lies there."""
    if not isinstance(checkpoint, str):
        return None
    folder = Path(checkpoint) if os.path.isdir(checkpoint) else Path(checkpoint).parent
    return folder / "config.yaml" if os.path.isfile(folder / "config.yaml") else None


def _summary(outcome: dict, folder: Path) -> str:
    state = "stopped" if outcome["stopped"] else "done"
    best = outcome["best"]
    figures = f"; best at step {best['step']}: {_figures(best['metrics'])}" if best else ""
    return f"{state} after step {outcome['step']}{figures}; everything is in {folder}"


def _figures(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in metrics.items())


if __name__ == "__main__":
    raise SystemExit(main())
