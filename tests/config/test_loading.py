from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elip.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TextConfig,
    VisionConfig,
    config_from_dict,
    config_to_dict,
    load_config,
    save_config,
)
from elip.errors import ConfigError
from tests.config.conftest import Load

SORT = "task: {name: test_sort}\n"


def message_of(load: Load, text: str, *overrides: str, **others: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides, **others)
    return str(caught.value)


def test_a_file_that_names_a_task_gets_all_defaults(load: Load) -> None:
    config = load(SORT)
    assert config == RunConfig(task=config.task)
    own = {"name": "test_sort", "speed": 3, "order": "rising", "limits": [0.0, 1.0]}
    assert config_to_dict(config)["task"] == {"loss_weights": {}, **own}


def test_the_sections_of_task_and_reducer_reach_their_owners(load: Load) -> None:
    config = load("task: {name: test_sort, speed: 5}\nreducer: {name: test_half, keep_ratio: [0.7], strict: true}")
    assert type(config.task).__name__ == "SortConfig"
    assert config_to_dict(config)["task"]["speed"] == 5
    assert config.reducer.params == {"keep_ratio": [0.7]}
    assert config.reducer.strict


def test_a_bare_name_stands_for_a_section_with_that_name(load: Load) -> None:
    config = load("task: test_sort\nreducer: test_half\neval: {reducer: test_third}")
    assert config == load("task: {name: test_sort}\nreducer: {name: test_half}\neval: {reducer: {name: test_third}}")


def test_whole_numbers_are_taken_for_floats_and_lists_for_tuples(load: Load) -> None:
    config = load(SORT + "optim: {lr: 1, betas: [0, 0.5]}")
    assert config.optim.lr == 1.0
    assert isinstance(config.optim.lr, float)
    assert config.optim.betas == (0.0, 0.5)


def test_an_override_is_yaml_and_wins_over_the_file(load: Load) -> None:
    config = load(
        SORT + "optim: {lr: 1e-3}\ntrain: {max_steps: 9}",
        "optim.lr=5e-5",
        "data.train=[a.json,b.json]",
        "train.max_steps=null",
        "data.flip=false",
        "output_dir=runs/a=b",
    )
    assert config.optim.lr == 5e-5
    assert config.data.train == ["a.json", "b.json"]
    assert config.train.max_steps is None
    assert config.data.flip is False
    assert config.output_dir == "runs/a=b"


def test_overrides_reach_into_free_form_mappings(load: Load) -> None:
    config = load(
        SORT + "model: {vision: {options: {depth: 12, num_heads: 3}}}\nreducer: {name: test_half}",
        "model.vision.options.depth=6",
        "reducer.keep_ratio=[0.9,0.5]",
    )
    assert config.model.vision.options == {"depth": 6, "num_heads": 3}
    assert config.reducer.params == {"keep_ratio": [0.9, 0.5]}


def test_of_two_overrides_of_one_key_the_last_wins(load: Load) -> None:
    assert load(SORT, "train.seed=1", "train.seed=2").train.seed == 2


def test_a_file_is_merged_onto_its_base(load: Load) -> None:
    config = load(
        "base: low.yaml\noptim: {lr: 3e-4}\ndata: {val: [v.json]}",
        low=SORT + "optim: {lr: 1e-3, eps: 1e-6}\ndata: {train: [a.json, b.json], val: [x.json, y.json]}",
    )
    assert (config.optim.lr, config.optim.eps) == (3e-4, 1e-6)
    assert config.data.train == ["a.json", "b.json"]
    assert config.data.val == ["v.json"]


def test_several_bases_are_merged_in_their_order(load: Load) -> None:
    config = load(
        "base: [one.yaml, two.yaml]\ntrain: {seed: 3}",
        one=SORT + "train: {seed: 1, epochs: 1, batch_size: 1}",
        two="train: {seed: 2, epochs: 2}",
    )
    assert (config.train.seed, config.train.epochs, config.train.batch_size) == (3, 2, 1)


