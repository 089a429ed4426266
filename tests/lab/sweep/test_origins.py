"""Files of data and code that runs are made from, told apart by their content."""

from pathlib import Path

import pytest

from elip.config import config_to_dict, load_config
from elip.config.schema import ReducerConfig
from elip.lab.sweep import counting
from elip.lab.sweep.counting import Counts, fingerprint
from elip.lab.sweep.origins import digest, made_from, plugin_files
from tests.conftest import PROJECT


def test_a_run_is_made_from_its_data_its_plug_ins_and_its_reducer(tmp_path: Path) -> None:
    train, test, mine = (tmp_path / name for name in ("train.json", "test.json", "mine.py"))
    for file in (train, test, mine):
        file.write_text(file.name)
    data = {"train": [str(train), "shards.tar"], "val": ["not evaluated.json"], "test": [str(test)]}
    config = {"data": data, "plugins": [str(mine)], "reducer": {"name": "tome"}}
    before = made_from(config, ["test"])
    assert before.keys() == {str(train), str(test), str(mine), str(PROJECT / "reducers/tome.py")}
    test.write_text("other items")
    after = made_from(config, ["test"])
    assert [file for file in before if before[file] != after[file]] == [str(test)]


def test_files_of_a_package_are_all_that_are_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_package" / "deep").mkdir(parents=True)
    for name in ("__init__.py", "one.py", "deep/two.py"):
        (tmp_path / "some_package" / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert len(plugin_files(["some_package"])) == 3
    assert plugin_files(["some_package.one"]) == [tmp_path / "some_package" / "one.py"]
    assert plugin_files(["no_such_package"]) == []


def test_costs_are_counted_again_when_code_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("first = 1")
    config = load_config(PROJECT / "configs/demo/pretrain.yaml")
    config = config.model_copy(update={"reducer": ReducerConfig(name="none"), "plugins": [str(mine)]})
    other = config.model_copy(update={"plugins": []})
    counted: list[str] = []
    monkeypatch.setattr(counting, "_count", lambda config, _: counted.append(config.reducer.name) or 1.0)
    counts = Counts(None)
    before = fingerprint(config), fingerprint(other)
    counts.train_step(config)
    counts.train_step(config)
    assert len(counted) == 1
    mine.write_text("second = 2")
    counts.train_step(config)
    assert len(counted) == 2
    assert fingerprint(config) != before[0]
    assert fingerprint(other) == before[1]
    monkeypatch.setattr(counting, "reducer_files", lambda _: [mine])
    counts.train_step(other)
    mine.write_text("third = 3")
    counts.train_step(other)
    assert len(counted) == 4
    assert digest([mine]) != digest([])
    assert config_to_dict(config)["plugins"] == [str(mine)]
