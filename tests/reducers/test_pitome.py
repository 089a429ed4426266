"""PiToMe: patches with many others like them are merged, what stands alone is protected."""

import torch

from reducers.pitome import energy_matching


def test_pairs_are_taken_from_the_crowd_and_loners_stay() -> None:
    crowd, loners = [[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [1.0, 0.03]], [[0.0, 1.0], [-1.0, 0.0]]
    metric = torch.tensor([[loners[0], *crowd[:2], loners[1], *crowd[2:]]])
    matching = energy_matching(metric, remove=2, margin=0.9)
    touched = {*matching.source[0].tolist(), *matching.target[0].tolist()}
    assert touched <= {1, 2, 4, 5}
    assert matching.order[0, :2].tolist() == [0, 3]
    assert sorted(matching.source[0].tolist() + matching.order[0].tolist()) == [*range(6)]


def test_each_goes_to_the_most_similar_of_the_other_half() -> None:
    angles = torch.tensor([0.00, 0.30, 0.02, 0.29])
    metric = torch.stack([angles.cos(), angles.sin()], dim=-1).unsqueeze(0)
    matching = energy_matching(metric, remove=2, margin=0.0)
    for source, target in zip(matching.source[0].tolist(), matching.target[0].tolist(), strict=True):
        others = {*matching.order[0].tolist()}
        nearest = min(others, key=lambda other, source=source: abs(angles[other] - angles[source]))
        assert target == nearest


def test_beyond_the_margin_similarity_counts_little() -> None:
    alike, apart = [[1.0, 0.0], [1.0, 0.05]], [[0.7, 0.7], [0.4, 0.9], [-0.2, 1.0], [0.1, 1.0]]
    strict = energy_matching(torch.tensor([alike + apart]), remove=1, margin=0.99)
    assert {*strict.source[0].tolist(), *strict.target[0].tolist()} <= {0, 1, 4, 5}
