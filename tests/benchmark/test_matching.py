"""The re-ranking that is timed: that of an evaluation, of all pairs."""

import pytest
import torch

from elip.benchmark.matching import IMAGES, Reranking
from elip.config import load_config
from elip.errors import ConfigError
from elip.task.recall import NOT_RANKED
from tests.conftest import PROJECT

CPU = torch.device("cpu")


@pytest.mark.parametrize("texts", [1, 7])
def test_each_call_matches_all_pairs_anew(tiny: list[str], texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reranking = Reranking(load_config(PROJECT / "configs/demo/pretrain.yaml", tiny), texts, CPU)
    assert reranking.pairs == IMAGES * texts
    first = reranking()["score"]
    assert first.shape == (IMAGES, texts)
    assert (first != NOT_RANKED).all()
    assert not first.requires_grad
    layers, forward = [], torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: layers.append(self) or forward(self, x))
    assert torch.equal(reranking()["score"], first)
    assert layers
    assert len({*first.flatten().tolist()}) == IMAGES * texts  # images and texts all differ
    assert reranking.peak_bytes() is None


def test_a_task_that_ranks_nothing_is_refused() -> None:
    config = load_config(PROJECT / "configs/demo/grounding.yaml")
    with pytest.raises(ConfigError, match="grounding has no re-ranking to time"):
        Reranking(config, 3, CPU)
