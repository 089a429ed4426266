"""The file of a sweep: which arms are trained with which seeds, and what is asked of each trained model.

It is YAML like a config, and may start from others with `base:`. Paths in it start from its own folder; those inside
the configs that it names are what they are there.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from elip.config.schema import Named, ReducerConfig, Section
from elip.config.sources import Draft, find, read_files
from elip.errors import ConfigError, did_you_mean
from elip.mistakes import Place, explain, spell

PRETRAIN = "pretrain"
"""Name of the first stage unless the file gives another."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")

Share = Annotated[float, Field(gt=0, lt=1)]
"""Of the cost of the sweep's config with all tokens kept."""
Quantity = Literal["vision", "train_step", "training"]
"""What a budget is of: the image encoder's forward pass, a training step with the reduction in force, or its mean over
the whole training."""


SAME = "same"
"""Stands for the reducer that a model was trained with."""


def _spelt_out(value: Any) -> Any:
    """Return `{name: tome}` for `tome`, as in a config."""
    return {"name": value} if isinstance(value, str) and value != SAME else value


Reducer = Annotated[ReducerConfig, BeforeValidator(_spelt_out)]
ReducerOrSame = Annotated[ReducerConfig | Literal["same"], BeforeValidator(_spelt_out)]


def _check_name(name: str) -> None:
    if not _SAFE.fullmatch(name):
        raise ValueError(f"{name!r} names folders: use letters, digits and . _ + - only, a letter or digit first")


class BudgetSection(Section):
    """What arms may cost, so that they can be compared."""

    of: Quantity = "train_step"
    shares: list[Share] = Field(min_length=1)
    """Of the cost of the config with all tokens kept; each arm with a budget is trained once for each of them."""


class ArmSection(Section):
    """What is trained with every seed: the config, changed."""

    reducer: Reducer | None = None
    """Name or mapping; null: the config's. One of the config's name has the config's parameters where it has none."""
    budget: Share | None = None
    """Its own share; null: the reducer as given. Left out: those of the sweep, if there are any, unless the reducer is
    given parameters that set its strength."""
    equal_cost_to: Named | None = None
    """An arm; training is shortened so that all of it costs no more than that arm's. Budgets of the sweep do not
    apply: the reducer is as given, unless the arm has a `budget` of its own."""
    overrides: list[str] = Field([])
    """`key=value`, after those of the sweep."""


class EvaluateSection(Section):
    """How trained models are evaluated."""

    reducer: ReducerOrSame | None = None
    """`same`: that of training; a name or mapping: that one for all arms (`none`: all tokens); null: as configs say."""
    splits: list[Named] = Field(["test"], min_length=1)
    """To evaluate, of those that the config has data for."""
    checkpoint: Literal["best", "last"] = "best"
    """Whose weights are evaluated, and where follow-up tasks start from."""


class FollowUpSection(Section):
    """A task that is trained from what each run of the first stage leaves."""

    name: Named
    """Of the stage."""
    config: Named
    """YAML file of its runs."""
    overrides: list[str] = Field([])
    """`key=value`; those of the sweep are for its own config only."""
    reducer: ReducerOrSame | None = None
    """`same`: the arm's; a name or mapping: that one for all arms; null: its config's."""
    splits: list[Named] | None = Field(None, min_length=1)
    """To evaluate; null: those of the sweep."""


class SlurmSection(Section):
    """What is asked of Slurm for each chain of runs; further parameters of sbatch go under `additional`."""

    partition: Named | None = None
    account: Named | None = None
    qos: Named | None = None
    time: int = Field(24 * 60, gt=0)
    """Minutes."""
    gpus: int = Field(1, ge=0, le=1)
    """Of each job; a run has one at most."""
    cpus: int = Field(8, gt=0)
    mem_gb: float | None = Field(None, gt=0)
    max_jobs: int | None = Field(None, gt=0)
    """Chains that run at once, at most."""
    additional: dict[str, Any] = Field({})