def test_a_base_is_found_from_the_file_that_names_it(folder: Path) -> None:
    (folder / "shared").mkdir()
    (folder / "mine").mkdir()
    (folder / "shared" / "low.yaml").write_text(SORT)
    (folder / "shared" / "middle.yaml").write_text("base: low.yaml\ntrain: {seed: 7}")
    (folder / "mine" / "x.yaml").write_text("base: ../shared/middle.yaml")
    assert load_config(Path("mine/x.yaml")).train.seed == 7


def test_two_files_may_share_a_base(load: Load) -> None:
    config = load(
        "base: [left.yaml, right.yaml]",
        left="base: low.yaml\ntrain: {seed: 1}",
        right="base: low.yaml\ntrain: {epochs: 2}",
        low=SORT,
    )
    assert (config.train.seed, config.train.epochs) == (1, 2)


def test_another_reducer_drops_the_parameters_of_the_former_one_but_not_what_all_have(load: Load) -> None:
    low = SORT + "reducer: {name: test_half, keep_ratio: [0.5], r: 2, strict: true, until: 0.8}"
    child = load("base: low.yaml\nreducer: {name: test_third, r: 8}", low=low)
    assert (child.reducer.name, child.reducer.params) == ("test_third", {"r": 8})
    assert (child.reducer.strict, child.reducer.until) == (True, 0.8)
    assert load("base: low.yaml\nreducer: test_third", "reducer.r=9", low=low).reducer.params == {"r": 9}
    assert load(low, "reducer.r=9", "reducer.name=test_third").reducer.params == {"r": 9}
    assert load(low, "reducer=none").reducer.params == {}


def test_the_same_reducer_named_again_keeps_its_parameters(load: Load) -> None:
    low = SORT + "reducer: {name: test_half, keep_ratio: [0.5], r: 2}"
    assert load(low, "reducer.name=test_half", "reducer.r=3").reducer.params == {"keep_ratio": [0.5], "r": 3}


def test_another_task_or_evaluation_reducer_drops_parameters_too(load: Load) -> None:
    low = "task: {name: test_sort, speed: 9}\neval: {reducer: {name: test_half, keep_ratio: [0.5]}}"
    config = load(low, "task.name=test_count", "eval.reducer.name=test_third")
    assert config_to_dict(config)["task"] == {"name": "test_count", "loss_weights": {}}
    assert config.eval.reducer is not None
    assert config.eval.reducer.params == {}


