"""Costs of several reducers as records, plain values for JSON and CSV, and as tables for people."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from elip.config.schema import ReducerConfig
from elip.efficiency.parts import PassCost, all_parts
from elip.efficiency.task_cost import TaskCost
from elip.efficiency.vision_cost import BlockTrace, Properties, Spread, VisionCost
from elip.registry import REDUCERS

UNIT = "GMACs"
Record = dict[str, Any]
"""What is known of one reducer, in plain values; costs are in `UNIT` per image."""
LEGEND = (
    f"{UNIT} per image; 1 multiply-add = 1 MAC, FLOPs = 2 x MACs. Normalisation layers count 5 per element, as in "
    "published figures; other elementwise work is not counted."
)


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
    """Return the reducer's name with the settings it was given; there are none that change anything without one."""
    settings = {} if reducer.name == "none" else reducer.settings
    return " ".join([reducer.name, *(f"{key}={json.dumps(value)}" for key, value in settings.items())])


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
        "options": row.reducer.settings,
        "label": row.label or label(row.reducer),
        "requires_text": REDUCERS.get(row.reducer.name).requires_text,
        "requires_teacher": REDUCERS.get(row.reducer.name).requires_teacher,
        "unit": UNIT,
        **(_vision_record(cost) if isinstance(cost, VisionCost) else _task_record(cost)),
        "vision_spread": None if cost.spread is None else _spread(cost.spread),
        **({} if row.properties is None else _properties_record(row.properties)),
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
        "train_mean_gmacs": cost.train_mean / 1e9,
        "inference": _parts(inference),
        "train_forward": _parts(training),
        "parameters": cost.parameters,
        "momentum_parameters": cost.momentum_parameters,
        "saved_bytes_per_image": round(cost.saved_bytes),
        "peak_cuda_bytes": cost.peak_cuda_bytes,
        "batch_size": cost.batch_size,
    }


def _parts(cost: PassCost) -> dict[str, float]:
    return {part: macs / 1e9 for part, macs in cost.by_name.items()}


def _spread(spread: Spread) -> dict[str, float]:
    return {
        "images": spread.images,
        "std_gmacs": spread.std / 1e9,
        "min_gmacs": spread.least / 1e9,
        "max_gmacs": spread.most / 1e9,
    }


def _properties_record(properties: Properties) -> Record:
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


