"""tools/flops.py: what it prints and writes, and what it says to mistakes."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from unittest import mock

import pytest

from elip.registry import REDUCERS
from tests.conftest import PROJECT
from tests.tasks.small import small_run, without_reducer
from tools import flops

from .conftest import Command

TINY_VIT = ["--vit", "vit_tiny_patch16_224", "--image-size", "64"]
"""12 blocks of 16 + 1 tokens."""
NO_CLASS_TOKEN = "vit_little_patch16_reg1_gap_256"
ELIP = "{name: elip, begin: [1, 2], look_ahead: [2, 1], keep_ratio: [0.75, 0.5]}"
TOPK = "{name: topk, begin: [1, 2], keep_ratio: [0.75, 0.5]}"


def run_json(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict]:
    assert flops.main([*args, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def run_error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert flops.main([*args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_deit_small_costs_what_is_published(command: Command) -> None:
    done = command("flops", "--vit", "deit_small_patch16_224", "--reducer", "none", "--json", "-")
    assert done.returncode == 0
    assert done.stderr == ""
    (record,) = json.loads(done.stdout)
    assert (record["reducer"], record["unit"]) == ("none", "GMACs")
    assert round(record["vision_gmacs"], 2) == 4.61
    assert record["tokens"] == [197] * 12


def test_fvcore_counts_the_same_without_reduction(capsys: pytest.CaptureFixture[str]) -> None:
    assert flops.main([*TINY_VIT, "--reducer", TOPK, "--cross-check"]) == 0
    found = re.search(r"fvcore counts (\S+) GMACs, this command (\S+)\.\n", capsys.readouterr().out)
    assert found is not None
    assert found[1] == found[2] > "0.05"


def test_json_holds_the_reducers_asked_for_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--reducer", ELIP, "--reducer", "none"]
    assert [r["reducer"] for r in run_json(capsys, *TINY_VIT, *asked)] == ["elip", "none"]
    assert [r["reducer"] for r in run_json(capsys, *TINY_VIT)] == ["none"]


def test_the_table_sets_reducers_beside_the_baseline_and_says_where_a_text_was_made_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert flops.main([*TINY_VIT, "--reducer", ELIP, "--per-block"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^reducer +forward +ratio", out, re.MULTILINE)
    assert re.search(r"^none +\S+ +1\.00", out, re.MULTILINE)
    assert re.search(r"^elip begin=\[1, 2\]", out, re.MULTILINE)
    assert re.search(r"^0 +17 +17$", out, re.MULTILINE)
    assert re.search(r"^1 +17 +14$", out, re.MULTILINE)
    assert "GMACs per image; 1 multiply-add = 1 MAC" in out
    assert "elip needs a text: a made-up text [CLS]" in out


def test_the_image_size_changes_the_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = run_json(capsys, *TINY_VIT, "--image-size", "32")
    assert set(record["tokens"]) == {1 + (32 // 16) ** 2}


def test_files_are_written_beside_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {option: tmp_path / f"cost.{option}" for option in ("json", "csv", "markdown")}
    options = [arg for option, path in names.items() for arg in (f"--{option}", str(path))]
    assert flops.main([*TINY_VIT, "--reducer", ELIP, *options]) == 0
    assert capsys.readouterr().out.startswith("Image encoder, GMACs\n")
    assert [r["reducer"] for r in json.loads(names["json"].read_text())] == ["elip"]
    assert [line["reducer"] for line in csv.DictReader(names["csv"].open())] == ["elip"]
    assert "| none |" in names["markdown"].read_text()


def test_a_config_is_costed_with_the_baseline_and_its_own_reducer(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    dense, own = run_json(capsys, "--config", str(config), *tiny, "train.device=cpu")
    assert (dense["reducer"], own["reducer"]) == ("none", "elip")
    assert own["tokens"] == [17, 14, 10]
    for key in ("text", "fusion", "momentum", "heads", "inference_gmacs", "train_step_gmacs", "saved_bytes_per_image"):
        assert own[key] > 0
    assert own["train_step_gmacs"] < dense["train_step_gmacs"]
    assert own["parameters"] == dense["parameters"]


def test_the_tables_of_a_config_show_inference_training_step_and_memory(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    reducers = ["--reducer", "{name: random, begin: [1], keep_ratio: [0.5]}"]
    assert flops.main(["--config", str(config), *reducers, *tiny]) == 0
    out = capsys.readouterr().out
    for title in ("One inference, GMACs", "One training step, GMACs", "Memory; saved"):
        assert title in out
    assert "needs a text" not in out  # it needs none


@pytest.mark.parametrize(("task", "reducer"), [("retrieval", ELIP), ("retrieval", TOPK), ("ve", ELIP)])
def test_a_reducer_that_has_no_text_to_go_by_is_named(
    digits: Path, tiny: list[str], task: str, reducer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = without_reducer(small_run(task, digits, tiny))
    assert flops.main(["--config", str(PROJECT / f"configs/demo/{task}.yaml"), "--reducer", reducer, *run]) == 0
    out = capsys.readouterr().out
    assert ("elip needs a text, and this task encodes images alone" in out) == ((task, reducer) == ("retrieval", ELIP))
    assert ("elip needs a text, which is there in this inference" in out) == ((task, reducer) == ("ve", ELIP))


def test_a_reducer_of_the_configs_name_starts_from_the_configs_parameters(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(config), "--reducer", "{name: elip, keep_ratio: [0.5, 0.25]}", *tiny]
    (record,) = run_json(capsys, *arguments)
    assert record["options"]["begin"] == [1, 2]
    assert record["tokens"] == [17, 10, 6]


def test_pretrained_weights_of_a_config_are_not_fetched(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = ["model.vision.weights=timm", "model.text.weights=bert-base-uncased"]
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("tried to reach the network"))
    (record,) = run_json(capsys, "--config", str(config), "--reducer", "none", *tiny, *weights)
    assert record["inference_gmacs"] > 0


def test_all_stands_for_every_reducer_there_is_after_the_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    names = [record["reducer"] for record in run_json(capsys, *TINY_VIT, "--reducer", "all")]
    assert names == ["none", *(name for name in REDUCERS.names() if name != "none")]


def test_of_all_reducers_those_that_do_not_fit_the_vit_are_left_out_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert flops.main(["--vit", "vit_tiny_patch16_224", "--reducer", "{name: elip, begin: [20]}"]) == 2
    capsys.readouterr()
    assert flops.main(["--vit", NO_CLASS_TOKEN, "--image-size", "64", "--reducer", "all"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^random +\S+", out, re.MULTILINE)
    assert re.search(r"^elip is left out: reducer 'elip': it scores patches by .* class token", out, re.MULTILINE)


def test_parameters_are_found_that_meet_a_budget_and_can_be_given_again(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--reducer", "{name: random, begin: [2, 6], keep_ratio: [0.5, 0.25]}", "--target-gmacs", "0.08"]
    (found,) = run_json(capsys, *TINY_VIT, *asked)
    assert 0.075 < found["vision_gmacs"] <= 0.08
    assert found["options"]["begin"] == [2, 6]

    assert flops.main([*TINY_VIT, *asked]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^random begin=\[2, 6\] keep_ratio=\[0\.5, 0\.25\] +0\.0[78]", out, re.MULTILINE)
    again = re.search(r"^random .* with --reducer '(.*)'$", out, re.MULTILINE)
    assert again is not None
    assert run_json(capsys, *TINY_VIT, "--reducer", again[1]) == [{**found, "label": mock.ANY}]


def test_a_config_is_planned_for_its_image_encoder(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    random = ["--reducer", "{name: random, begin: [1, 2], keep_ratio: [0.75, 0.5]}"]
    dense, free = run_json(capsys, "--config", str(config), *tiny, "--reducer", "none", *random)
    budget = (dense["vision_gmacs"] + free["vision_gmacs"]) / 2
    (found,) = run_json(capsys, "--config", str(config), *tiny, *random, "--target-gmacs", str(budget))
    assert free["vision_gmacs"] < found["vision_gmacs"] <= budget
    assert free["train_step_gmacs"] < found["train_step_gmacs"] < dense["train_step_gmacs"]


def test_a_reduction_that_ends_in_training_shows_in_the_mean_of_its_steps(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ends = ["--reducer", "{name: random, begin: [1], keep_ratio: [0.5], until: 0.75}"]
    arguments = ["--config", str(config), *tiny, "--reducer", "none", *ends]
    dense, own = run_json(capsys, *arguments)
    assert own["options"]["until"] == 0.75
    assert own["inference_gmacs"] == dense["inference_gmacs"]
    expected = 0.75 * own["train_step_gmacs"] + 0.25 * dense["train_step_gmacs"]
    assert own["train_mean_gmacs"] == pytest.approx(expected)
    assert flops.main(arguments) == 0
    out = capsys.readouterr().out
    assert "mean of training" in out
    assert "until=0.75: all tokens are kept from 0.75 of the training on, and in an inference" in out

    (planned,) = run_json(capsys, *TINY_VIT, *ends, "--target-gmacs", "0.08")
    assert planned["vision_gmacs"] <= 0.08  # of what is done while it acts
    assert planned["options"]["until"] == 0.75


def test_a_teacher_is_made_up_for_a_plain_vit_and_missed_in_an_inference(
    config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--reducer", "none", "--reducer", "guided"]
    dense, own = run_json(capsys, *TINY_VIT, *asked)
    assert own["requires_teacher"]
    assert own["vision_gmacs"] < 0.5 * dense["vision_gmacs"]
    dense, own = run_json(capsys, "--config", str(config), *tiny, *asked)
    assert own["inference_gmacs"] == dense["inference_gmacs"]
    assert own["train_step_gmacs"] < dense["train_step_gmacs"]
    for arguments, said in (
        (TINY_VIT, "guided needs what a momentum encoder saw: made-up attention stands for it"),
        (
            ["--config", str(config), *tiny],
            "guided needs what the momentum encoder saw, which there is in training only",
        ),
    ):
        assert flops.main([*arguments, *asked]) == 0
        assert said in capsys.readouterr().out


def test_properties_have_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert flops.main([*TINY_VIT, "--reducer", "random", "--properties", "--markdown", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split(" | ")[4:8] == [
        "parameters added, M",
        "needs text",
        "drops in training",
        "saved for backward, MB",
    ]
    assert re.match(r"\| random \| .* \| 0\.00 \| no \| yes \| .* \| yes \|$", lines[5])


ADAPTIVE = """
from dataclasses import replace

