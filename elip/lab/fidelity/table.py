"""What was measured without training, as records, plain values for JSON and CSV, and as tables for people."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from elip.efficiency.report import Table
from elip.lab.fidelity.measure import YARDSTICK, Fidelity, Measured
from elip.lab.statistics import Interval, bootstrap_items_and_seeds, verdict

Record = dict[str, Any]
"""What is known of one reducer at one budget, in plain values."""
DASH = "-"


class Metric(NamedTuple):
    """How a score is shown.

    Args:
        title: of its column.
        digits: after the point.
        heading: what to write above a panel of it.
    """

    title: str
    digits: int
    heading: str


METRICS = {
    "pooled_cosine": Metric("pooled cosine", 3, "pooled feature: cosine to dense"),
    "patch_cosine": Metric("patch cosine", 3, "restored patches: cosine to dense"),
    "neighbours": Metric("neighbours, %", 1, "neighbours shared with dense, %"),
    "own_bank": Metric("accuracy, own bank", 1, "neighbours' vote in its own bank, %"),
    "dense_bank": Metric("accuracy, dense bank", 1, "neighbours' vote in the dense bank, %"),
    "txt_r1": Metric("text found, R@1", 1, "text found for an image, R@1, %"),
    "img_r1": Metric("image found, R@1", 1, "image found for a text, R@1, %"),
}
"""The scores that tables and pictures show; files hold all."""


def to_records(fidelity: Fidelity, *, samples: int = 2000, seed: int = 0) -> list[Record]:
    """Return one record an arm, the dense encoder's first.

    Under `metrics` are means over pictures with their 95% bootstrap interval; under `against_random` the mean of the
    picture-by-picture difference to the yardstick of the same budget, its interval over pictures and draws of the
    yardstick, and a verdict in a word: a difference whose interval holds 0 is a tie.

    Args:
        fidelity: what was measured.
        samples: of the bootstrap.
        seed: of the bootstrap.
    """
    estimate = partial(bootstrap_items_and_seeds, samples=samples, seed=seed)
    yardsticks = {one.arm.budget: one for one in fidelity.arms if one.arm.reducer.name == YARDSTICK}
    dense = fidelity.dense

    def record(one: Measured) -> Record:
        arm, random = one.arm, yardsticks.get(one.arm.budget)
        differences = {}
        if random is not None and one not in (random, dense):
            differences = {name: scores - random.scores[name] for name, scores in one.scores.items()}
        return {
            "label": arm.label,
            "reducer": arm.reducer.name,
            "options": arm.reducer.params,
            "budget_gmacs": None if one is dense else arm.budget / 1e9,
            "gmacs": arm.cost.total / 1e9,
            "ratio": arm.cost.total / dense.arm.cost.total,
            "tokens_out": arm.cost.tokens[-1].mlp,
            "draws": len(arm.modules),
            "time_ratio": None if one.timing is None else one.timing.ratio,
            "time_ratio_range": None if one.timing is None else [min(one.timing.ratios), max(one.timing.ratios)],
            "unranked": arm.unranked,
            "metrics": {name: asdict(estimate(scores)) for name, scores in one.scores.items()},
            "against_random": {name: _judged(estimate(scores)) for name, scores in differences.items()},
        }

    return [record(one) for one in (dense, *fidelity.arms)]


def _judged(difference: Interval) -> Record:
    return {**asdict(difference), "verdict": verdict(difference)}


def to_csv(records: Sequence[Record]) -> str:
    """Return one line an arm; each metric has columns for mean, interval, and the difference to the yardstick."""
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    rows = [_flat(record, names) for record in records]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(record: Record, names: Sequence[str]) -> Record:
    low, high = record["time_ratio_range"] or (None, None)
    nested = ("options", "metrics", "against_random", "time_ratio_range")
    row = {key: value for key, value in record.items() if key not in nested}
    row |= {"options": json.dumps(record["options"]), "time_ratio_low": low, "time_ratio_high": high}
    for name in names:
        found, difference = record["metrics"].get(name, {}), record["against_random"].get(name, {})
        row |= {name: found.get("mean"), f"{name}_low": found.get("low"), f"{name}_high": found.get("high")}
        row |= {f"{name}_difference": difference.get("mean")}
        row |= {f"{name}_difference_{end}": difference.get(end) for end in ("low", "high")}
        row |= {f"{name}_verdict": difference.get("verdict")}
    return row


def tables(records: Sequence[Record]) -> list[Table]:
    """Return, for each budget, what was measured and how it compares with the yardstick; the best by the first metric
    that all have come first. Reducers that cannot be ranked have a table of their own."""
    dense, *others = records
    shown = [name for name in METRICS if name in dense["metrics"]]
    found: list[Table] = []
    for budget, arms in _by_budget(others):
        ranked = sorted((one for one in arms if not one["unranked"]), key=_best_first)
        where = f"{budget:.2f} GMACs, {budget / dense['gmacs']:.2f} of dense"
        found.append(_measured(f"At most {where}", [dense, *ranked], shown))
        against = [one for one in ranked if one["against_random"]]
        if against:
            found.append(_against(f"Difference to {YARDSTICK} at {where}", against, shown))
    if unranked := [one for one in others if one["unranked"]]:
        found.append(_measured("Not ranked", unranked, shown, why=True))
    return found


def _by_budget(records: Sequence[Record]) -> Iterator[tuple[float, list[Record]]]:
    budgets = dict.fromkeys(record["budget_gmacs"] for record in records)
    for budget in budgets:
        yield budget, [record for record in records if record["budget_gmacs"] == budget]


def _best_first(record: Record) -> float:
    return -record["metrics"]["pooled_cosine"]["mean"]


def _measured(title: str, records: Sequence[Record], shown: Sequence[str], *, why: bool = False) -> Table:
    timed = any(record["time_ratio"] is not None for record in records)
    header = ["reducer", "GMACs", "ratio", *(["time ratio"] if timed else []), *(METRICS[name].title for name in shown)]
    rows = [
        [
            record["label"],
            f"{record['gmacs']:.2f}",
            f"{record['ratio']:.2f}",
            *([f"{record['time_ratio']:.2f}"] if timed else []),
            *(_interval(record["metrics"].get(name), METRICS[name].digits) for name in shown),
            *([record["unranked"]] if why else []),
        ]
        for record in records
    ]
    return Table(title, [*header, *(["why"] if why else [])], rows)


def _against(title: str, records: Sequence[Record], shown: Sequence[str]) -> Table:
    rows = [
        [
            record["label"],
            *(_interval(record["against_random"].get(name), METRICS[name].digits, signed=True) for name in shown),
        ]
        for record in records
    ]
    return Table(title, ["reducer", *(METRICS[name].title for name in shown)], rows)


def _interval(found: Mapping[str, Any] | None, digits: int, *, signed: bool = False) -> str:
    if found is None:
        return DASH
    sign = "+" if signed else ""
    mean, low, high = (f"{found[key]:{sign}.{digits}f}" for key in ("mean", "low", "high"))
    return " ".join([mean, f"[{low}, {high}]", *([found["verdict"]] if "verdict" in found else [])])