class SweepFile(Section):
    """All that a sweep's file says."""

    name: Named | None = None
    """Of the sweep, and of its folder under runs/; null: that of the file."""
    config: Named
    """YAML file of a run, which all arms start from."""
    stage: Named = PRETRAIN
    """What to call the first stage."""
    overrides: list[str] = Field([])
    """`key=value`, for all arms."""
    seeds: list[Annotated[int, Field(ge=0, le=2**62)]] = Field([1, 2, 3], min_length=1)
    """`train.seed` of runs: the same for all arms, so that they begin alike and see the same data in the same order."""
    budget: BudgetSection | None = None
    """What arms may cost; null: reducers as given."""
    arms: dict[str, ArmSection] = Field(min_length=1)
    """By name, which is also that of the folder."""
    evaluate: EvaluateSection = EvaluateSection()
    then: list[FollowUpSection] = Field([])
    """Tasks to follow, each from the first stage."""
    baseline: Named = "none"
    """The arm that the others are compared with, in what they cost and in what they reach."""
    yardstick: Named | None = "random"
    """The arm that tells what a budget does by itself; null for none, and so if there is no arm of that name."""
    slurm: SlurmSection = SlurmSection()

    @field_validator("name", "stage")
    @classmethod
    def _names_a_folder(cls, value: str | None) -> str | None:
        if value is not None:
            _check_name(value)
        return value

    @field_validator("arms")
    @classmethod
    def _arms_name_folders(cls, value: dict[str, ArmSection]) -> dict[str, ArmSection]:
        for name in value:
            _check_name(name)
        return value

    @field_validator("seeds")
    @classmethod
    def _once(cls, value: list[int]) -> list[int]:
        if len({*value}) < len(value):
            raise ValueError(f"each seed can be there once, got {value}")
        return value

    @model_validator(mode="after")
    def _names_that_exist(self) -> "SweepFile":
        if self.baseline not in self.arms:
            raise ValueError(f"baseline: there is no arm {self.baseline!r}.{did_you_mean(self.baseline, self.arms)}")
        for name, arm in self.arms.items():
            other = arm.equal_cost_to
            if other is not None and other not in self.arms:
                raise ValueError(
                    f"arms.{name}.equal_cost_to: there is no arm {other!r}.{did_you_mean(other, self.arms)}"
                )
            if other is not None and self.arms[other].equal_cost_to is not None:
                raise ValueError(f"arms.{name}.equal_cost_to: {other!r} is itself shortened to the cost of another")
        stages = [self.stage, *(follow_up.name for follow_up in self.then)]
        for stage in stages:
            _check_name(stage)
            if stages.count(stage) > 1:
                raise ValueError(f"then: two stages are called {stage!r}")
        return self


class Sweep:
    """A sweep's file with where it lies.

    Args:
        path: of the file.

    Raises:
        ConfigError: the message names the file, the key, and what is expected there.
    """

    def __init__(self, path: Path) -> None:
        sources = read_files(path)
        self._draft = Draft(sources)
        self.path = find(path)
        self.text = self.path.read_text(encoding="utf-8")
        self.file = _validated(self._draft, SweepFile)
        self.name = self.file.name or _folder_name(path)

    def config_path(self, place: Place, given: str) -> Path:
        """Return where a config lies that the file names at a place.

        Raises:
            ConfigError: there is none.
        """
        keys = tuple(part for part in place if isinstance(part, str))
        source = self._draft.source(keys)
        beside = (source.folder or Path()) / Path(given).expanduser()
        path = beside if beside.exists() else find(Path(given).expanduser())
        if not path.is_file():
            others = [other.name for other in beside.parent.glob("*.y*ml")] if beside.parent.is_dir() else []
            raise ConfigError(
                f"{source.name}: {spell(place)}: there is no config file {beside}.{did_you_mean(beside.name, others)}"
            )
        return path

    def wrong(self, place: Place, message: str) -> ConfigError:
        """Return an error that says what is wrong at a place of the file."""
        return _wrong(self._draft, place, message)


M = TypeVar("M", bound=BaseModel)


def _validated(draft: Draft, model: type[M]) -> M:
    values: Mapping[str, Any] = draft.values
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        place, message = explain(error, values, model)
        raise _wrong(draft, place, message) from error


def _wrong(draft: Draft, place: Place, message: str) -> ConfigError:
    keys = tuple(part for part in place if isinstance(part, str))
    at = f"{spell(place)}: " if place else ""
    return ConfigError(f"{draft.source(keys).name}: {at}{message}")


def _folder_name(path: Path) -> str:
    name = path.stem
    return name if _SAFE.fullmatch(name) else re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip("._+-") or "sweep"
