"""How true an encoder stays to itself under reducers: what is measured, at which cost, and what is left out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

import elip
from elip.config.schema import ReducerConfig
from elip.data.images import ImageFolder
from elip.errors import DataError, ElipError
from elip.lab.fidelity import measure as measuring
from elip.lab.fidelity.features import encode, pooled
from elip.lab.fidelity.measure import Asked, Fidelity, Measured, Settings, measure, recall_by_picture
from elip.lab.fidelity.picture_sets import PictureSet, pictures_of_folder
from elip.lab.fidelity.subjects import VitSubject
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Watch
from elip.registry import REDUCERS
from tests.lab.fidelity.small_vit import (
    ELIP,
    POOL,
    RANDOM,
    SIDE,
    SIT,
    TOME,
    TOPK,
    class_folders,
    small_vit,
    vit_subject,
    weights_file,
)

QUICK = Settings(neighbours=4, votes=3, batch=4, draws=2, rounds=0)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> VitSubject:
    return vit_subject(weights_file(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    return pictures_of_folder(class_folders(tmp_path_factory.mktemp("pictures")), ImageFolder())


def measured(
    subject: VitSubject, pictures: PictureSet, *reducers: str, shares: tuple[float, ...] = (), named: bool = True
) -> Fidelity:
    asked = [Asked(subject.parse(reducer), named) for reducer in (RANDOM, *reducers)]
    return measure(subject, pictures, asked, shares, QUICK, shares=True)


def named(found: Fidelity, name: str) -> list[Measured]:
    return [one for one in found.arms if one.arm.reducer.name == name]


def tensors(subject: VitSubject, pictures: PictureSet) -> torch.Tensor:
    return torch.stack([subject.transform(pictures.images.open(path)) for path in pictures.paths])


@torch.no_grad()
def test_features_are_those_of_the_reduced_vit(subject: VitSubject, pictures: PictureSet) -> None:
    """Beside a ViT of timm's own under the same reducer, with its own head and its own map from tokens to patches."""
    vit = small_vit(num_classes=0)
    images = tensors(subject, pictures)
    for reducer, params in (("topk", {"begin": [1], "keep_ratio": [0.25]}), ("tome", {"r": 1})):
        alone = elip.reduced(vit, reducer, **params)
        made = subject.make(ReducerConfig(name=reducer, **params)).reducer
        dense, found = encode(subject, [made], images.split(4))
        torch.testing.assert_close(dense.pooled, vit(images), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.pooled, alone(images), atol=1e-5, rtol=1e-4)
        whole, left = vit.forward_features(images)[:, 1:], alone.walk(images).restore().flatten(1, 2)
        expected = F.cosine_similarity(left, whole, dim=-1).mean(dim=1)
        torch.testing.assert_close(found.patches, expected, atol=1e-4, rtol=1e-4)
        assert found.patches is not None
        if reducer == "topk":  # what is dropped counts as nothing alike: 12 of 16 patches
            assert found.patches.max() <= 0.25


def test_tokens_are_not_held_beyond_their_batch(subject: VitSubject, pictures: PictureSet) -> None:
    """The feature of a ViT that pools CLS is a part of all its tokens, which must not stay for it."""
    seen: list[StorageWeakRef] = []
    alive: list[int] = []

    def batches() -> Iterator[torch.Tensor]:
        for batch in tensors(subject, pictures).split(5):
            alive.append(sum(not tokens.expired() for tokens in seen[:-2]))  # the last two may still have a name
            yield batch

    hook = subject.encoder.register_forward_hook(
        lambda _module, _args, output: seen.append(StorageWeakRef(output.embeds.untyped_storage()))
    )
    encode(subject, [subject.make(subject.parse(TOME)).reducer], batches())
    hook.remove()
    assert len(seen) == 6
    assert alive == [0, 0, 0]


@torch.no_grad()
def test_images_that_keep_different_numbers_of_tokens_are_pooled_each_by_its_own() -> None:
    encoder = VisionEncoder(small_vit(num_classes=0, global_pool="avg")).eval()
    images = torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    ats = REDUCERS.build("ats", encoder.info(), begin=[1], keep_ratio=[0.5])
    together = encoder(images, ats, None, Watch(source=True))
    assert together.mask is not None
    assert not together.mask.all()
    alone = torch.cat([pooled(encoder, encoder(image.unsqueeze(0), ats)) for image in images])
    torch.testing.assert_close(pooled(encoder, together), alone, atol=1e-5, rtol=1e-4)


