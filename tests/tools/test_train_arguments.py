"""tools/train.py: whose word is whose on the command line, and what it prints in the place of a run."""

import re
from pathlib import Path

import pytest

from elip.config import load_config
from tools import train

from .conftest import Command

CONFIG = "configs/demo/pretrain.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which holds a checkpoint whose name looks like an override, and a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step=3").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "resume", "overrides"),
    [
        ("CONFIG --resume optim.lr=1", True, ["optim.lr=1"]),
        ("CONFIG --resume optim.lr=1 train.seed=2", True, ["optim.lr=1", "train.seed=2"]),
        ("CONFIG optim.lr=1 --resume", True, ["optim.lr=1"]),
        ("--resume CONFIG", True, []),
        ("--resume CONFIG optim.lr=1", True, ["optim.lr=1"]),
        ("--resume optim.lr=1 CONFIG", True, ["optim.lr=1"]),
        ("optim.lr=1 CONFIG", False, ["optim.lr=1"]),
        ("CONFIG --resume --init x.pt", True, ['model.init="x.pt"']),
        ("CONFIG --resume step=3", Path("step=3"), []),
        ("CONFIG --resume step=3 optim.lr=1", Path("step=3"), ["optim.lr=1"]),
        ("CONFIG --resume runs/lr=1/best.pt", Path("runs/lr=1/best.pt"), []),
        ("CONFIG --resume nowhere.pt optim.lr=1", Path("nowhere.pt"), ["optim.lr=1"]),
        ("--resume run CONFIG", Path("run"), []),
        ("CONFIG --init step=3 optim.lr=1", False, ["optim.lr=1", 'model.init="step=3"']),
    ],
)
def test_each_word_goes_where_it_belongs(words: str, resume: bool | Path, overrides: list[str]) -> None:
    args = train.parse_args(words.replace("CONFIG", CONFIG).split())
    assert (args.config, args.resume, args.overrides) == (Path(CONFIG), resume, overrides)


