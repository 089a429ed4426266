"""What the file of a sweep may say, and how a slip in it is told."""

from pathlib import Path

import pytest

from elip.errors import ConfigError
from elip.lab.sweep.file import Sweep

GOOD = """
config: mine.yaml
seeds: [1, 2]
budget: {shares: [0.6]}
arms:
  none: {reducer: none}
  random: {reducer: {name: random, begin: [0]}}
  tome: {reducer: tome, budget: null}
  none-short: {reducer: none, equal_cost_to: tome}
then: [{name: retrieval, config: other.yaml, reducer: same}]
"""


def write(folder: Path, text: str, name: str = "lab.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    for config in ("mine.yaml", "other.yaml"):
        (folder / config).write_text("task: pretrain\n")
    return path


def test_reducers_may_be_bare_names_and_the_rest_has_defaults(tmp_path: Path) -> None:
    sweep = Sweep(write(tmp_path, GOOD))
    arms = sweep.file.arms
    assert arms["random"].reducer.params == {"begin": [0]}
    assert arms["tome"].reducer.name == "tome"
    assert "budget" in arms["tome"].model_fields_set
    assert "budget" not in arms["random"].model_fields_set
    assert sweep.file.then[0].reducer == "same"
    assert (sweep.name, sweep.file.baseline, sweep.file.evaluate.splits) == ("lab", "none", ["test"])
    assert sweep.config_path(("config",), sweep.file.config) == tmp_path / "mine.yaml"


def test_a_file_may_start_from_another_one(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", GOOD)
    more = "base: below/lab.yaml\nseeds: [7]\narms:\n  tome: {overrides: [train.epochs=1]}\n"
    sweep = Sweep(write(tmp_path, more, "more.yaml"))
    assert sweep.file.seeds == [7]
    assert list(sweep.file.arms) == ["none", "random", "tome", "none-short"]
    assert sweep.file.arms["tome"].overrides == ["train.epochs=1"]
    assert sweep.config_path(("config",), sweep.file.config) == tmp_path / "below" / "mine.yaml"


def test_a_config_of_the_toolkit_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = Sweep(write(tmp_path, GOOD.replace("mine.yaml", "configs/demo/pretrain.yaml")))
    assert sweep.config_path(("config",), sweep.file.config).is_file()


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("seeds: [1, 2]", "seeds: [1, 1]", "seeds: each seed can be there once, got [1, 1]."),
        ("seeds: [1, 2]", "seeds: 1", "seeds: expected a list, got 1. For a list of one, write [1]."),
        ("shares: [0.6]", "shares: [1.5]", "budget.shares[0]: expected a number below 1.0, got 1.5."),
        ("shares: [0.6]", "of: steps", "budget.of: expected 'vision', 'train_step' or 'training', got 'steps'."),
        ("tome: {reducer: tome, budget: null}", "tome: {reducr: tome}", "arms.tome.reducr: unknown key."),
        ("tome: {reducer: tome, budget: null}", "to/me: {}", "arms: 'to/me' names folders: use letters"),
        ("equal_cost_to: tome", "equal_cost_to: tomme", "arms.none-short.equal_cost_to: there is no arm 'tomme'. Did"),
        ("equal_cost_to: tome", "equal_cost_to: none-short", "equal_cost_to: 'none-short' is itself shortened"),
        ("  none: {reducer: none}\n", "", "baseline: there is no arm 'none'."),
        ("name: retrieval", "name: pretrain", "then: two stages are called 'pretrain'."),
        ("config: mine.yaml\n", "", "config: this key is required."),
        ("arms:", "arms:\n  random: {}", 'key given twice: "random"'),
    ],
)
def test_a_slip_is_told_by_file_and_key(was: str, now: str, said: str, tmp_path: Path) -> None:
    assert was in GOOD
    path = write(tmp_path, GOOD.replace(was, now, 1))
    with pytest.raises(ConfigError) as raised:
        Sweep(path)
    assert str(raised.value).startswith(f"{path}:")
    assert said in str(raised.value)


def test_a_config_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    sweep = Sweep(write(tmp_path, GOOD))
    with pytest.raises(
        ConfigError, match=r"lab\.yaml: config: there is no config file .*mine\.yml\. Did you mean 'mine"
    ):
        sweep.config_path(("config",), "mine.yml")
