"""Reading training data to be timed: the visits of a training, in its order."""

import pytest

from elip.benchmark.loading import Reader
from elip.config import load_config
from elip.data.datasets import SampleKey, TrainDataset
from elip.engine.loader import EpochOrder
from elip.errors import ElipError
from tests.conftest import PROJECT

CONFIG = PROJECT / "configs/demo/pretrain.yaml"


def test_what_is_read_are_the_visits_of_a_training(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SampleKey] = []
    load = TrainDataset.__getitem__
    monkeypatch.setattr(TrainDataset, "__getitem__", lambda self, key: seen.append(key) or load(self, key))
    reader = Reader(load_config(CONFIG, [*tiny, "train.seed=3"]), 5)
    assert seen == []
    reader()
    reader()
    samples = len(Reader(load_config(CONFIG, tiny), 1).dataset)
    order = iter(EpochOrder(samples, 1, 1, seed=3))
    assert seen == [next(order)[0] for _ in range(10)]


def test_missing_data_are_told(tiny: list[str]) -> None:
    with pytest.raises(ElipError, match=r"missing\.json"):
        Reader(load_config(CONFIG, [*tiny, "data.train=[missing.json]"]), 1)
