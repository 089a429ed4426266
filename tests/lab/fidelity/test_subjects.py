"""The image encoder of a trained run as the lab measures it: its parameters, its texts, its own reducer."""

from pathlib import Path

import pytest
import torch

import elip
from elip.config import config_to_dict
from elip.lab.fidelity.measure import Asked, Settings, measure
from elip.lab.fidelity.picture_sets import pictures_of_pairs
from elip.lab.fidelity.subjects import RunSubject
from elip.task.recall import ranks, recalls
from elip.trained import TrainedTask
from elip.weights.files import write_weights
from tests.tasks.small import small_task, without_reducer

SIT = "{name: sit, begin: [1], keep_ratio: [0.5]}"


def trained(tiny: list[str], folder: Path) -> TrainedTask:
    """Return a run whose own reducer has parameters, here random ones."""
    task = small_task("pretrain", [*without_reducer(tiny), f"reducer={SIT}"])
    folder.mkdir()
    write_weights(
        folder / "best.pt", task.state_dict(), "elip", {"config": config_to_dict(task.config), "step": 3, "epoch": 1}
    )
    return elip.load_task(folder, device="cpu")


@pytest.fixture
def run(tiny: list[str], tmp_path: Path) -> TrainedTask:
    return trained(tiny, tmp_path / "mine")


def test_a_reducer_has_the_trained_parameters_where_they_fit(run: TrainedTask) -> None:
    subject, own = RunSubject(run), run.task.model.albef.reducer
    same = subject.make(subject.parse(SIT))
    assert same.trained
    for name, weight in own.state_dict().items():
        assert torch.equal(same.reducer.state_dict()[name], weight)
    other_count = subject.make(subject.parse("{name: sit, begin: [1], keep_ratio: [0.25]}"))
    other_kind = subject.make(subject.parse("{name: patchmerger, begin: [1], keep_ratio: [0.5]}"))
    assert not other_count.trained
    assert not other_kind.trained
    assert subject.make(subject.parse("tome")).trained  # it has none


def test_recall_is_that_of_the_encoders_features(run: TrainedTask, digits: Path) -> None:
    subject = RunSubject(run)
    pictures = pictures_of_pairs(digits / "retrieval_val.json", subject.images)
    found = measure(subject, pictures, [Asked(subject.parse(SIT))], (), Settings(3, 3, draws=1, rounds=0))
    captions = [text for several in pictures.captions for text in several]
    each = len(captions) // len(pictures.paths)
    owner = [number // each for number in range(len(captions))]
    own = [[number for number, picture in enumerate(owner) if picture == mine] for mine in range(len(pictures.paths))]
    paths = [digits / "images" / path for path in pictures.paths]
    task = run.task.model.albef
    reducer, task.reducer = task.reducer, None
    dense = run.encode_image(paths) @ run.encode_text(captions).T
    task.reducer = reducer
    under = run.encode_image(paths) @ run.encode_text(captions).T
    (sit,) = (one for one in found.arms if one.arm.reducer.name == "sit")
    assert not sit.arm.unranked
    for scores, similarity in ((found.dense.scores, dense), (sit.scores, under)):
        text_ranks = [min(ranks(row, texts)) for row, texts in zip(similarity, own, strict=True)]
        image_ranks = [ranks(similarity[:, text], [picture])[0] for text, picture in enumerate(owner)]
        expected = recalls(text_ranks, image_ranks)
        for name in ("txt_r1", "txt_r5", "img_r1", "img_r5"):
            assert scores[name].mean() == pytest.approx(expected[name])
