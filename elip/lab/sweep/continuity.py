"""Whether the runs in a sweep's folder are those that its file asks for now."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elip.config import config_from_dict, config_to_dict
from elip.config.sources import Draft, read_files
from elip.engine.checkpoint import changes
from elip.errors import ConfigError
from elip.lab.sweep.chain import Chain, Stage, StageState
from elip.weights import run_folder

_SHOWN = 3


def refuse_other_runs(chains: Sequence[Chain]) -> None:
    """Raise an error for a run that was begun with another config than it has now; one that never began may change.

    Raises:
        ConfigError: the message names the first such run, what differs, and how many there are.
    """
    odd = {stage.folder: words for chain in chains for stage in chain.stages if (words := _differences(chain, stage))}
    if not odd:
        return
    folder, words = next(iter(odd.items()))
    further = f"; {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    others = f", and {len(odd) - 1} other runs likewise" if len(odd) > 1 else ""
    raise ConfigError(
        f"{folder} was begun with another config ({'; '.join(words[:_SHOWN])}{further}){others}. Put the sweep's file "
        "back, give the arm another name, choose another folder with --out, or remove these runs."
    )


def _differences(chain: Chain, stage: Stage) -> list[str]:
    folder = stage.folder
    before = StageState.of(folder)
    began = run_folder.latest(folder) is not None or before.status == "done"
    if not began or not (folder / "config.yaml").is_file():
        return []
    was, now = _begun_with(folder), _comparable(stage.config)
    words = changes(was, now)
    if stage is not chain.stages[0] and before.checkpoint not in ("", chain.checkpoint):
        words.append(f"evaluate.checkpoint, which it started from, was {before.checkpoint}, is {chain.checkpoint}")
    return words


def _begun_with(folder: Path) -> dict[str, Any]:
    values = Draft(read_files(folder / "config.yaml")).values
    plugins = [f"plugins={values['plugins']}"] if values.get("plugins") else []
    return _comparable(config_to_dict(config_from_dict(values, str(folder / "config.yaml"), plugins)))


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without what tells where its folder lies."""
    model = {key: value for key, value in config["model"].items() if key != "init"}
    return {**{key: value for key, value in config.items() if key != "output_dir"}, "model": model}
