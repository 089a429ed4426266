"""Which samples come in which order, and what becomes of errors in the workers."""

import logging
import os
import signal
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.data.datasets import SampleKey
from elip.engine import loader
from elip.engine.loader import EpochOrder, TrainLoader, TrainStream, read_batches, samples_in_turn, usable_workers
from elip.errors import DataError
from tests.engine.stub import Points, Stream, collate, stub_config

CPU = torch.device("cpu")


def order_of(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int, **order: Any) -> list[list[SampleKey]]:
    monkeypatch.setattr(loader, "rank", lambda: rank)
    monkeypatch.setattr(loader, "world_size", lambda: world_size)
    return list(EpochOrder(**{"num_samples": 26, "batch_size": 2, "accumulate": 1, "seed": 5, **order}))


def indices(batches: list[dict[str, Any]]) -> list[int]:
    return list(chain.from_iterable(batch["index"].tolist() for batch in batches))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_share_out_each_epoch_without_overlap_and_drop_the_rest(
    monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    steps = 26 // (2 * 3 * accumulate)
    for epoch in range(2):
        span = {"start": epoch * steps, "stop": (epoch + 1) * steps, "accumulate": accumulate}
        ranks = [order_of(monkeypatch, rank, 3, **span) for rank in range(3)]
        keys = [key for batches in ranks for batch in batches for key in batch]
        assert len(set(keys)) == len(keys) == 24
        assert {key.epoch for key in keys} == {epoch}


def test_each_step_takes_the_same_samples_however_they_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = order_of(monkeypatch, 0, 1, batch_size=8, stop=6)
    together = [order_of(monkeypatch, rank, 2, batch_size=2, accumulate=2, stop=6) for rank in range(2)]
    for step, batch in enumerate(alone):
        passes = [together[rank][2 * step + i] for i in range(2) for rank in range(2)]
        assert list(chain.from_iterable(passes)) == batch


def test_any_step_can_be_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = order_of(monkeypatch, 1, 2, stop=20)
    assert order_of(monkeypatch, 1, 2, start=7, stop=20) == whole[7:]


def test_epochs_and_seeds_have_orders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (order_of(monkeypatch, 0, 1, start=13 * epoch, stop=13 * (epoch + 1)) for epoch in range(2))
    other = order_of(monkeypatch, 0, 1, stop=13, seed=6)
    orders = [[key.index for batch in order for key in batch] for order in (first, second, other)]
    assert [sorted(order) for order in orders] == [[*range(26)]] * 3
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_do_not_depend_on_workers_nor_touch_the_random_state(tmp_path: Path, num_workers: int) -> None:
    config = stub_config(tmp_path, data={"num_workers": num_workers})
    before = torch.get_rng_state()
    batches = list(TrainLoader(Points(20), collate, config, CPU).batches(3, 9))
    assert torch.equal(torch.get_rng_state(), before)
    expected = [Points(20)[key]["x"] for batch in EpochOrder(20, 4, 1, 42, 3, 9) for key in batch]
    assert torch.equal(torch.cat([batch["x"] for batch in batches]), torch.stack(expected))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_goes_on_in_mid_epoch(tmp_path: Path, num_workers: int) -> None:
    assert isinstance(Stream(20, 4), TrainStream)
    config = stub_config(tmp_path, data={"num_workers": num_workers})
    batches = list(TrainLoader(Stream(20, 4), collate, config, CPU).batches(3, 9))
    assert indices(batches) == [*range(12, 20), *range(16)]


def test_samples_come_one_by_one_in_an_order_of_training_without_end() -> None:
    def order(dataset: Any, seed: int, number: int) -> list[int]:
        return [sample["index"] for sample in islice(samples_in_turn(dataset, seed), number)]

    one, other = order(Points(5), 0, 10), order(Points(5), 1, 10)
    assert sorted(one[:5]) == sorted(one[5:]) == [*range(5)]
    assert one[:5] != one[5:]
    assert one != other
    assert order(Stream(20, 4), 0, 22) == [*range(20), 0, 1]


def test_a_stream_that_ends_too_soon_is_an_error(tmp_path: Path) -> None:
    batches = TrainLoader(Stream(18, 4), collate, stub_config(tmp_path), CPU).batches(0, 9)
    with pytest.raises(DataError, match="process 0 got 4 batches for the rest of epoch 0, of 5"):
        list(batches)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_stream_keeps_its_words(tmp_path: Path, num_workers: int) -> None:
    config = stub_config(tmp_path, data={"num_workers": num_workers})
    batches = TrainLoader(Stream(20, 4, fails_at=6), collate, config, CPU).batches(0, 5)
    with pytest.raises(DataError, match=r"^sample 6 is broken$"):
        list(batches)


class Troubled(Points):
    """Points one of which has trouble."""

    def __init__(self, trouble: Any) -> None:
        super().__init__(20)
        self._trouble = trouble

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        if key.index == 9:
            self._trouble()
        return super().__getitem__(key)


def fail() -> None:
    raise DataError("item 9 is broken")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_sample_keeps_its_words(tmp_path: Path, num_workers: int) -> None:
    config = stub_config(tmp_path, data={"num_workers": num_workers})
    with pytest.raises(DataError, match=r"^item 9 is broken$"):
        list(TrainLoader(Troubled(fail), collate, config, CPU).batches(0, 5))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_collation_keeps_its_words(tmp_path: Path, num_workers: int) -> None:
    config = stub_config(tmp_path, data={"num_workers": num_workers})
    with pytest.raises(DataError, match=r"^item 9 is broken$"):
        list(TrainLoader(Points(20), lambda samples: fail(), config, CPU).batches(0, 5))


def test_workers_live_on_when_the_whole_job_is_told_to_stop(tmp_path: Path) -> None:
    def told_to_stop() -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(os.getpid(), number)

    config = stub_config(tmp_path, data={"num_workers": 1})
    batches = list(TrainLoader(Troubled(told_to_stop), collate, config, CPU).batches(0, 5))
    assert sorted(indices(batches)) == [*range(20)]


@pytest.mark.parametrize(
    ("asked", "cpus", "processes", "started"),
    [(4, 2, 1, 2), (4, 8, 1, 4), (4, 8, 4, 2), (4, 2, 8, 1), (0, 8, 1, 0), (1, 1, 1, 1)],
)
def test_no_more_workers_start_than_a_process_has_cpus_for(
    monkeypatch: pytest.MonkeyPatch, asked: int, cpus: int, processes: int, started: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert usable_workers(asked) == started


def test_fewer_workers_than_asked_for_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    caplog.set_level(logging.INFO)
    train_loader = TrainLoader(Points(20), collate, stub_config(tmp_path, data={"num_workers": 4}), CPU)
    assert train_loader.num_workers == 1
    assert "data.num_workers=4 is more than the CPUs" in caplog.text
    assert len(list(train_loader.batches(0, 5))) == 5


def test_workers_are_gone_when_the_batches_are_closed() -> None:
    keys = [[SampleKey(0, index)] for index in range(20)]
    batches = read_batches(Points(20), collate, 1, CPU, batch_sampler=keys)
    assert indices(list(islice(batches, 2))) == [0, 1]
    iterator = batches.gi_frame.f_locals["iterator"]
    (worker,) = iterator._workers
    assert worker.is_alive()
    batches.close()
    assert not worker.is_alive()