class Table(NamedTuple):
    """Cells of text under a header; the first column is names, the others are numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]


def tables(records: Sequence[Record], baseline: Record, per_block: bool = False) -> list[Table]:
    """Return the tables that compare reducers with the baseline.

    Args:
        records: of one kind, all of plain encoders or all of tasks, with properties or without.
        baseline: what ratios are to.
        per_block: add the tokens in each block.
    """
    if "added_parameters" in baseline:
        found = [_properties(records, baseline)]
    elif "train_step_gmacs" in baseline:
        found = [_inference(records, baseline), _training(records, baseline), _memory(records, baseline)]
    else:
        found = [_vision(records, baseline)]
    return [*found, _trace(records)] if per_block else found


def as_text(table: Table) -> str:
    """Return the table in aligned columns."""
    widths = [max(len(row[i]) for row in (table.header, *table.rows)) for i in range(len(table.header))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in (table.header, *table.rows)
    ]
    return "\n".join([table.title, *(line.rstrip() for line in lines)]) + "\n"


def as_markdown(table: Table) -> str:
    """Return the table in markdown."""
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (table.header, rule, *table.rows)]
    return "\n".join([f"**{table.title}**", "", *lines]) + "\n"


Column = tuple[str, Callable[[Record], str]]


def _table(title: str, records: Sequence[Record], columns: Sequence[Column]) -> Table:
    header = ["reducer", *(name for name, _ in columns)]
    return Table(title, header, [[record["label"], *(cell(record) for _, cell in columns)] for record in records])


def _vision(records: Sequence[Record], baseline: Record) -> Table:
    forward, both = (lambda r: r["vision_gmacs"]), (lambda r: r["forward_backward_gmacs"])
    gmacs = _gmacs(forward(baseline))
    columns: list[Column] = [
        ("forward", lambda r: gmacs(forward(r)) + _plus_minus(r, gmacs)),
        ("ratio", _ratio(forward, baseline)),
        ("reduced path", lambda r: gmacs(forward(r) - r["look_ahead_gmacs"])),
        ("look-ahead", lambda r: gmacs(r["look_ahead_gmacs"])),
        ("forward+backward", lambda r: gmacs(both(r))),
        ("ratio", _ratio(both, baseline)),
        ("tokens out", _tokens_out),
        ("parameters, M", lambda r: f"{r['parameters'] / 1e6:.2f}"),
    ]
    return _table(f"Image encoder, {UNIT}", records, columns)


def _properties(records: Sequence[Record], baseline: Record) -> Table:
    vision, saved = (lambda r: r["vision_gmacs"]), (lambda r: r["saved_bytes_per_image"])
    gmacs = _gmacs(vision(baseline))
    columns: list[Column] = [
        ("forward", lambda r: gmacs(vision(r)) + _plus_minus(r, gmacs)),
        ("ratio", _ratio(vision, baseline)),
        ("tokens out", _tokens_out),
        ("parameters added, M", lambda r: f"{r['added_parameters'] / 1e6:.2f}"),
        ("needs text", lambda r: _yes(r["requires_text"])),
        ("drops in training", lambda r: _yes(r["drops_in_training"])),
        ("saved for backward, MB", lambda r: f"{saved(r) / 1e6:.1f}"),
        ("ratio", _ratio(saved, baseline)),
        ("source map", lambda r: _yes(r["source_map"])),
    ]
    return _table(f"Image encoder: {UNIT} of a forward pass, and what else tells reducers apart", records, columns)


def _inference(records: Sequence[Record], baseline: Record) -> Table:
    parts = [part for part in all_parts(r["inference"] for r in records) if part != "momentum"]
    columns = _part_columns("inference", parts, baseline)
    return _table(f"One inference, {UNIT}", records, [*columns, *_total("inference_gmacs", "total", baseline)])


def _training(records: Sequence[Record], baseline: Record) -> Table:
    columns = [
        *_part_columns("train_forward", all_parts(r["train_forward"] for r in records), baseline),
        *_total("train_step_gmacs", "forward+backward", baseline),
    ]
    title = f"One training step, {UNIT}: the parts of its forward pass, then the whole step"
    if any(record["train_mean_gmacs"] != record["train_step_gmacs"] for record in records):
        columns += _total("train_mean_gmacs", "mean of training", baseline)
        title += "; its mean over the whole training, schedules included"
    return _table(title, records, columns)


def _memory(records: Sequence[Record], baseline: Record) -> Table:
    columns: list[Column] = [
        ("parameters, M", lambda r: f"{r['parameters'] / 1e6:.2f}"),
        ("momentum, M", lambda r: f"{r['momentum_parameters'] / 1e6:.2f}"),
        ("saved for backward, MB", lambda r: f"{r['saved_bytes_per_image'] / 1e6:.1f}"),
        ("ratio", _ratio(lambda r: r["saved_bytes_per_image"], baseline)),
    ]
    if baseline["peak_cuda_bytes"] is not None:
        batch = baseline["batch_size"]
        columns.append((f"CUDA peak at batch {batch}, MB", lambda r: f"{r['peak_cuda_bytes'] / 1e6:.1f}"))
    return _table("Memory; saved: per image of a training step, in single precision", records, columns)


def _trace(records: Sequence[Record]) -> Table:
    """Tokens that leave each block; before the stroke those in its attention, where they are others."""

    def cell(record: Record, block: int) -> str:
        attention, mlp = record["tokens_in_attention"][block], record["tokens"][block]
        return f"{mlp:g}" if attention == mlp else f"{attention:g}/{mlp:g}"

    depth = len(records[0]["tokens"])
    rows = [[str(block), *(cell(record, block) for record in records)] for block in range(depth)]
    return Table(
        "Tokens in each block (attention/MLP where they differ)",
        ["block", *(record["label"] for record in records)],
        rows,
    )


def _tokens_out(record: Record) -> str:
    return f"{record['tokens'][-1]:.4g}"


def _plus_minus(record: Record, gmacs: Callable[[float], str]) -> str:
    spread = record["vision_spread"]
    return "" if spread is None else f" ± {gmacs(spread['std_gmacs'])}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _part_columns(group: str, parts: Sequence[str], baseline: Record) -> list[Column]:
    gmacs = _gmacs(sum(baseline[group].values()))

    def column(part: str) -> Column:
        return part.replace("_", "-"), lambda r: gmacs(r[group].get(part, 0))

    return [column(part) for part in parts]


def _total(key: str, name: str, baseline: Record) -> list[Column]:
    gmacs = _gmacs(baseline[key])
    return [(name, lambda r: gmacs(r[key])), ("ratio", _ratio(lambda r: r[key], baseline))]


def _gmacs(typical: float) -> Callable[[float], str]:
    """Return a format with as many digits as figures of this size need."""
    digits = 2 if typical >= 1 else 4
    return lambda value: f"{value:.{digits}f}"


def _ratio(value: Callable[[Record], float], baseline: Record) -> Callable[[Record], str]:
    return lambda record: f"{value(record) / value(baseline):.2f}"