def test_a_plugin_is_found_from_the_current_folder_or_from_the_config_that_names_it(folder: Path) -> None:
    (folder / "deep").mkdir()
    for path in (folder / "here.py", folder / "deep" / "beside.py"):
        path.write_text("loaded = True")
    (folder / "deep" / "low.yaml").write_text(SORT + "plugins: [here.py, beside.py]")
    (folder / "x.yaml").write_text("base: deep/low.yaml")
    assert load_config(Path("x.yaml")).plugins == ["here.py", "deep/beside.py"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 1}", r"x.yaml: optim.lrr: unknown key. Did you mean 'lr'? Known: lr, min_lr, "),
        ("optims: {lr: 1}", "x.yaml: optims: unknown key. Did you mean 'optim'? Known: task, model, "),
        ("lr: 1", "x.yaml: lr: unknown key. Did you mean 'optim.lr'? Known: task, "),
        (
            "model: {vision: {size: 3}}",
            "x.yaml: model.vision.size: unknown key. Did you mean 'image_size'? Known: name",
        ),
        ("optim: {lr: fast}", "x.yaml: optim.lr: expected a number, got 'fast'."),
        ("optim: {lr: '1e-4'}", "x.yaml: optim.lr: expected a number, got '1e-4'."),
        ("optim: {lr: true}", "x.yaml: optim.lr: expected a number, got true."),
        ("optim: {lr: -1}", "x.yaml: optim.lr: expected a number above 0.0, got -1."),
        ("optim: {lr: .inf}", "x.yaml: optim.lr: expected a finite number, got inf."),
        (
            "optim: {lr: 1e-6}",
            "x.yaml: optim: min_lr (1e-05) is above lr (1e-06), but the learning rate falls to min_lr.",
        ),
        ("optim: {betas: [0.9, 1]}", "x.yaml: optim.betas[1]: expected a number below 1.0, got 1."),
        ("optim: {betas: [0.9]}", "x.yaml: optim.betas: expected one value more, got [0.9]."),
        ("optim: {betas: [0, 0, 0]}", "x.yaml: optim.betas: expected at most 2 values, got [0, 0, 0]."),
        (
            "optim: {schedule: stepp}",
            "x.yaml: optim.schedule: expected 'epoch' or 'step', got 'stepp'. Did you mean 'step'?",
        ),
        ("optim: 3", "x.yaml: optim: expected a mapping (lines `key: value`), got 3."),
        ("optim:", "x.yaml: optim: expected a mapping (lines `key: value`), got nothing (null)."),
        ("train: {seed: true}", "x.yaml: train.seed: expected a whole number, got true."),
        ("train: {max_steps: 1e3}", "x.yaml: train.max_steps: expected a whole number, got 1000.0. Write 1000."),
        ("data: {flip: yes}", "x.yaml: data.flip: expected true or false, got 'yes'."),
        (
            "data: {train: a.json}",
            "x.yaml: data.train: expected a list, got 'a.json'. For a list of one, write [a.json].",
        ),
        (
            "data: {val: [a.json, 3]}",
            "x.yaml: data.val[1]: expected text, got 3. If it is meant as text, put it in quotes.",
        ),
        (
            "data: {crop_scale: [0.9, 0.5]}",
            "x.yaml: data.crop_scale: expected two numbers with 0 < low <= high <= 1, got",
        ),
        ("data: {max_words: 2020-01-01}", "x.yaml: data.max_words: 2020-01-01 is a date in YAML. Put it in quotes if"),
        ("model: {vision: {options: {1: 2}}}", "x.yaml: model.vision.options: the key 1 is not text."),
        ("model: {text: {options: {is_decoder: true}}}", "x.yaml: model.text.options: is_decoder: the task says which"),
        ("data: {val: &a [*a]}", "x.yaml: the values are nested without end. Does an anchor (&) hold itself?"),
    ],
)
def test_a_wrong_key_or_value_is_told_in_words(load: Load, text: str, message: str) -> None:
    assert message_of(load, SORT + text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: test_srt", "x.yaml: task.name: unknown task 'test_srt'. Did you mean 'test_sort'? Known: "),
        ("train: {seed: 3}", "x.yaml: task.name: name the task. Known: "),
        ("task: {speed: 3}", "x.yaml: task.name: name the task. Known: "),
        ("task:", "x.yaml: task.name: name the task. Known: "),
        (
            "task: {name: test_sort, sped: 3}",
            "x.yaml: task.sped: unknown key. Did you mean 'speed'? Known: name, loss_weights, speed, ",
        ),
        ("task: {name: test_sort, speed: 0}", "x.yaml: task.speed: expected a number above 0, got 0."),
        ("task: {name: test_sort, limits: [1, a]}", "x.yaml: task.limits[1]: expected a number, got 'a'."),
    ],
)
def test_a_wrong_task_is_told_in_words(load: Load, text: str, message: str) -> None:
    assert message_of(load, text).startswith(message)


@pytest.mark.parametrize("place", ["reducer", "eval.reducer"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("test_hal", ".name: unknown reducer 'test_hal'. Did you mean 'test_half'? Known: "),
        ("{name: 3}", ".name: expected text, got 3."),
        (
            "{name: test_half, keep: 3}",
            ".keep: reducer 'test_half' has no parameter 'keep'. Did you mean 'keep_ratio'? It takes: keep_ratio, r.",
        ),
        ("{name: test_half, encoder: 3}", ".encoder: reducer 'test_half' has no parameter 'encoder'."),
        ("{name: test_needy}", ": reducer 'test_needy' needs a value for its parameter 'r'."),
        (
            "{name: test_half, keep_ratio: 0.5}",
            ".keep_ratio: expected a list, got 0.5. For a list of one, write [0.5].",
        ),
        ("{name: test_half, keep_ratio: [a]}", ".keep_ratio[0]: expected a number, got 'a'."),
        ("{name: test_half, r: x}", ".r: expected a whole number or a list, got 'x'."),
        ("{name: test_half, r: [1, x]}", ".r[1]: expected a whole number, got 'x'."),
        ("{name: test_third, fuse: 1}", ".fuse: expected true or false, got 1."),
        ("{name: test_half, strict: 1}", ".strict: expected true or false, got 1."),
        ("{name: test_half, until: x}", ".until: expected a number, got 'x'."),
        ("{name: test_half, until: 0}", ".until: expected a number above 0.0, got 0."),
        ("{name: test_half, until: 1.0}", ".until: expected a number below 1.0, got 1.0."),
    ],
)
def test_a_wrong_reducer_is_told_in_words(load: Load, place: str, text: str, message: str) -> None:
    assert message_of(load, SORT, f"{place}={text}").startswith(f"command line: {place}{message}")


