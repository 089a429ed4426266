"""A run goes on with the data and the words that it began with, or says what is others."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from elip.errors import CheckpointError
from tests.engine.conftest import train
from tests.engine.stub import Points, StubTask, stub_config


def test_another_order_of_the_data_is_refused(tmp_path: Path) -> None:
    train(stub_config(tmp_path))
    with pytest.raises(CheckpointError, match="with 5 steps per epoch, this one has 10, so the order of the data"):
        train(stub_config(tmp_path, batch_size=2), resume=True)


@pytest.mark.parametrize(
    ("length", "change", "message"),
    [
        (21, {}, "with 20 samples, this one has 21"),
        (20, {"batch_size": 5, "save_every": 1}, "with 5 steps per epoch, this one has 4"),
        (20, {"seed": 7}, "with train.seed=42, this one has train.seed=7"),
    ],
)
def test_what_changes_the_order_of_the_data_is_refused(
    tmp_path: Path, length: int, change: dict[str, int], message: str
) -> None:
    train(stub_config(tmp_path, max_steps=3))
    with pytest.raises(CheckpointError, match=message):
        train(stub_config(tmp_path, **change), resume=True, length=length)


def test_another_batch_with_as_many_steps_an_epoch_is_refused(tmp_path: Path) -> None:
    train(stub_config(tmp_path, batch_size=7, max_steps=1))
    with pytest.raises(CheckpointError, match="with 7 samples per step, this one has 8"):
        train(stub_config(tmp_path, batch_size=8), resume=True)


class Files(Points):
    """Points that say which files they come from."""

    def __init__(self, *files: dict[str, Any]) -> None:
        super().__init__(20)
        self._files = files

    def fingerprint(self) -> list[dict[str, Any]]:
        return list(self._files)


def file(name: str, count: int, sha256: str) -> dict[str, Any]:
    return {"file": name, "count": count, "sha256": sha256}


@pytest.fixture
def on_files(tmp_path: Path) -> Callable[..., object]:
    """Trains on a data set of such files, two steps or, resumed, all."""

    def run(*files: dict[str, Any], resume: bool = False) -> object:
        class OfFiles(StubTask):
            def train_dataset(self) -> Dataset:
                return Files(*files)

        return train(stub_config(tmp_path, max_steps=None if resume else 2), resume, kind=OfFiles)

    return run


def test_files_with_other_counts_are_refused_by_name(on_files: Callable[..., object]) -> None:
    on_files(file("a.json", 12, "1"), file("b.json", 8, "2"))
    expected = r"data.train: b.json has 9 items, but it had 8 when .*checkpoint-00000002.pt was written.*--init"
    with pytest.raises(CheckpointError, match=expected):
        on_files(file("a.json", 12, "1"), file("b.json", 9, "2"), resume=True)
    with pytest.raises(CheckpointError, match=r"c.json has 20 items, but a.json in its place had 12"):
        on_files(file("c.json", 20, "1"), file("b.json", 8, "2"), resume=True)
    with pytest.raises(CheckpointError, match=r"a run on 2 files, now there are 1"):
        on_files(file("a.json", 20, "1"), resume=True)


def test_files_with_as_many_other_items_are_warned_of_by_name(
    on_files: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    on_files(file("a.json", 12, "1"), file("b.json", 8, "2"))
    on_files(file("moved/a.json", 12, "1"), file("b.json", 8, "3"), resume=True)
    warnings = [record.getMessage() for record in caplog.records if "other items" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("data.train: b.json holds other items than it did when ")


def test_validation_data_that_changed_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    val = tmp_path / "val.json"
    val.write_text("[1]")
    config = {"data": {"val": [str(val)]}, "max_steps": 2}
    train(stub_config(tmp_path / "run", **config))
    train(stub_config(tmp_path / "run", **config), resume=True)
    assert "val.json" not in caplog.text
    val.write_text("[2]")
    train(stub_config(tmp_path / "run", **config), resume=True)
    assert f"{val} has changed since" in caplog.text


def test_content_that_only_later_versions_keep_is_compared_if_it_is_there(
    on_files: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    on_files(file("a.tar", 12, "1"), {**file("b.tar", 8, "2"), "samples_sha256": "3"})
    on_files(
        {**file("a.tar", 12, "1"), "samples_sha256": "9"}, {**file("b.tar", 8, "2"), "samples_sha256": "4"}, resume=True
    )
    warnings = [record.getMessage() for record in caplog.records if "other items" in record.getMessage()]
    assert [warning.split(" holds")[0] for warning in warnings] == ["data.train: b.tar"]


class Reads(StubTask):
    """The stub, which reads texts by a vocabulary, and answers from a file."""

    words, answers = "1", ""

    def vocabulary(self) -> str:
        return self.words

    def data_files(self) -> Sequence[str]:
        return [self.answers]


def test_another_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(stub_config(tmp_path, max_steps=2), kind=Reads)
    train(stub_config(tmp_path, max_steps=3), resume=True, kind=Reads)
    monkeypatch.setattr(Reads, "words", "2")
    message = r"model\.text\.tokenizer: the vocabulary is not the one that .*checkpoint-00000003\.pt was trained with"
    with pytest.raises(CheckpointError, match=message):
        train(stub_config(tmp_path), resume=True, kind=Reads)


def test_other_files_of_a_task_that_changed_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text('["yes"]')
    monkeypatch.setattr(Reads, "answers", str(answers))
    config = stub_config(tmp_path / "run", max_steps=2)
    train(config, kind=Reads)
    train(config, resume=True, kind=Reads)
    assert "answers.json" not in caplog.text
    answers.write_text('["no"]')
    train(config, resume=True, kind=Reads)
    assert f"{answers} has changed since" in caplog.text
