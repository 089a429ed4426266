"""The report of a sweep: tables with intervals and verdicts, files for spreadsheets, pictures, TensorBoard's table."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

from elip.atomic import write_atomically, write_text
from elip.efficiency.report import Table, as_markdown
from elip.lab.report.hparams import write_hparams
from elip.lab.report.plots import curves, differences, metric_of, trade_offs
from elip.lab.report.results import Arm, Estimate, RunResult, SweepResults

REPORT, RUNS, SUMMARY = "report.md", "results.csv", "summary.csv"
_PICTURES = ("png", "svg")
_DASH = "-"
_STEADY = 2.0
"""Highest over lowest ratio of times, over rounds, up to which the median is worth a figure."""
Row = dict[str, Any]


def write_report(out: Path) -> Path:
    """Write what a sweep came to, as far as it is done, into its folder, and return the path of `report.md`.

    Beside it: `results.csv` with a row a run, `summary.csv` with one for each stage, split and arm, and pictures. What
    `tensorboard --logdir` needs to set runs side by side under HPARAMS lies in their own folders.

    Args:
        out: folder of the sweep.

    Raises:
        DataError: `sweep.json` or `costs.json` is missing or damaged. Runs that are, are reported as failed.
        ElipError: a file cannot be written.
    """
    results = SweepResults(out)
    summary = [row for place in results.tables for row in _summary(results, *place)]
    write_text(out / RUNS, _csv([_run_row(run) for run in results.runs]))
    write_text(out / SUMMARY, _csv(summary))
    parts = [f"# {results.name}", "", *_heading(results)]
    for stage, split in results.tables:
        pictures = _pictures(results, stage, split, out)
        rows = [row for row in summary if (row["stage"], row["split"]) == (stage, split)]
        parts += ["", *_section(results, stage, split, rows, pictures)]
    parts += ["", as_markdown(_costs(results)), *_cost_notes(results), "", *_notes(results)]
    write_text(out / REPORT, "\n".join(parts) + "\n")
    write_hparams(results)
    return out / REPORT


def _heading(results: SweepResults) -> list[str]:
    done = len(results.runs) - len(results.failed) - len(results.missing)
    seeds = ", ".join(map(str, results.seeds))
    lines = [f"{done} of {len(results.runs)} runs are done; seeds {seeds}."]
    if results.failed:
        lines.append(f"**{len(results.failed)} failed** (see below); figures are those of the others.")
    if results.missing:
        lines.append(f"{len(results.missing)} are not done yet; figures are those of the others.")
    return lines


def _summary(results: SweepResults, stage: str, split: str) -> Iterable[Row]:
    """Yield a row for each arm: all that is known of it, in plain values."""
    for arm in results.arms:
        mean = results.mean(arm, stage, split)
        yield {
            "stage": stage,
            "split": split,
            "metric": metric_of(results, stage, split),
            "arm": arm.name,
            "reducer": arm.label,
            "budget": arm.budget,
            "seeds": 0 if mean is None else len(mean.seeds),
            **_figures("", mean),
            **_compared("baseline", results, arm, results.baseline_arm, stage, split),
            **_compared("yardstick", results, arm, results.comparable(arm), stage, split),
            "training_share": results.training_share(arm),
            "inference_share": results.inference_share(arm, stage, split),
            **{key: value for key, value in arm.costs.items() if key != "time_ratio_range"},
        }


def _compared(what: str, results: SweepResults, arm: Arm, other: Arm | None, stage: str, split: str) -> Row:
    found = results.difference(arm, other, stage, split)
    return {
        what: None if other is None or other.name == arm.name else other.name,
        **_figures(f"minus_{what}_", found),
        f"{what}_seeds": 0 if found is None else len(found.seeds),
        f"{what}_verdict": found.verdict if found else None,
    }


def _figures(prefix: str, found: Estimate | None) -> Row:
    value = found.value if found else None
    bounds = (value.low, value.high) if value and isfinite(value.low) else (None, None)
    return {
        f"{prefix}mean": value.mean if value else None,
        f"{prefix}low": bounds[0],
        f"{prefix}high": bounds[1],
        f"{prefix}interval_over": found.over if found else None,
    }


def _section(
    results: SweepResults, stage: str, split: str, rows: Sequence[Row], pictures: Mapping[str, str]
) -> list[str]:
    metric = metric_of(results, stage, split)
    if not metric:
        return [f"## {stage}, {split}", "", "No run is done."]
    header = ["arm", "reducer", "seeds", f"{metric} [95%]", f"minus {results.baseline}"]
    yardstick = _yardstick(rows, results.yardstick)
    if yardstick:
        header.append(f"minus {yardstick}")
    header.append("training")
    cells = [
        [
            row["arm"],
            _safe(row["reducer"]),
            str(row["seeds"]),
            _interval(row, "", ""),
            _difference(row, "baseline"),
            *([_difference(row, "yardstick")] if yardstick else []),
            _number(row["training_share"], "{:.2f}"),
        ]
        for row in rows
    ]
    chance = {
        run.outcome.chance for arm in results.arms for run in results.done(arm, stage, split).values() if run.outcome
    }
    by_chance = f"; by chance {min(c for c in chance if c is not None):.3g}" if chance - {None} else ""
    title = f"{metric} on {split}{by_chance}; training: all of it in MACs, as a share of {results.baseline}"
    said = [_in_words(rows, "baseline", results.baseline), _in_words(rows, "yardstick", yardstick)]
    return [
        f"## {stage}, {split}",
        "",
        as_markdown(Table(title, header, cells)),
        *[line for line in said if line],
        *[line for name, path in pictures.items() for line in ("", f"![{name}]({path})")],
    ]


def _yardstick(rows: Sequence[Row], name: str | None) -> str:
    """Return what the yardstick is called, as what it costs is the same by plan only where there are budgets."""
    budgets = [row["budget"] for row in rows if row["yardstick"]]
    if not budgets:
        return ""
    return f"{name}, which may cost another amount" if None in budgets else f"{name} at the same budget"


def _in_words(rows: Sequence[Row], what: str, name: str) -> str:
    """Return which arms are better, alike and worse."""
    groups: dict[str, list[str]] = {"better": [], "tie": [], "worse": []}
    for row in rows:
        if row[f"{what}_verdict"]:
            groups[row[f"{what}_verdict"]].append(row["arm"])
    if not any(groups.values()):
        return ""
    words = {"better": f"Better than {name}", "tie": f"A tie with {name}", "worse": f"Worse than {name}"}
    return " ".join(f"{words[kind]}: {', '.join(arms)}." for kind, arms in groups.items() if arms) + "\n"


def _difference(row: Row, what: str) -> str:
    if row[f"minus_{what}_mean"] is None:
        return _DASH
    seeds = row[f"{what}_seeds"]
    fewer = f" ({seeds} seed{'s' if seeds > 1 else ''})" if seeds < row["seeds"] else ""
    return f"{_interval(row, f'minus_{what}_', '+')} {row[f'{what}_verdict'] or ''}".rstrip() + fewer


def _interval(row: Row, prefix: str, sign: str) -> str:
    mean, low, high = (row[f"{prefix}{key}"] for key in ("mean", "low", "high"))
    if mean is None:
        return _DASH
    form = f"{{:{sign}.{1 if abs(row['mean']) >= 10 else 3}f}}"
    return form.format(mean) + ("" if low is None else f" [{form.format(low)}, {form.format(high)}]")


def _costs(results: SweepResults) -> Table:
    columns: dict[str, Callable[[Arm], str]] = {
        "budget": lambda arm: _number(arm.budget, "{:g}"),
        "inference": lambda arm: _with_ratio(arm, "inference_gmacs", "inference_ratio"),
        "training step": lambda arm: _with_ratio(arm, "train_step_gmacs", "train_step_ratio"),
        "mean of training": lambda arm: _with_ratio(arm, "train_gmacs", "train_ratio"),
        "steps": lambda arm: _number(arm.cost("steps"), "{:.0f}"),
        "all of training": lambda arm: _number(results.training_share(arm), "{:.2f}"),
        "time of a step": _time,
        "saved MB": lambda arm: _with_ratio(arm, "saved_bytes", "saved_bytes_ratio", 1e-6),
    }
    rows = [[arm.name, *(cell(arm) for cell in columns.values())] for arm in results.arms]
    title = f"What arms cost: GMACs an image (and share of {results.baseline})"
    return Table(title, ["arm", *columns], rows)


def _cost_notes(results: SweepResults) -> list[str]:
    machines = list(dict.fromkeys(str(arm.costs["machine"]) for arm in results.arms if arm.costs.get("machine")))
    time = f"Time: a whole training step with the reduction in force, in turn with one of {results.baseline} in one "
    return [
        "Training step: forward and backward, the reduction in force. Mean of training: over its steps, schedules, "
        "warm-up and `until` counted. Saved: what one image keeps for the backward pass.",
        *([f"{time}process, median (range); {'; '.join(machines)}."] if machines else []),
        *(["Costs are those of the first stage."] if len(results.stages) > 1 else []),
    ]


def _time(arm: Arm) -> str:
    ratio, bounds = arm.cost("time_ratio"), arm.costs.get("time_ratio_range")
    if ratio is None:
        return _DASH
    return f"{ratio:.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else "")


def _with_ratio(arm: Arm, key: str, ratio: str, unit: float = 1.0) -> str:
    value, share = arm.cost(key), arm.cost(ratio)
    if value is None:
        return _DASH
    return f"{value * unit:.4g}" + ("" if share is None else f" ({share:.2f})")


def _notes(results: SweepResults) -> list[str]:
    """Return what is to be known of the figures."""
    notes = [*_on_intervals(results), *_on_weights(results), *_on_inference(results), *_on_times(results)]
    if results.changed_files:
        notes.append(
            f"**Changed while the sweep went on: {_safe(', '.join(results.changed_files))}. Runs from before and after "
            "that do not compare: remove the former, and run the sweep again.**"
        )
    for run in results.failed:
        notes.append(f"Failed: {_name(run)}: {_safe(run.error or 'no reason is recorded')}")
    if results.missing:
        notes.append("Not done: " + "; ".join(f"{_name(run)} ({run.status})" for run in results.missing) + ".")
    return ["## Notes", "", *(f"- {note}" for note in notes)]


def _on_intervals(results: SweepResults) -> list[str]:
    found = [
        figure
        for place in results.tables
        for arm in results.arms
        for figure in (
            results.mean(arm, *place),
            results.difference(arm, results.baseline_arm, *place),
            results.difference(arm, results.comparable(arm), *place),
        )
    ]
    kinds = {one.over for one in found if one is not None}
    notes = []
    if "items and seeds" in kinds:
        notes.append(
            "Intervals are of 95%, over items and seeds: both are resampled, each by itself, and the result is widened "
            "to what so few seeds ask for (`elip/lab/statistics.py`). Items of one picture are drawn together. They "
            "hold for other seeds and other items of this kind, not for other data or longer training."
        )
    if "items" in kinds:
        notes.append(
            "**Intervals of one seed are over items alone: they do not cover other seeds, so there is no verdict.**"
        )
    if "seeds" in kinds:
        notes.append(
            "Where an evaluation left no scores of items, or not of the same ones, intervals are Student's over seeds: "
            "they do not cover other items."
        )
    if None in kinds:
        notes.append("Where there is a single seed and no scores of items, there is no interval, and no verdict.")
    notes.append(
        "Differences are paired: same seed, same items. One within its interval is a tie. Each stands for itself: "
        "of 20 that are nothing, one is called better or worse by chance."
    )
    return notes


def _on_inference(results: SweepResults) -> list[str]:
    """Return which arms were evaluated with all tokens, though their inference is counted with fewer."""
    kept = [
        arm.name
        for arm in results.arms
        if any(results.inference_share(arm, *place) != arm.cost("inference_ratio") for place in results.tables)
    ]
    if not kept:
        return []
    return [
        f"Inference is counted with whatever a reducer needs at hand. These evaluations kept all tokens, which "
        f"costs as much as {results.baseline}, and so the picture has it: {', '.join(kept)}."
    ]


def _on_times(results: SweepResults) -> list[str]:
    """Return a warning where rounds of timing differ so much that their median says little."""
    ranges = [bounds for arm in results.arms if (bounds := arm.costs.get("time_ratio_range"))]
    widest = max((high / low for low, high in ranges if low > 0), default=1.0)
    if widest <= _STEADY:
        return []
    return [
        f"**Times of steps say little: single rounds differ by up to {widest:.1f} times, as on a busy machine. "
        "Remove times.json, and call the same command when nothing else runs.**"
    ]


def _on_weights(results: SweepResults) -> list[str]:
    """Return by which weights and under which reducer evaluations were made, and what else runs have to remark."""
    done = [run for run in results.runs if run.outcome is not None]
    said: dict[str, list[str]] = {}
    for run in done:
        assert run.outcome is not None
        reducer = run.outcome.eval_reducer
        under = "that of training" if reducer == run.outcome.train_reducer else reducer or "not recorded"
        weights = run.outcome.checkpoint or "not recorded"
        said.setdefault(f"Evaluated: weights {weights}, reducer {_safe(under)}", []).append(run.arm)
        for remark in run.outcome.remarks:
            said.setdefault(_safe(remark), []).append(run.arm)
    everybody = {run.arm for run in done}
    return [
        f"{text} ({'all arms' if {*arms} == everybody else ', '.join(dict.fromkeys(arms))})."
        for text, arms in said.items()
    ]


def _pictures(results: SweepResults, stage: str, split: str, out: Path) -> dict[str, str]:
    """Write the pictures of a stage, and return their names with the files to show."""
    shown = {}
    for name, draw in (("differences", differences), ("cost", trade_offs), ("curves", curves)):
        for kind, content in draw(results, stage, split, _PICTURES).items():
            path = out / f"{stage}-{split}-{name}.{kind}"
            write_atomically(path, partial(_put, content))
            if kind == _PICTURES[0]:
                shown[f"{stage}, {split}: {name}"] = path.name
    return shown


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _run_row(run: RunResult) -> Row:
    outcome = run.outcome
    return {
        "arm": run.arm,
        "reducer": run.label,
        "seed": run.seed,
        "stage": run.stage,
        "split": run.split,
        "status": run.status,
        **{
            key: getattr(outcome, key, None)
            for key in ("metric", "value", "chance", "checkpoint", "step", "eval_reducer", "eval_gmacs")
        },
        "items": None if run.scores is None else len(run.scores),
        "seconds": run.seconds,
        "folder": str(run.folder),
        "error": run.error,
    }


def _name(run: RunResult) -> str:
    return f"{run.arm}, seed {run.seed}, {run.stage}, {run.split}"


def _number(value: float | None, form: str) -> str:
    return _DASH if value is None else form.format(value)


def _safe(text: str) -> str:
    """Return a text that stands in a cell of a markdown table, on one line."""
    return " ".join(text.split()).replace("|", r"\|")


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
