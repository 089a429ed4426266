"""A sweep's folder as if it had been run: scores of items with effects of arms, seeds and items that are known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PICTURES, CAPTIONS = 60, 5


def make_sweep(
    out: Path,
    arms: Mapping[str, float],
    *,
    seeds: Sequence[int] = (1, 2, 3),
    budgets: Mapping[str, float] | None = None,
    costs: Mapping[str, float] | None = None,
    stages: Sequence[str] = ("pretrain",),
    failed: Sequence[tuple[str, int]] = (),
    with_scores: bool = True,
    **record: Any,
) -> Path:
    """Make the folder and return it.

    Args:
        out: to make.
        arms: what each reaches, in percent.
        seeds: of all arms; one moves all arms alike, and each by something of its own.
        budgets: of some arms.
        costs: of arms, as shares of the first one's.
        stages: one after the other, each some points better.
        failed: arms and seeds whose runs have failed.
        with_scores: whether evaluations left scores of items.
        record: what else to write in `sweep.json`.
    """
    random, runs = np.random.default_rng(0), []
    items = random.normal(0, 20, PICTURES)
    common = {seed: random.normal(0, 2) for seed in seeds}
    for arm, reached in arms.items():
        for seed in seeds:
            for number, stage in enumerate(stages):
                folder = Path("runs") / arm / f"seed-{seed}" / stage
                row = {"arm": arm, "seed": seed, "stage": stage, "folder": str(folder), "split": "test"}
                if (arm, seed) in failed:
                    runs.append({**row, "status": "failed", "error": "no space | left", "seconds": None})
                    continue
                level = reached + 5 * number + common[seed] + random.normal(0, 0.5)
                leave_run(out / folder, arm, seed, level + items + random.normal(0, 5, PICTURES), with_scores)
                runs.append({**row, "status": "done", "error": None, "seconds": 12.5})
    known = [{"name": name, "label": f"{name} r=1", "budget": (budgets or {}).get(name)} for name in arms]
    known = [{**row, "section": row["name"].rsplit("-", 1)[0]} for row in known]
    whole = {"name": "made-up", "file": "", "baseline": "none", "yardstick": "random", "stages": list(stages)}
    content = {**whole, "arms": known, "seeds": list(seeds), "runs": runs, **record}
    (out / "sweep.json").write_text(json.dumps(content))
    shares = costs if costs is not None else {name: 1.0 - 0.05 * place for place, name in enumerate(arms)}
    (out / "costs.json").write_text(json.dumps({"arms": {name: cost_of(share) for name, share in shares.items()}}))
    return out


def leave_run(folder: Path, arm: str, seed: int, values: np.ndarray, with_scores: bool) -> None:
    """Leave what a run leaves whose captions all score as their picture does."""
    evaluation = folder / "eval" / "test"
    evaluation.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"task: {{name: retrieval}}\nreducer: {{name: {arm.rsplit('-', 1)[0]}}}\ntrain: {{seed: {seed}}}\n"
    )
    value = float(values.mean())
    (evaluation / "metrics.json").write_text(json.dumps({"r_mean": value}))
    (evaluation / "chance.json").write_text(json.dumps({"r_mean": 2.5}))
    about = {"checkpoint": "best.pt", "step": 300, "headline": "r_mean", "reducer": "none", "note": None}
    (evaluation / "about.json").write_text(json.dumps(about))
    if with_scores:
        pictures = [f"{number}.png" for number in range(len(values))]
        parts = [
            {"values": values.tolist(), "clusters": pictures, "weight": 0.5},
            {
                "values": values.repeat(CAPTIONS).tolist(),
                "clusters": np.repeat(pictures, CAPTIONS).tolist(),
                "weight": 0.5,
            },
        ]
        (evaluation / "scores.json").write_text(json.dumps(parts))
    steps = [(step, value * (1 - 0.5 ** (step / 60)) + (seed * step) % 7 / 3) for step in range(50, 301, 50)]
    log = [{"event": "eval", "step": step, "split": "val", "metrics": {"r_mean": reached}} for step, reached in steps]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))


def cost_of(share: float) -> dict[str, Any]:
    """Return what `costs.json` says of an arm whose training step costs a share of the baseline's."""
    inference, time = 0.4 + 0.6 * share, 0.2 + 0.8 * share
    return {
        "inference_gmacs": 0.2 * inference,
        "inference_ratio": inference,
        "train_step_gmacs": 1.5 * share,
        "train_step_ratio": share,
        "train_gmacs": 1.5 * share,
        "train_ratio": share,
        "steps": 300,
        "saved_bytes": 4e6 * share,
        "saved_bytes_ratio": share,
        "time_ratio": time,
        "time_ratio_range": [time * 0.95, time * 1.08],
        "machine": "2 cores",
    }
