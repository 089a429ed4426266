"""Config files and values that no config can be: told at once, in one line."""

import itertools
import os
from pathlib import Path

import pytest

from elip.config import config_from_dict, load_config
from elip.errors import ConfigError
from tests.config.conftest import Load

SORT = "task: {name: test_sort}\n"
LEVELS = "abcdefghi"


def nested_aliases(item: str, level: str) -> str:
    """Return YAML under `x` in which each of nine levels refers to the one below nine times."""
    lines = [f"  a: &a {item}"]
    for below, name in itertools.pairwise(LEVELS):
        lines.append(f"  {name}: &{name} {level.format(', '.join(9 * [f'*{below}']))}")
    return "x:\n" + "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        nested_aliases("[1, 2]", "[{}]"),
        nested_aliases("{k: 1}", "{{<<: [{}]}}"),
    ],
)
def test_aliases_that_stand_for_too_many_values_are_refused(load: Load, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml: .* values, once aliases .* at most 100,000\. Remove") as caught:
        load(SORT + text)
    assert "\n" not in str(caught.value)


def test_aliases_on_the_command_line_and_in_values_at_hand_are_counted_too(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"^command line: x: .* values, once aliases"):
        load(SORT, "x={" + nested_aliases("[1, 2]", "[{}]").removeprefix("x:\n").replace("\n", ",") + "}")
    shared: list = [1, 2]
    for _ in range(30):
        shared = [shared, shared]
    with pytest.raises(ConfigError, match=r"^best\.pt: .* values, once aliases"):
        config_from_dict({"task": {"name": "test_sort"}, "data": {"train": shared}}, source="best.pt")


def test_a_few_aliases_are_fine(load: Load) -> None:
    config = load(SORT + "data: {train: &all [a.json, b.json], val: *all}")
    assert config.data.val == config.data.train == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('data: {image_root: "a\\0b"}', "x.yaml: data.image_root: 'a\\x00b' holds a NUL character"),
        ('data: {train: ["a\\0b"]}', "x.yaml: data.train: 'a\\x00b' holds a NUL character"),
        ('plugins: ["a\\0b.py"]', "x.yaml: plugins: 'a\\x00b.py' holds a NUL character"),
        ('model: {vision: {options: {"a\\0": 1}}}', "x.yaml: model.vision.options: 'a\\x00' holds a NUL character"),
        ('base: "a\\0b"', "x.yaml: 'a\\x00b' holds a NUL character"),
        ('output_dir: "\\ud800"', "x.yaml: output_dir: '\\ud800' is not Unicode text."),
        ("base: ~nobody-of-this-name/x.yaml", "x.yaml: base: there is no config file ~nobody"),
        ("output_dir: 2020-13-45", "x.yaml: a value is not what YAML takes it for: month must be in 1..12. Put it in"),
        ("train: {seed: !!int abc}", "x.yaml: a value is not what YAML takes it for: invalid literal for int()"),
        ("train: {seed: !!bool maybe}", "x.yaml: a value is not what YAML takes it for: 'maybe'."),
        (f"train: {{seed: {'9' * 5000}}}", "x.yaml: a value is not what YAML takes it for: Exceeds the limit"),
        (f"train: {{seed: 0x{'f' * 5000}}}", "x.yaml: train.seed: a whole number of 20000 bits; at most 63 make"),
        (f"data: {'[' * 3000}{']' * 3000}", "x.yaml: the values are nested without end."),
        ("%YAML 3.0\n---\na: 1", "x.yaml"),
        ("a: 1\n---\nb: 2", "x.yaml:3: this is not YAML: but found another document."),
    ],
)
def test_values_that_cannot_be_are_told(load: Load, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text if text.startswith("%") else f"{SORT}{text}")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_is_no_plain_file_is_not_opened(folder: Path) -> None:
    os.mkfifo("pipe.yaml")
    for name in ("pipe.yaml", "/dev/zero", "/dev/null"):
        with pytest.raises(ConfigError, match=rf"cannot read {name}: a config is a plain file"):
            load_config(Path(name))
    Path("x.yaml").write_text("base: pipe.yaml")
    with pytest.raises(ConfigError, match=r"cannot read pipe\.yaml: a config is a plain file"):
        load_config(Path("x.yaml"))


def test_a_huge_file_is_not_read(folder: Path) -> None:
    with Path("weights.yaml").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(
        ConfigError,
        match=r"^weights\.yaml: 3,221,225,472 bytes are too many for a config",
    ):
        load_config(Path("weights.yaml"))


@pytest.mark.parametrize("name", ["a\0b.yaml", "loop.yaml", f"{'long' * 100}.yaml", "no/such/folder/x.yaml", ""])
def test_paths_that_lead_nowhere_are_told(folder: Path, name: str) -> None:
    Path("loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ConfigError):
        load_config(Path(name))