def test_an_evaluation_has_no_part_to_tune_in(load: Load) -> None:
    message = message_of(load, SORT, "eval.reducer={name: test_half, until: 0.5}")
    assert message.startswith("command line: eval.reducer: until is for training, after which all tokens are kept")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("optim:\n  lr: 1\n  eps: 2\n  lr: 3\n", 4, 'key given twice: "lr"'),
        ("optim: [\n", 2, "this is not YAML: expected the node content"),
        ("a: 'x\nb: c", 2, "this is not YAML: found unexpected end of stream"),
        ("a: !!python/object:os.system {}", 1, "this is not YAML: could not determine a constructor for the tag"),
    ],
)
def test_a_file_that_is_not_yaml_is_told_with_its_line(load: Load, text: str, line: int, message: str) -> None:
    assert message_of(load, text).startswith(f"x.yaml:{line}: {message}")


def test_a_file_of_another_kind_is_told(load: Load, folder: Path) -> None:
    assert message_of(load, "- a\n- b").startswith(
        "x.yaml: a config is a mapping (lines `key: value`), this file holds"
    )
    (folder / "picture.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ConfigError, match=r"picture\.yaml: not a text file in UTF-8"):
        load_config(Path("picture.yaml"))
    with pytest.raises(ConfigError, match=r"cannot read \.: Is a directory"):
        load_config(Path("."))


def test_a_missing_file_is_told_with_the_nearest(load: Load) -> None:
    load(SORT, pretrain=SORT)
    with pytest.raises(ConfigError, match=r"there is no config file pretran\.yaml\. Did you mean 'pretrain\.yaml'\?"):
        load_config(Path("pretran.yaml"))


def test_a_missing_base_is_told_with_the_file_that_names_it(load: Load) -> None:
    assert message_of(load, "base: lo.yaml", low=SORT) == (
        "x.yaml: base: there is no config file lo.yaml. Did you mean 'low.yaml'?"
    )
    assert message_of(load, "base: 3") == "x.yaml: base: expected a file name or a list of them, got 3."


def test_files_that_name_each_other_as_base_are_told(load: Load) -> None:
    message = message_of(load, "base: y.yaml", y="base: z.yaml", z="base: y.yaml")
    assert message.startswith("y.yaml: base: the files name each other") is False
    assert "z.yaml: base: the files name each other as their base: " in message
    assert message.count("y.yaml") == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr", "command line: 'optim.lr' is not KEY=VALUE, such as optim.lr=5e-5."),
        ("=3", "command line: '=3' is not KEY=VALUE"),
        ("optim..lr=3", "command line: 'optim..lr=3' is not KEY=VALUE"),
        ("optim.lr=[1,", "command line: optim.lr: this is not YAML: expected the node content"),
        ("optim.lrr=3", "command line: optim.lrr: unknown key. Did you mean 'lr'?"),
        ("optim.lr.x=3", "command line: optim.lr: expected a number, got {'x': 3}."),
        ("optim=null", "command line: optim: expected a mapping (lines `key: value`), got nothing (null)."),
        ("task=null", "command line: task.name: name the task."),
        ("plugins=[no.py]", "command line: plugins: there is no file "),
        ("plugins=[no_such_module]", "command line: plugins: there is no module 'no_such_module'."),
    ],
)
def test_a_wrong_override_is_told_as_the_command_lines(load: Load, override: str, message: str) -> None:
    assert message_of(load, SORT + "optim: {lr: 1e-3}", override).startswith(message)


