"""tools/train.py: a run and what it leaves, listings, plug-ins, and what it says to mistakes."""

import json
import shutil
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from PIL import Image

from elip.config import load_config
from tools import train

from .conftest import Command


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(digits: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over two epochs."""
    from tests.conftest import tiny

    folder = tmp_path_factory.mktemp("finished")
    overrides = tiny.__wrapped__(digits, folder) if hasattr(tiny, "__wrapped__") else tiny(digits, folder)
    assert train.main([str(config), *overrides]) == 0
    return folder / "run"


def test_a_run_leaves_log_tensorboard_sheets_checkpoints_and_its_config(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"log.jsonl", "tensorboard", "sheets", "config.yaml", "best.pt", "checkpoint-00000006.pt"} <= names
    steps = [entry for entry in entries(finished) if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert {"loss_itc", "loss_itm", "loss_mlm", "lr", "grad_norm", "temp", "alpha", "queue_fill"} <= steps[0].keys()
    assert list((finished / "sheets").glob("*.png"))


def test_the_resolved_config_runs_again(finished: Path, tmp_path: Path) -> None:
    config = finished / "config.yaml"
    assert train.main([str(config), f"output_dir={tmp_path}/again", "train.max_steps=1"]) == 0
    assert entries(tmp_path / "again")[0]["loss"] == pytest.approx(entries(finished)[0]["loss"], rel=1e-6)


def test_a_run_that_was_cut_short_resumes_to_the_very_same_log(
    finished: Path, config: Path, tiny: list[str], tmp_path: Path
) -> None:
    whole = [{k: v for k, v in entry.items() if k.startswith("loss")} for entry in entries(finished)]
    arguments = [str(config), *tiny, "train.save_every=2"]

    class PowerCutError(Exception):
        pass

    from elip.engine.step import StepRunner

    step, calls = StepRunner.step, []

    def cut(self: StepRunner, *args: object):
        calls.append(1)
        if len(calls) == 6:
            raise PowerCutError
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepRunner, "step", cut)
        with pytest.raises(PowerCutError):
            train.main(arguments)
    assert train.main([*arguments, "--resume"]) == 0
    resumed = [{k: v for k, v in entry.items() if k.startswith("loss")} for entry in entries(tmp_path / "run")]
    assert resumed == whole


def test_a_second_run_in_the_same_folder_is_refused(
    finished: Path, config: Path, tiny: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert train.main([str(config), *tiny, f"output_dir={finished}"]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_listings_name_every_reducer_and_task(command: Command) -> None:
    reducers = command("train", "--list-reducers")
    assert reducers.returncode == 0
    for name, paper in (("elip", "2309.16738"), ("none", "2107.07651"), ("random", "")):
        assert any(line.startswith(name) and paper in line for line in reducers.stdout.splitlines())
    assert "pretrain" in command("train", "--list-tasks").stdout


def test_help_ends_with_commands_that_work(command: Command) -> None:
    shown = command("train", "--help").stdout
    assert "python tools/train.py configs/demo/pretrain.yaml" in shown
    assert load_config(Path("configs/demo/pretrain.yaml")).task.name == "pretrain"


def test_a_reducer_of_ones_own_in_one_file_outside_the_project_trains(
    config: Path, tiny: list[str], tmp_path: Path, command: Command
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        dedent('''
            from elip.reduction import REDUCERS, StageReducer


            @REDUCERS.register("longest")
            class Longest(StageReducer):
                """Keep the patches with the longest vectors."""

                def reduce(self, tokens, keep, stage):
                    return tokens.keep(tokens.x.norm(dim=-1).topk(keep, dim=1).indices)
        ''')
    )
    mine = [override for override in tiny if not override.startswith("reducer.")]
    reducer = "reducer={name: longest, begin: [2], keep_ratio: 0.5}"
    run = command("train", config, *mine, f"plugins=[{plugin}]", reducer, "train.max_steps=1")
    assert run.returncode == 0, run.stderr
    entry = entries(tmp_path / "run")[0]
    assert [entry[f"tokens/block{i:02d}"] for i in range(3)] == [17, 17, 9]


def broken_image(digits: Path, folder: Path, damage: str) -> list[str]:
    """Overrides for a copy of the training set whose first picture is damaged."""
    item = json.loads((digits / "pretrain_train.json").read_text())
    shutil.copytree(digits / "images/train", folder / "images/train")
    picture = folder / "images" / item[0]["image"]
    if damage == "missing":
        picture.unlink()
    elif damage == "truncated":
        picture.write_bytes(picture.read_bytes()[:300])
    else:
        picture.write_text("not a picture")
    return [f"data.image_root={folder}/images", "data.val=[]", "data.test=[]"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "not an image"])
def test_a_broken_image_is_named_with_its_item_and_field(
    damage: str, digits: Path, config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([str(config), *tiny, *broken_image(digits, tmp_path, damage)]) == 2
    message = capsys.readouterr().err
    assert "pretrain_train.json item 0: field 'image':" in message
    assert "train/000000.jpg" in message


def test_broken_images_up_to_the_stated_share_are_passed_over_and_counted(
    digits: Path, config: Path, tiny: list[str], tmp_path: Path
) -> None:
    overrides = broken_image(digits, tmp_path, "truncated")
    assert train.main([str(config), *tiny, *overrides, "data.max_broken_ratio=0.2"]) == 0
    assert entries(tmp_path / "run")[-1]["skipped"] == 2  # once in each of two epochs


def captions(digits: Path, folder: Path, caption: object) -> str:
    items = json.loads((digits / "pretrain_train.json").read_text())
    if caption is None:
        del items[1]["caption"]
    else:
        items[1]["caption"] = caption
    (folder / "pairs.json").write_text(json.dumps(items))
    return f"data.train=[{folder}/pairs.json]"


@pytest.mark.parametrize(
    ("caption", "message"),
    [(None, "pairs.json item 1.*caption"), ("?!", "pairs.json item 1: field 'caption' is empty after cleaning")],
)
def test_a_caption_that_is_missing_or_empty_is_named(
    caption: str | None,
    message: str,
    digits: Path,
    config: Path,
    tiny: list[str],
    tmp_path: Path,
    command: Command,
) -> None:
    run = command("train", config, *tiny, captions(digits, tmp_path, caption))
    assert run.returncode == 2
    import re

    assert re.search(message, run.stderr), run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "command line: optim.lrr: unknown key. Did you mean 'lr'?"),
        ("train.batch_size=many", "command line: train.batch_size: expected a whole number"),
        ("train.batch_size=1", "needs at least 2 pairs a process"),
        ("reducer.name=elipp", "unknown reducer 'elipp'. Did you mean 'elip'?"),
        ("reducer.keep_ratio=[0.5,1.5]", "keep_ratio: each value must be in (0, 1], got 1.5"),
        ("reducer.begin=[1,7]", "block 7 does not exist; this ViT has blocks 0 to 2"),
        ("model.vision.options.embed_dim=48", "the ViT's is 48, the text encoder's 32"),
        ("data.train=[nowhere.json]", "nowhere.json"),
    ],
)
def test_mistakes_are_told_in_one_line_with_exit_code_2(
    override: str, message: str, config: Path, tiny: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert train.main([str(config), *tiny, override]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_json_that_is_not_a_list_is_refused(
    config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "pairs.json").write_text('{"image": "a.jpg"}')
    assert train.main([str(config), *tiny, f"data.train=[{tmp_path}/pairs.json]"]) == 2
    said = capsys.readouterr().err
    assert "pairs.json" in said
    assert "list" in said


def test_a_checkpoint_of_another_architecture_is_refused(
    finished: Path, config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = [*tiny, "model.vision.options.depth=4", "train.epochs=3"]
    assert train.main([str(config), *other, "--resume", str(finished)]) == 2
    said = capsys.readouterr().err
    assert "another architecture" in said
    assert "blocks.3" in said


def test_a_checkpoint_cut_short_is_refused(
    finished: Path, config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cut = tmp_path / "checkpoint-00000006.pt"
    cut.write_bytes((finished / cut.name).read_bytes()[:5000])
    assert train.main([str(config), *tiny, "--resume", str(cut)]) == 2
    assert "is cut short or damaged" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_made_is_named(
    config: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert train.main([str(config), *tiny, f"output_dir={tmp_path}/file/run"]) == 2
    assert f"{tmp_path}/file" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_end_with_equal_parameters_and_queues_in_rank_order(
    config: Path, tiny: list[str], tmp_path: Path, command: Command
) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text(
        dedent(f'''
            """Save each rank's state, and the features it pushed, when training is over."""
            import atexit

            import torch

            from elip.distributed import rank
            from elip.models import momentum
            from tasks.pretrain import Pretrain

            push, built, pushed = momentum.FeatureQueues.push, [], []


            def spied(self, image_feat, text_feat):
                pushed.append((image_feat.clone(), text_feat.clone()))
                push(self, image_feat, text_feat)
                torch.save(
                    {{
                        "state": built[-1].state_dict(),
                        "image": [p[0] for p in pushed],
                        "text": [p[1] for p in pushed],
                    }},
                    "{tmp_path}/rank%d.pt" % rank(),
                )


            momentum.FeatureQueues.push = spied
            init = Pretrain.__init__


            def remembering(self, config):
                init(self, config)
                built.append(self)


            Pretrain.__init__ = remembering
        ''')
    )
    run = command("train", config, *tiny, "train.batch_size=4", f"plugins=[{spy}]", "data.val=[]", processes=2)
    assert run.returncode == 0, run.stderr
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    for name, tensor in ranks[0]["state"].items():
        assert torch.equal(tensor, ranks[1]["state"][name]), name
    assert len(ranks[0]["image"]) == 6
    for side in ("image", "text"):
        order = [feat for step in zip(ranks[0][side], ranks[1][side], strict=True) for feat in step]
        queue = ranks[0]["state"][f"model.queues.{side}"]
        pushed = torch.cat(order)  # 48 features into 40 places: the last 8 wrapped around
        torch.testing.assert_close(queue[:, :8].T, pushed[40:])
        torch.testing.assert_close(queue[:, 8:].T, pushed[8:40])


@pytest.mark.slow
def test_the_full_size_config_takes_two_steps_without_a_download(
    digits: Path, tmp_path: Path, command: Command
) -> None:
    run = command(
        "train",
        "configs/pretrain.yaml",
        "train.batch_size=2",
        "train.max_steps=2",
        "train.log_every=1",
        "model.vision.weights=null",
        "model.text.weights=null",
        f"model.text.tokenizer={digits}/tokenizer",
        f"data.image_root={digits}/images",
        f"data.train=[{digits}/pretrain_train.json]",
        "data.val=[]",
        "data.num_workers=0",
        f"output_dir={tmp_path}/run",
        env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
    )
    assert run.returncode == 0, run.stderr
    logged = entries(tmp_path / "run")
    assert [entry["step"] for entry in logged if "loss" in entry] == [1, 2]
    assert [logged[0][f"tokens/block{block:02d}"] for block in (1, 2, 4, 10)] == [257, 232, 168, 104]


def test_images_of_any_mode_and_size_are_trained_on(config: Path, tiny: list[str], tmp_path: Path) -> None:
    pairs = []
    for index, mode in enumerate(["RGB", "L", "RGBA", "P", "CMYK", "1", "RGB", "LA"]):
        name = f"{index}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (17 + 40 * index, 90 - 9 * index)).save(tmp_path / name)
        pairs.append({"image": name, "caption": f"picture {index}"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    overrides = [f"data.train=[{tmp_path}/pairs.jsonl]", f"data.image_root={tmp_path}", "data.val=[]", "data.test=[]"]
    assert train.main([str(config), *tiny, *overrides, "train.epochs=1", "data.randaugment=true"]) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.k_test=7", "task.k_test: there are 6 images"),
        ("data.val=[nowhere.json]", "nowhere.json"),
    ],
)
def test_what_would_stop_the_first_evaluation_stops_the_start(
    config: Path, tiny: list[str], override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([str(config), *tiny, override]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "step 1/" not in captured.out + captured.err