def test_a_quoted_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    args = train.parse_args([CONFIG, "--resume", "~/run", "--init", "~/a.pt"])
    assert args.resume == Path("/home/me/run")
    assert args.overrides == ['model.init="/home/me/a.pt"']


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("CONFIG --init optim.lr=1", "--init takes a checkpoint, and 'optim.lr=1' is key=value."),
        ("--init CONFIG", "--init takes a checkpoint, and CONFIG is a config. The config comes first."),
        ("CONFIG --resume=optim.lr=1", "--resume takes a checkpoint, and 'optim.lr=1' is key=value."),
        ("CONFIG --resume=CONFIG", "--resume takes a checkpoint, and CONFIG is a config."),
        ("CONFIG --resume=", "--resume: the path is empty."),
        ("CONFIG --init=", "--init: the path is empty."),
        ("CONFIG run/best.pt", "'run/best.pt': the config is CONFIG already, and this is not KEY=VALUE"),
        ("run/best.pt CONFIG", "'run/best.pt': the config is CONFIG already, and this is not KEY=VALUE"),
        ("CONFIG --resume other.yaml", "'other.yaml': the config is CONFIG already"),
        ("best.pt --resume", "best.pt: weights go after --resume or --init; name a config first."),
        ("--resume run", "a config is needed, e.g. run/config.yaml"),
        ("--resume run/best.pt", "a config is needed, e.g. run/config.yaml"),
        ("--resume", "a config is needed, e.g. configs/demo/pretrain.yaml"),
    ],
)
def test_words_in_no_place_are_told_in_one_line(words: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert train.main(words.replace("CONFIG", CONFIG).split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message.replace('CONFIG', CONFIG)}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("words", [["a\0b.yaml"], [CONFIG, "--resume", "a\0b"], [CONFIG, "--init", "a\0b"]])
def test_a_nul_on_the_command_line_is_told(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert train.main(words) == 2
    assert "holds a NUL character" in capsys.readouterr().err


def shown(capsys: pytest.CaptureFixture, *words: str) -> str:
    assert train.main(words) == 0
    return capsys.readouterr().out


def test_the_listing_of_reducers_has_parameters_with_types_and_defaults(capsys: pytest.CaptureFixture) -> None:
    lines = shown(capsys, "--list-reducers").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("tome "))
    parameters = [line.split("  ") for line in lines[start + 1 :]]
    first = [part.strip() for part in parameters[0] if part]
    assert first == ["r = 13", "whole number or list of whole numbers or mapping"]
    assert re.search(r"\n +proportional = true +true or false\n", "\n".join(lines[start:]))


def test_the_listing_of_tasks_has_their_keys(capsys: pytest.CaptureFixture) -> None:
    assert re.search(r"\nvqa .*\n(.+\n)* +inference = rank +rank or generate\n", shown(capsys, "--list-tasks"))


def test_help_on_all_of_the_config_has_every_key_with_type_default_and_purpose(capsys: pytest.CaptureFixture) -> None:
    text = shown(capsys, "--help-config")
    for title in ("(top level)", "model.vision", "optim", "eval", "task: {name: vqa}", "reducer: {name: tome}"):
        assert re.search(rf"^{re.escape(title)}(  #|$)", text, re.MULTILINE), title
    assert re.search(r"\n  betas = \[0\.9, 0\.999\] +\[number, at least 0 and below 1, number,", text)
    assert re.search(r"\n  precision = fp32 +fp32 or bf16 or fp16\n      Arithmetic of the forward pass;", text)
    assert re.search(r"\n  max_steps = null +whole number, above 0.* or null\n      Stop after this many", text)


@pytest.mark.parametrize(
    ("section", "has", "has_not"),
    [
        ("optim", "warmup_steps", "max_words"),
        ("model", "fusion_layer", "max_words"),
        ("task.vqa", "answer_list", "mlm_probability"),
        ("task", "mlm_probability", "num_workers"),
        ("reducer.tome", "proportional", "look_ahead"),
        ("reducer", "strict", "max_words"),
        ("optim.lr", "  lr = 0.0001", "min_lr"),
        ("model.vision.options", "  depth                               whole number, above 0", "num_hidden_layers"),
        ("model.text.options.vocab_size", "Words; at least the tokenizer's.", "hidden_size"),
        ("task.answer_list", "JSON list of the candidate answers", "k_test"),
        ("task.vqa.k_test", "likeliest first words", "re-ranks"),
        ("output_dir", "runs/default", "plugins"),
    ],
)
def test_help_on_a_part_of_the_config_has_that_part(
    section: str, has: str, has_not: str, capsys: pytest.CaptureFixture
) -> None:
    text = shown(capsys, "--help-config", section)
    assert has in text
    assert has_not not in text


@pytest.mark.parametrize(
    ("section", "nearest"),
    [
        ("optm", "optim"),
        ("task.vqaa", "task.vqa"),
        ("tome", "reducer.tome"),
        ("optim.lrr", "optim.lr"),
        ("lr", "optim.lr"),
    ],
)
def test_an_unknown_section_is_told_with_the_nearest(section: str, nearest: str, capsys: pytest.CaptureFixture) -> None:
    assert train.main(["--help-config", section]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --help-config: no section or key '{section}'. Did you mean '{nearest}'? Sections: ")


def test_a_plug_in_of_a_config_is_in_the_help_and_what_is_no_section_stays_the_config(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "mine.py").write_text(
        "from elip.config import TaskConfig\nfrom elip.registry import TASKS\n\n\n"
        "class MineConfig(TaskConfig):\n    depth: int = 3\n    'How deep it goes.'\n\n\n"
        "@TASKS.register('test_mine')\nclass Mine:\n    'Mine alone.'\n\n    Config = MineConfig\n"
    )
    (folder / "mine.yaml").write_text("task: test_mine\nplugins: [mine.py]")
    text = shown(capsys, "--help-config", "task.test_mine", "mine.yaml")
    assert text.startswith("task: {name: test_mine}  # Mine alone.\n")
    assert "\n  depth = 3                           whole number\n      How deep it goes.\n" in text
    assert text in shown(capsys, "--help-config", "mine.yaml")


def test_the_configs_that_come_with_the_toolkit_are_listed_by_paths_that_load_anywhere(
    capsys: pytest.CaptureFixture,
) -> None:
    lines = shown(capsys, "--list-configs").splitlines()
    assert "configs/demo/vqa.yaml" in [line.split()[0] for line in lines]
    assert any(re.match(r"configs/pretrain\.yaml +ELIP's published pre-training", line) for line in lines)
    assert load_config(Path("configs/demo/vqa.yaml")).task.name == "vqa"


def test_what_is_printed_needs_no_config_and_builds_nothing(command: Command) -> None:
    done = command("train", "--help-config", "data", "--list-configs")
    assert (done.returncode, done.stderr) == (0, "")
    assert "image_root" in done.stdout
    assert "configs/base.yaml" in done.stdout
