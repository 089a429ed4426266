"""What memory trainings take at several image sizes, with and without reduction, by what is computed again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from elip.config.schema import RunConfig
from elip.efficiency.costed import BASELINE
from elip.execution import Recompute
from elip.lab.scaling.axes import changed
from elip.lab.scaling.memory import Fit


@dataclass(frozen=True)
class Training:
    """A config in one variation, and the memory it takes.

    Args:
        image_size: side of an image, pixels.
        reducer: its name.
        precision: as in `train.precision`.
        fits: by `train.recompute`.
    """

    image_size: int
    reducer: str
    precision: str
    fits: Mapping[str, Fit]


def trainings(config: RunConfig, image_sizes: Sequence[int]) -> Iterator[Training]:
    """Yield variations of a config: image sizes with its reducer and without, and as it is in bf16.

    Args:
        config: to be varied.
        image_sizes: pixels; the config's own comes to them.
    """
    own = config.model.vision.image_size
    reducers = dict.fromkeys((config.reducer.name, BASELINE))
    variations = [(size, name, "fp32") for size in sorted({*image_sizes, own}) for name in reducers]
    for size, name, precision in [*variations, (own, config.reducer.name, "bf16")]:
        overrides = [f"model.vision.image_size={size}", f"train.precision={precision}"]
        if name != config.reducer.name:
            overrides.append(f"reducer.name={name}")
        fits = {how: Fit.of(changed(config, *overrides, f"train.recompute={how}")) for how in get_args(Recompute)}
        yield Training(size, name, precision, fits)