def test_of_several_files_the_one_that_set_the_value_is_named(load: Load) -> None:
    low = SORT + "optim: {lr: -1}\ndata: {max_words: 3}"
    child = "base: low.yaml\noptim: {eps: 1e-6}\ndata: {max_words: 0}"
    assert message_of(load, child, "data.max_words=7", low=low).startswith("low.yaml: optim.lr:")
    assert message_of(load, child, "optim.lr=1", low=low).startswith("x.yaml: data.max_words:")


def test_a_saved_config_loads_as_it_was(load: Load, folder: Path) -> None:
    config = load(
        "task: {name: test_sort, limits: [0.25, 0.5]}\neval: {reducer: {name: test_third, r: [1, 2]}}",
        "reducer={name: test_half, keep_ratio: [0.5]}",
        "output_dir='1e-5'",
        "optim.lr=5e-5",
    )
    save_config(config, folder / "saved.yaml")
    assert load_config(folder / "saved.yaml") == config
    assert [line for line in (folder / "saved.yaml").read_text().splitlines() if line[0] != " "][:2] == [
        "task:",
        "model:",
    ]


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
PLAIN = st.none() | st.booleans() | st.integers(1 - 2**63, 2**63 - 1) | st.floats(allow_nan=False) | TEXT
FREE = st.dictionaries(TEXT, PLAIN | st.lists(PLAIN, max_size=2), max_size=3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    options=FREE,
    files=st.lists(TEXT.filter(bool), max_size=3),
    lr=st.floats(1e-300, 1e300),
    crop=st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
    clip=st.none() | st.floats(1e-9, 1e9),
)
def test_any_config_that_is_saved_loads_as_it_was(
    folder: Path,
    load: Load,
    options: dict,
    files: list[str],
    lr: float,
    crop: tuple[float, float],
    clip: float | None,
) -> None:
    plain = load(SORT)
    config = plain.model_copy(
        update={
            "model": ModelConfig(vision=VisionConfig(options=options), text=TextConfig(options=options)),
            "data": DataConfig(train=files, crop_scale=crop),
            "optim": OptimConfig(lr=lr, min_lr=0),
            "train": plain.train.model_copy(update={"clip_grad_norm": clip}),
        }
    )
    save_config(config, folder / "saved.yaml")
    assert load_config(folder / "saved.yaml") == config
    assert config_from_dict(config_to_dict(config), source="memory") == config


def test_a_config_that_cannot_be_saved_is_told_and_leaves_what_was_there(load: Load, folder: Path) -> None:
    config = load(SORT)
    (folder / "saved.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot write .*saved\.yaml: Is a directory"):
        save_config(config, folder / "saved.yaml")
    assert sorted(path.name for path in folder.iterdir()) == ["saved.yaml", "x.yaml"]


def test_values_from_elsewhere_are_checked_alike() -> None:
    with pytest.raises(ConfigError, match=r"best\.pt: train\.seed: expected a whole number, got 'x'"):
        config_from_dict({"task": {"name": "test_sort"}, "train": {"seed": "x"}}, source="best.pt")


def test_values_from_elsewhere_name_no_plugins_to_import_but_the_command_line_does(tmp_path: Path) -> None:
    plugin, ran = tmp_path / "elsewhere.py", tmp_path / "ran"
    plugin.write_text(f"open({str(ran)!r}, 'w').close()")
    values = {"task": {"name": "test_sort"}, "plugins": [str(plugin)]}
    with pytest.raises(ConfigError, match=rf"best\.pt: plugins: .*{plugin}.*If you trust it, add: --plugins {plugin}"):
        config_from_dict(values, source="best.pt")
    with pytest.raises(ConfigError, match=r"best\.pt: plugins: .* not_imported, and importing it would run"):
        config_from_dict({**values, "plugins": ["not_imported"]}, source="best.pt")
    assert not ran.exists()
    assert config_from_dict(values, "best.pt", [f"plugins=[{plugin}]"]).plugins == [str(plugin)]
    assert ran.exists()
    assert config_from_dict(values, "best.pt").plugins == [str(plugin)], "what is imported already is no harm"
