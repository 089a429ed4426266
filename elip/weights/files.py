"""Files of weights in any of the forms in use: our checkpoints, the published ones of ALBEF and ELIP, safetensors.

Nothing in them is run: pickled files are read with `weights_only`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from elip.atomic import write_atomically
from elip.errors import CheckpointError
from elip.weights import run_folder
from elip.weights.names import MODEL, from_albef, is_derived, is_of_model, num_known, short, to_albef
from elip.weights.reading import CHECKSUM, SAFETENSORS, checksum, read_safetensors
from elip.weights.wrappings import described, unwrap

Form = Literal["elip", "albef"]
"""Whose names tensors carry: ours, or those of the published checkpoints."""
PLAIN = "key 'model'"
_RUN = ("config", "step", "epoch")
"""What every checkpoint of ours says of its run, beside what only going on with it needs."""
_TOLD = (*_RUN, "vocabulary")
"""With what those of earlier versions do not say."""


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    Args:
        path: of the file.
        form: whose names the file has.
        state: the tensors under our names, as a task has them.
        derived: published names of tensors that only repeat others, and are not in `state`.
        run: config, step, epoch and vocabulary of our run that they are from, as far as the file tells.
        left_out: other entries of the file.
        undone: wrappings around the weights that were undone, in words; the key `model`, which is usual, goes unsaid.
    """

    path: Path
    form: Form
    state: dict[str, Tensor]
    derived: dict[str, Tensor] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return where the weights are from, in words."""
        facts = [f"task {self.run['config']['task']['name']}", f"step {self.run['step']}"] if self.run else []
        facts = facts or ["names of ALBEF" if self.form == "albef" else "our names"]
        return described(self.path, self.undone, facts)


def read_weights(path: Path) -> Weights:
    """Return the weights in a file, on the CPU; of a folder of one of our runs, its best or else last checkpoint.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds no weights.
    """
    path = run_folder.find(path)
    contents, metadata = read_safetensors(path) if path.suffix == SAFETENSORS else (run_folder.read(path), {})
    if "elip" in metadata:
        contents = {"model": contents, "elip": _parsed(metadata["elip"], path)}
    packed = unwrap(contents, path, num_known)
    state, others = packed.state, packed.beside
    of_run = others if _is_run(others) else others["elip"] if _is_run(others.get("elip")) else {}
    run = {key: of_run[key] for key in _TOLD if key in of_run}
    left_out = tuple(key for key in others if key != "elip" and not (of_run is others and key in _TOLD))
    undone = packed.undone[1:] if packed.undone[:1] == (PLAIN,) else packed.undone
    if not any(name.startswith(MODEL) for name in state) and any(map(is_of_model, state)):
        state, undone = (
            {MODEL + name: tensor for name, tensor in state.items()},
            (*undone, f"no {MODEL!r} before names"),
        )
    if of_run is others or any(name.startswith(MODEL) for name in state):
        return Weights(path, "elip", state, run=run, left_out=left_out, undone=undone)
    derived = {name: tensor for name, tensor in state.items() if is_derived(name)}
    ours = {MODEL + name: tensor for name, tensor in from_albef(state).items()}
    return Weights(path, "albef", ours, derived, run, left_out, undone)


def write_weights(path: Path, state: Mapping[str, Tensor], form: Form, run: Mapping[str, Any]) -> int:
    """Write weights, and what is known of their run, and return the number of tensors in the file.

    Args:
        path: safetensors where its name ends so, else pickled with the weights under `model`.
        state: under our names.
        form: whose names to write.
        run: see `Weights`.
    """
    tensors = dict(state) if form == "elip" else to_albef({short(name): tensor for name, tensor in state.items()})
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if path.suffix == SAFETENSORS:
        metadata = {"format": "pt", "elip": json.dumps(dict(run))}
        data = save(_apart(tensors), {**metadata, CHECKSUM: checksum(tensors, metadata)})
        write_atomically(path, lambda file: file.write(data))
    else:
        about = dict(run) if form == "elip" else {"elip": dict(run)}
        write_atomically(path, lambda file: torch.save({"model": tensors, **about}, file))
    return len(tensors)


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: its metadata do not tell of its run, but hold {text!r}.") from error


def _is_run(facts: Any) -> bool:
    """Return whether these are what a checkpoint of ours says of its run; others have a config of some kind, too."""
    if not isinstance(facts, Mapping) or not {*_RUN} <= facts.keys() or not isinstance(facts["config"], Mapping):
        return False
    task = facts["config"].get("task")
    return isinstance(task, Mapping) and isinstance(task.get("name"), str)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with memory of their own each, which safetensors asks for."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart
