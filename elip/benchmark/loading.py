"""Reading what a config trains on, from files to tensors, by one process."""

from elip.config.schema import RunConfig
from elip.engine.loader import samples_in_turn
from elip.errors import ConfigError
from elip.registry import TASKS
from elip.task.preflight import dry_build, without_weights


class Reader:
    """Loads so many samples of a config's training data at each call, changed as training changes them.

    Args:
        config: with training data.
        samples: of a call.

    Raises:
        ElipError: the task cannot be built, or its data are missing.

    Attributes:
        dataset: that it reads.
    """

    def __init__(self, config: RunConfig, samples: int) -> None:
        if not config.data.train:
            raise ConfigError("data.train: name at least one file to load from: data.train=[FILE].")
        task = dry_build(config) or TASKS.build(config.task.name, without_weights(config))
        self.dataset = task.train_dataset()
        self._samples = samples_in_turn(self.dataset, config.train.seed)
        self._count = samples

    def __call__(self) -> None:
        for _ in range(self._count):
            next(self._samples)
