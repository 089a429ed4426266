"""Run configs: the typed sections, and the YAML files and command-line overrides that fill them."""

from elip.config.loading import config_from_dict, config_to_dict, load_config, save_config
from elip.config.schema import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    ReducerConfig,
    RunConfig,
    Section,
    TaskConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)

__all__ = [
    "DataConfig",
    "EvalConfig",
    "ModelConfig",
    "OptimConfig",
    "ReducerConfig",
    "RunConfig",
    "Section",
    "TaskConfig",
    "TextConfig",
    "TrainConfig",
    "VisionConfig",
    "config_from_dict",
    "config_to_dict",
    "load_config",
    "save_config",
]
