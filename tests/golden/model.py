"""The models that the reference numbers were made with, in our names."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from elip.config.schema import DataConfig, ModelConfig, ReducerConfig, RunConfig, TaskConfig, TextConfig, VisionConfig
from elip.registry import TASKS
from elip.task import Task
from elip.weights.names import from_albef


def golden_config(folder: Path, task: dict[str, Any], reducer: dict[str, Any]) -> RunConfig:
    """Return the run that `meta.json` describes, with the given task and reducer."""
    meta = json.loads((folder / "meta.json").read_text())
    sizes, vit = meta["config"], meta["vit"]
    bert = json.loads((folder / meta["bert"]).read_text())
    fusion_layer = bert.pop("fusion_layer")
    for key in ("encoder_width", "architectures", "model_type"):
        bert.pop(key)
    vision = VisionConfig(
        name="vit_base_patch16_224",
        image_size=vit["img_size"],
        options={key: vit[key] for key in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")},
    )
    config_class: type[TaskConfig] = TASKS.get(task["name"]).Config
    return RunConfig(
        task=config_class(**task),
        model=ModelConfig(
            vision=vision, text=TextConfig(fusion_layer=fusion_layer, options=bert), embed_dim=sizes["E"]
        ),
        reducer=ReducerConfig(**reducer),
        data=DataConfig(),
    )


def golden_elip(folder: Path) -> dict[str, Any]:
    """Return the ELIP reducer of the reference numbers."""
    sizes = json.loads((folder / "meta.json").read_text())["config"]
    return {"name": "elip", "begin": sizes["begin"], "look_ahead": sizes["act"], "keep_ratio": sizes["keep"]}


def queue_size(folder: Path) -> int:
    """Return how many features the queues of the reference hold."""
    return json.loads((folder / "meta.json").read_text())["config"]["Q"]


def golden_task(folder: Path, task: dict[str, Any], reducer: dict[str, Any], weights: str) -> Task:
    """Return the task with the reference's weights, in evaluation mode (the reference had dropout off)."""
    built = TASKS.build(task["name"], golden_config(folder, task, reducer))
    found = from_albef(load_file(folder / weights))
    state = {f"model.{name}": found[name] for name in found}
    missing, unexpected = built.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("queues.filled") or "mlm_head" in name for name in missing), missing
    return built.eval()