import torch

from elip.reduction.reducer import TokenReducer
from elip.registry import REDUCERS


@REDUCERS.register("flops_bright")
class KeepBright(TokenReducer):
    \"\"\"Keep patches whose picture is bright.\"\"\"

    def __init__(self, encoder):
        super().__init__()

    def before_block(self, block, tokens, context):
        if block != 1:
            return tokens
        bright = tokens.x[:, :, 0] > 0
        order = bright.int().argsort(dim=1, descending=True)
        count = bright.sum(dim=1).clamp_min(1)
        most = int(count.max())
        return replace(tokens.keep(order[:, :most]), mask=torch.arange(most) < count.unsqueeze(1))
"""


def test_a_reducer_that_keeps_different_numbers_is_averaged_over_pictures(
    digits: Path, tmp_path: Path, config: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "bright.py"
    plugin.write_text(ADAPTIVE)
    reducer = ["--plugins", str(plugin), "--reducer", "flops_bright"]
    pictures = [str(digits / "images"), str(digits / "retrieval_val.json")]
    for data, images in zip(pictures, (9, 6), strict=True):
        root = ["--image-root", str(digits / "images")]
        (record,) = run_json(capsys, *TINY_VIT, *reducer, "--data", data, *root, "--images", "9")
        spread = record["vision_spread"]
        assert spread["images"] == images
        assert spread["min_gmacs"] <= record["vision_gmacs"] <= spread["max_gmacs"]

    assert flops.main([*TINY_VIT, *reducer]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^flops_bright +\S+ ± \S+", out, re.MULTILINE)
    assert "mean of 8 images of noise under random weights" in out

    (record,) = run_json(capsys, "--config", str(config), *tiny, *reducer, "--data", pictures[1])
    assert record["vision_spread"]["images"] == 6  # found under the config's data.image_root


def test_a_reducer_from_a_file_is_costed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "half.py"
    plugin.write_text(
        dedent("""
        from elip.reduction.reducer import TokenReducer
        from elip.registry import REDUCERS
        import torch

        @REDUCERS.register("flops_half")
        class Half(TokenReducer):
            \"\"\"Keep the first half.\"\"\"

            def __init__(self, encoder, *, block: int = 1):
                super().__init__()
                self.block = block

            def before_block(self, block, tokens, context):
                if block != self.block:
                    return tokens
                return tokens.keep(torch.arange(tokens.num_tokens // 2).expand(len(tokens.x), -1))
        """)
    )
    (record,) = run_json(capsys, *TINY_VIT, "--plugins", str(plugin), "--reducer", "{name: flops_half, block: 3}")
    assert record["tokens"][2:4] == [17, 9]


def test_a_class_that_is_no_reducer_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "wrong.py"
    plugin.write_text(
        "from elip.registry import REDUCERS\n\n"
        "@REDUCERS.register('flops_wrong')\nclass Wrong:\n    def __init__(self, encoder): ...\n"
    )
    assert flops.main([*TINY_VIT, "--plugins", str(plugin), "--reducer", "flops_wrong"]) == 2
    assert "reducer 'flops_wrong': its class Wrong is no elip.reduction.TokenReducer." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--vit", "deit_smal_patch16_224"],
            r"no model 'deit_smal_patch16_224'\. Did you mean 'deit_small_patch16_224'\?",
        ),
        ([*TINY_VIT, "--reducer", "elp"], r"unknown reducer 'elp'\. Did you mean 'elip'\?"),
        ([*TINY_VIT, "--reducer", "{name: elip, keep: 1}"], r"reducer 'elip' has no parameter 'keep'"),
        ([*TINY_VIT, "--reducer", "{name: elip"], r"not YAML"),
        ([*TINY_VIT, "--reducer", "{name: elip, begin: [20]}"], r"reducer 'elip'.*begin"),
        ([*TINY_VIT, "--image-size", "0"], r"--image-size: expected a number of pixels, got 0"),
        ([*TINY_VIT, "--image-size", "8"], r"--image-size: 8 px is less than one patch of 16"),
        ([*TINY_VIT, "reducer.name=elip"], r"'reducer\.name=elip'.*use --config FILE"),
        ([*TINY_VIT, "--json", "-", "--csv", "-"], r"only one of --json, --csv and --markdown"),
        ([*TINY_VIT, "--plugins", "nowhere.py"], r"there is no file .*nowhere\.py"),
        (["--config", "nowhere.yaml"], r"there is no config file nowhere\.yaml"),
        (["--config", "a.yaml", "--image-size", "64"], r"give model\.vision\.image_size=PX"),
        (["--config", "a.yaml", "--weights", "timm"], r"give model\.vision\.weights=FILE"),
        (["--config", "a.yaml", "--properties"], r"--properties goes with --vit"),
        ([*TINY_VIT, "--target-gmacs", "0.08"], r"--target-gmacs: name the reducers .*--reducer tome"),
        ([*TINY_VIT, "--reducer", "random", "--target-gmacs", "0"], r"--target-gmacs: expected a number above 0"),
        ([*TINY_VIT, "--reducer", "random", "--target-gmacs", "9"], r"needs no reduction by 'random'"),
        ([*TINY_VIT, "--reducer", "random", "--target-gmacs", "0.001"], r"out of reach for reducer 'random'"),
        ([*TINY_VIT, "--images", "0"], r"--images: expected a number of pictures, got 0"),
        ([*TINY_VIT, "--data", "nowhere.json"], r"nowhere\.json"),
    ],
)
def test_a_mistake_is_told_in_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(message, run_error(capsys, *args))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "no folder" / "cost.json"
    assert f"--json: cannot write {path}" in run_error(capsys, *TINY_VIT, "--json", str(path))


def test_every_example_of_the_help_is_a_command_that_is_understood() -> None:
    examples = flops.EPILOG.strip().splitlines()[1:]
    assert len(examples) == 7
    for example in examples:
        python, tool, *args = shlex.split(example)
        assert (python, tool) == ("python", "tools/flops.py")
        flops.check_args(flops.parse_args(args))


@pytest.mark.slow
def test_a_count_waits_for_no_library_that_it_does_not_need() -> None:
    heavy = {"matplotlib", "fvcore", "tensorboard", "scipy", "transformers.activations"}
    code = f"import sys, tools.flops; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
