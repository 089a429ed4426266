"""Costs of several reducers as records: plain values for JSON, CSV and the tables of `elip.efficiency.tables`."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from elip.config.schema import ReducerConfig
from elip.efficiency.parts import PassCost
from elip.efficiency.properties import Properties
from elip.efficiency.task_cost import TaskCost
from elip.efficiency.vision_cost import BlockTrace, Spread, VisionCost
from elip.registry import REDUCERS

UNIT = "GMACs"
Record = dict[str, Any]
"""What is known of one reducer, in plain values; costs are in `UNIT` per image."""


@dataclass(frozen=True)
class Row:
    """One reducer and its cost.

    Args:
        reducer: name and parameters.
        cost: of a plain encoder or of a whole task.
        properties: what else was measured of it, if it was.
        label: what tables call it; "" for its name with its parameters.
    """

    reducer: ReducerConfig
    cost: VisionCost | TaskCost
    properties: Properties | None = None
    label: str = ""


def label(reducer: ReducerConfig) -> str:
    """Return the reducer's name with the parameters it was given."""
    return " ".join([reducer.name, *(f"{key}={json.dumps(value)}" for key, value in reducer.params.items())])


def to_record(row: Row) -> Record:
    """Return one object of the JSON output.

    `text`, `fusion`, `heads` and `momentum` of a task are those of the forward pass of a training step; all parts of
    both passes are under `inference` and `train_forward`. `vision_spread` tells how images differ under a reducer that
    keeps different numbers of tokens in them; figures are then means.
    """
    cost = row.cost
    trace: list[BlockTrace] = cost.tokens
    return {
        "reducer": row.reducer.name,
        "options": row.reducer.params,
        "label": row.label or label(row.reducer),
        "requires_text": REDUCERS.get(row.reducer.name).requires_text,
        "unit": UNIT,
        **(_vision_record(cost) if isinstance(cost, VisionCost) else _task_record(cost)),
        "vision_spread": None if cost.spread is None else _spread(cost.spread),
        **({} if row.properties is None else _properties(row.properties)),
        "tokens": [block.mlp for block in trace],
        "tokens_in_attention": [block.attention for block in trace],
    }


def _vision_record(cost: VisionCost) -> Record:
    return {
        "vision_gmacs": cost.total / 1e9,
        "look_ahead_gmacs": cost.look_ahead / 1e9,
        "norm_gmacs": cost.norm / 1e9,
        "forward_backward_gmacs": cost.forward_backward / 1e9,
        "parameters": cost.parameters,
    }


def _task_record(cost: TaskCost) -> Record:
    inference, training = cost.inference, cost.train_forward
    return {
        "vision_gmacs": inference.vision_total / 1e9,
        "look_ahead_gmacs": inference.look_ahead / 1e9,
        **{part: getattr(training, part) / 1e9 for part in ("text", "fusion", "momentum", "heads")},
        "inference_gmacs": inference.total / 1e9,
        "train_step_gmacs": cost.train_step / 1e9,
        "inference": _parts(inference),
        "train_forward": _parts(training),
        "parameters": cost.parameters,
        "momentum_parameters": cost.momentum_parameters,
        "saved_bytes_per_image": round(cost.saved_bytes),
        "peak_cuda_bytes": cost.peak_cuda_bytes,
        "batch_size": cost.batch_size,
    }


def _parts(cost: PassCost) -> dict[str, float]:
    return {part: macs / 1e9 for part, macs in asdict(cost).items()}


def _spread(spread: Spread) -> dict[str, float]:
    return {
        "images": spread.images,
        "std_gmacs": spread.std / 1e9,
        "min_gmacs": spread.least / 1e9,
        "max_gmacs": spread.most / 1e9,
    }


def _properties(properties: Properties) -> Record:
    return {
        "added_parameters": properties.added_parameters,
        "drops_in_training": properties.drops_in_training,
        "source_map": properties.has_source,
        "saved_bytes_per_image": round(properties.saved_bytes),
    }


def to_json(records: Sequence[Record]) -> str:
    """Return a list of objects."""
    return json.dumps(records, indent=2) + "\n"


def to_csv(records: Sequence[Record]) -> str:
    """Return one line a reducer, its tokens as numbers with spaces between, other nested values as JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_cell(value) for key, value in record.items()} for record in records)
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(f"{item:g}" for item in value)
    return json.dumps(value) if isinstance(value, dict) else value
