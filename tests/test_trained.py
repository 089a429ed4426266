"""`elip.load_task`: a trained run encodes images and texts."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import elip
from elip.config import config_to_dict
from elip.errors import CheckpointError, ConfigError, DataError, ElipError
from elip.registry import REDUCERS
from elip.task import Task
from elip.trained import BATCH, TrainedTask
from elip.weights.files import write_weights
from tests.conftest import PROJECT
from tests.tasks.small import small_run, small_task

TEXTS = ["a red seven at the top left", "a green two in the middle", "A blue one."]


def saved(task: Task, path: Path) -> Path:
    """Write a checkpoint as the best one of a run, and return the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {"config": config_to_dict(task.config), "step": 3, "epoch": 1}
    write_weights(path, task.state_dict(), "elip", run)
    return path.parent


@pytest.fixture
def task(tiny: list[str]) -> Task:
    return small_task("pretrain", tiny).eval()


@pytest.fixture
def run(task: Task, tmp_path: Path) -> TrainedTask:
    return elip.load_task(saved(task, tmp_path / "mine/best.pt"))


@pytest.fixture
def pictures(digits: Path) -> list[Path]:
    return sorted((digits / "images").rglob("*.png"))[:3] or sorted((digits / "images").rglob("*.jpg"))[:3]


def test_features_are_unit_vectors_of_the_joint_space(run: TrainedTask, pictures: list[Path]) -> None:
    image, text = run.encode_image(pictures), run.encode_text(TEXTS)
    assert image.shape == text.shape == (3, 64)
    for features in (image, text):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
        assert not features.requires_grad
    assert not run.task.training
    assert run.path.name == "best.pt"


@torch.no_grad()
def test_features_are_those_of_the_runs_evaluation(run: TrainedTask, task: Task, pictures: list[Path]) -> None:
    albef = task.model.albef
    image = torch.stack([task.eval_transform(task.images.open(str(path.resolve()))) for path in pictures])
    expected = albef.image_feat(albef.encode_image(image).embeds)
    torch.testing.assert_close(run.encode_image(pictures), expected)
    torch.testing.assert_close(run.encode_image(image), expected)
    ids, mask = task.tokenizer.encode(["a blue one"], task.settings.eval_text_length)
    torch.testing.assert_close(run.encode_text(TEXTS[2]), albef.text_feat(albef.text_encoder.encode(ids, mask)))


def test_paths_and_pictures_one_and_several_give_the_same(run: TrainedTask, pictures: list[Path]) -> None:
    expected = run.encode_image(pictures)
    torch.testing.assert_close(run.encode_image([str(path) for path in pictures]), expected)
    torch.testing.assert_close(run.encode_image([Image.open(path) for path in pictures]), expected)
    torch.testing.assert_close(run.encode_image(pictures[1]), expected[1:2])
    torch.testing.assert_close(run.encode_text(TEXTS[0]), run.encode_text(TEXTS)[:1], atol=1e-6, rtol=1e-5)
    assert run.encode_image([]).shape == run.encode_text([]).shape == (0, 64)


def test_many_are_encoded_batch_by_batch(run: TrainedTask, pictures: list[Path]) -> None:
    many = [pictures[i % 3] for i in range(BATCH + 2)]
    torch.testing.assert_close(run.encode_image(many), run.encode_image(pictures).repeat(BATCH, 1)[: BATCH + 2])


def test_a_text_decides_which_patches_are_kept(run: TrainedTask, pictures: list[Path]) -> None:
    alone, guided = run.encode_image(pictures), run.encode_image(pictures, TEXTS)
    assert not torch.allclose(alone, guided)
    torch.testing.assert_close(run.encode_image(pictures, TEXTS[0])[:1], guided[:1], atol=1e-5, rtol=1e-4)
    with pytest.raises(ElipError, match="2 texts for 3 of the others"):
        run.encode_image(pictures, TEXTS[:2])


