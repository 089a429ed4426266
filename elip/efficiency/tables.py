"""Tables that set the costs of reducers beside those of the model without one, for people."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from elip.efficiency.report import UNIT, Record

LEGEND = (
    f"{UNIT} per image; 1 multiply-add = 1 MAC, FLOPs = 2 x MACs. Normalisation layers count 5 per element, as in "
    "published figures; other elementwise work is not counted."
)


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
    columns = _part_columns("inference", ("vision", "look_ahead", "text", "fusion", "heads"), baseline)
    return _table(f"One inference, {UNIT}", records, [*columns, *_total("inference_gmacs", "total", baseline)])


def _training(records: Sequence[Record], baseline: Record) -> Table:
    parts = ("vision", "look_ahead", "text", "fusion", "heads", "momentum")
    columns = [
        *_part_columns("train_forward", parts, baseline),
        *_total("train_step_gmacs", "forward+backward", baseline),
    ]
    return _table(f"One training step, {UNIT}: the parts of its forward pass, then the whole step", records, columns)


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
        return part.replace("_", "-"), lambda r: gmacs(r[group][part])

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