def test_scores_are_those_of_a_count_by_hand(subject: VitSubject, pictures: PictureSet) -> None:
    found = measured(subject, pictures, TOPK)
    (topk,) = named(found, "topk")
    made = subject.make(topk.arm.reducer).reducer
    dense, own = (one.pooled for one in encode(subject, [made], [tensors(subject, pictures)]))

    def similar(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
        return (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).numpy()

    def first(similarity: np.ndarray, picture: int, count: int) -> list[int]:
        return [other for other in np.argsort(-similarity[picture]) if other != picture][:count]

    def vote(similarity: np.ndarray, picture: int) -> bool:
        classes = [pictures.classes[other] for other in first(similarity, picture, 3)]
        return max(classes, key=classes.count) == pictures.classes[picture]

    among_dense, among_own, across = similar(dense, dense), similar(own, own), similar(own, dense)
    everyone = range(len(pictures.paths))
    shared = [len({*first(among_own, i, 4)} & {*first(among_dense, i, 4)}) / 4 for i in everyone]
    np.testing.assert_allclose(topk.scores["pooled_cosine"][0], np.diag(across), atol=1e-5)
    np.testing.assert_allclose(topk.scores["neighbours"][0], [100 * share for share in shared])
    np.testing.assert_array_equal(topk.scores["own_bank"][0], [100 * vote(among_own, i) for i in everyone])
    np.testing.assert_array_equal(topk.scores["dense_bank"][0], [100 * vote(across, i) for i in everyone])
    np.testing.assert_array_equal(found.dense.scores["own_bank"][0], [100 * vote(among_dense, i) for i in everyone])
    assert 0 < topk.scores["neighbours"].mean() < 100
    assert {len(set(map(tuple, scores))) for scores in topk.scores.values()} == {1}


@pytest.fixture(scope="module")
def at_budgets(subject: VitSubject, pictures: PictureSet) -> Fidelity:
    """Several reducers, of which pool cannot save half, elip needs a text, and sit has parameters."""
    return measured(subject, pictures, TOME, POOL, ELIP, SIT, shares=(0.8, 0.6))


def test_each_budget_has_its_yardstick_and_all_keep_to_it(at_budgets: Fidelity) -> None:
    whole = at_budgets.dense.arm.cost.total
    assert [(one.arm.reducer.name, round(one.arm.budget / whole, 3)) for one in at_budgets.arms] == [
        *((name, 0.8) for name in ("random", "tome", "pool", "sit")),
        *((name, 0.6) for name in ("random", "tome", "sit")),
    ]
    for one in at_budgets.arms:
        assert 0.8 * one.arm.budget < one.arm.cost.total <= one.arm.budget
        draws = 2 if one.arm.reducer.name == "random" else 1
        assert {scores.shape for scores in one.scores.values()} == {(draws, 15)}
    for random in named(at_budgets, "random"):
        assert not np.array_equal(*random.scores["pooled_cosine"])
    mild, strong = (one.scores["pooled_cosine"].mean() for one in named(at_budgets, "tome"))
    assert strong < mild < 1


def test_the_dense_encoder_is_wholly_true_to_itself(at_budgets: Fidelity) -> None:
    scores = at_budgets.dense.scores
    for name, whole in (("pooled_cosine", 1), ("patch_cosine", 1), ("neighbours", 100)):
        np.testing.assert_allclose(scores[name], whole, atol=1e-4)
    np.testing.assert_array_equal(scores["own_bank"], scores["dense_bank"])
    assert "txt_r1" not in scores


def test_what_cannot_be_measured_is_noted_and_the_others_go_on(at_budgets: Fidelity) -> None:
    text, budget, yardstick = sorted(at_budgets.notes)
    assert text.startswith("elip")
    assert "is left out: it needs a text" in text
    assert budget.startswith("pool begin=[2] is left out: a budget of")
    assert "out of reach" in budget
    assert yardstick == "random drops at block 1 alone: its usual blocks cannot reach all budgets."


def test_untrained_parameters_are_marked(at_budgets: Fidelity) -> None:
    assert {one.arm.reducer.name for one in at_budgets.arms if one.arm.unranked} == {"sit"}
    for sit in named(at_budgets, "sit"):
        assert sit.arm.unranked == "its parameters are not trained"
        assert "patch_cosine" not in sit.scores  # mixed softly, no patch has a place


def test_parameters_as_given_meet_a_yardstick_of_their_own_cost(subject: VitSubject, pictures: PictureSet) -> None:
    found = measured(subject, pictures, TOME, TOPK)
    pairs = [(found.arms[i].arm, found.arms[i + 1].arm) for i in (0, 2)]
    assert [(random.reducer.name, other.label) for random, other in pairs] == [
        ("random", "tome r=1"),
        ("random", "topk begin=[1] keep_ratio=[0.25]"),
    ]
    for random, other in pairs:
        assert 0.9 * other.cost.total < random.cost.total <= other.cost.total == random.budget
        assert random.reducer.params["begin"] == [1]  # what the user says of random is said of the yardstick


def test_a_named_reducer_that_does_not_fit_is_a_mistake_and_one_of_all_is_noted(
    subject: VitSubject, pictures: PictureSet
) -> None:
    beyond = "{name: topk, begin: [20], keep_ratio: [0.5]}"
    with pytest.raises(ElipError, match="block 20 does not exist"):
        measured(subject, pictures, beyond, TOME)
    found = measured(subject, pictures, beyond, TOME, named=False)
    assert [one.arm.reducer.name for one in found.arms] == ["random", "tome"]
    assert "block 20 does not exist" in found.notes[0]


def test_random_drops_early_at_all_budgets_where_its_usual_blocks_cannot_reach_one(
    subject: VitSubject, pictures: PictureSet
) -> None:
    """Its usual blocks are 2, 4 and 10, and this ViT has 4."""
    found = measure(subject, pictures, [Asked(subject.parse(TOME))], (0.8, 0.6), QUICK, shares=True)
    assert [one.arm.reducer.params["begin"] for one in named(found, "random")] == [[1], [1]]
    assert found.notes == ["random drops at block 1 alone: its usual blocks cannot reach all budgets."]


def test_nothing_to_measure_says_why(subject: VitSubject, pictures: PictureSet) -> None:
    with pytest.raises(ElipError, match=r"nothing to measure\. elip .*is left out: it needs a text"):
        measured(subject, pictures, ELIP)


def test_the_same_seed_gives_the_same_figures(subject: VitSubject, pictures: PictureSet) -> None:
    def scores(seed: int) -> list[np.ndarray]:
        torch.rand(seed + 1)  # whatever was drawn before
        asked, settings = (
            [Asked(subject.parse(reducer)) for reducer in (RANDOM, SIT)],
            Settings(4, 3, 5, 2, 0, seed),
        )
        return [one.scores["pooled_cosine"] for one in measure(subject, pictures, asked, (), settings).arms]

    once, again, other = scores(0), scores(0), scores(7)
    for mine, same, different in zip(once, again, other, strict=True):
        np.testing.assert_array_equal(mine, same)
        assert not np.array_equal(mine, different)


def test_reducers_are_timed_in_turn(subject: VitSubject, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = measuring.time_in_turn

    def counted(functions, device, rounds):
        asked.append(len(functions))
        return real(functions, device, rounds, warmup=0)

    monkeypatch.setattr(measuring, "time_in_turn", counted)
    settings = Settings(4, 3, rounds=2, draws=2)
    found = measure(subject, pictures, [Asked(subject.parse(one)) for one in (RANDOM, TOME)], (), settings)
    assert asked == [3]  # dense, one draw of random, tome
    assert [len(one.timing.ratios) for one in (found.dense, *found.arms) if one.timing] == [2, 2, 2]


def test_too_few_pictures_are_refused(subject: VitSubject, pictures: PictureSet) -> None:
    with pytest.raises(DataError, match="4 pictures are too few for 4 neighbours"):
        measured(subject, pictures.spread(4), TOME)


def test_a_broken_picture_is_named(subject: VitSubject, tmp_path: Path) -> None:
    folder = class_folders(tmp_path)
    (folder / "kind1/2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"kind1/2\.png: not an image"):
        measured(subject, pictures_of_folder(folder, ImageFolder()), TOME)


def test_recall_of_a_picture_counts_its_own_texts() -> None:
    """Three pictures; texts 0 and 1 are of the first, 2 of the second, 3 of the third."""
    similarity = torch.tensor([[0.1, 0.5, 0.9, 0.2], [0.2, 0.6, 0.8, 0.3], [0.4, 0.7, 0.2, 0.1]])
    found = recall_by_picture(similarity, [[0, 1], [2], [3]])
    assert found["txt_r1"].tolist() == [0, 100, 0]
    assert found["txt_r5"].tolist() == [100, 100, 100]
    # text 0 finds the third picture first, text 1 too; text 2 the first one; text 3 the second one
    assert found["img_r1"].tolist() == [0, 0, 0]
    better = torch.tensor([[0.9, 0.5, 0.1, 0.2], [0.2, 0.6, 0.8, 0.3], [0.4, 0.1, 0.2, 0.7]])
    assert recall_by_picture(better, [[0, 1], [2], [3]])["img_r1"].tolist() == [50, 100, 100]