@torch.no_grad()
def test_matching_gives_probabilities_of_pairs(run: TrainedTask, task: Task, pictures: list[Path]) -> None:
    found = run.match(pictures, TEXTS)
    ids, mask = task.tokenizer.encode([*TEXTS[:2], "a blue one"])
    image = torch.stack([task.eval_transform(task.images.open(str(path.resolve()))) for path in pictures])
    expected = task({"image": image, "ids": ids, "mask": mask}).softmax(dim=-1)[:, 1]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(run.match(pictures[0], TEXTS)[:1], found[:1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(run.match(pictures, TEXTS[0])[:1], found[:1], atol=1e-5, rtol=1e-4)
    with pytest.raises(ElipError, match="2 images for 3 of the others"):
        run.match(pictures[:2], TEXTS)


def test_what_cannot_be_read_is_told(run: TrainedTask, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png"):
        run.encode_image([tmp_path / "nothing.png"])
    with pytest.raises(DataError, match="text"):
        run.encode_text(["..."])


@pytest.mark.parametrize("name", ["ve", "vqa"])
def test_tasks_without_projections_or_matching_say_so(
    name: str, digits: Path, tiny: list[str], tmp_path: Path, pictures: list[Path]
) -> None:
    run = elip.load_task(saved(small_task(name, small_run(name, digits, tiny)), tmp_path / "mine/best.pt"))
    with pytest.raises(ElipError, match=rf"task '{name}' has no projections to a joint space"):
        run.encode_image(pictures)
    with pytest.raises(ElipError, match=rf"task '{name}' has no projections to a joint space"):
        run.encode_text(TEXTS)
    with pytest.raises(ElipError, match=rf"task '{name}' has no head that matches"):
        run.match(pictures, TEXTS)


def test_the_last_checkpoint_is_taken_where_there_is_no_best_one(task: Task, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        elip.load_task(tmp_path)
    folder = saved(task, tmp_path / "mine/checkpoint-00000003.pt")
    assert elip.load_task(folder, "eval.reducer.name=none").path.name == "checkpoint-00000003.pt"


def test_loading_draws_no_random_numbers(task: Task, tmp_path: Path) -> None:
    folder = saved(task, tmp_path / "mine/best.pt")
    before = torch.get_rng_state()
    elip.load_task(folder, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


PLUGIN = """
from elip.reduction import REDUCERS, NoReduction

@REDUCERS.register("of_my_own")
class OfMyOwn(NoReduction):
    def __init__(self, encoder):
        super().__init__()
"""


def test_plug_ins_that_only_the_checkpoint_names_are_not_imported(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    folder = saved(task, tmp_path / "mine/best.pt")
    contents = torch.load(folder / "best.pt", weights_only=True)
    contents["config"]["plugins"] = [str(plugin)]
    contents["config"]["reducer"] = {"name": "of_my_own"}
    torch.save(contents, folder / "best.pt")
    with pytest.raises(ConfigError, match=rf"plugins: .*{re.escape(str(plugin))}.*only where you name it"):
        elip.load_task(folder)
    assert "of_my_own" not in REDUCERS.names()
    monkeypatch.setattr(REDUCERS, "_classes", dict(REDUCERS._classes))
    run = elip.load_task(folder, plugins=[plugin])
    assert type(run.task.model.albef.reducer).__name__ == "OfMyOwn"


def test_the_readmes_lines_run(
    task: Task, tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"(task = elip\.load_task.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.S)
    saved(task, tmp_path / "runs/mine/best.pt")
    for name, path in zip(("dog.jpg", "cup.jpg"), pictures, strict=False):
        Image.open(path).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"elip": elip}
    exec(code, names)
    similarity = names["similarity"]
    assert isinstance(similarity, Tensor)
    assert similarity.shape == (2, 2)
    assert similarity.abs().max() <= 1 + 1e-6
