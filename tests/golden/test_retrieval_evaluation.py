"""ITC ranking and ITM re-ranking against the published code's numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from elip.task.recall import RetrievalScores, recalls, right_ranks, score_retrieval
from elip.testing import LocalEvaluator

from .model import golden_task


class Images(Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


@pytest.fixture(scope="module")
def golden(golden_albef: Path) -> dict[str, Tensor]:
    return load_file(golden_albef / "retrieval.safetensors")


@pytest.fixture(scope="module")
def meta(golden_albef: Path) -> dict[str, Any]:
    return json.loads((golden_albef / "meta.json").read_text())


def score(folder: Path, golden: dict[str, Tensor], queue_size: int, k: int) -> RetrievalScores:
    settings = {"name": "retrieval", "queue_size": queue_size}
    task = golden_task(folder, settings, {"name": "none"}, "retrieval_weights.safetensors")
    with torch.no_grad():
        return score_retrieval(
            task.model.albef,
            task.model.matching_logits,
            Images(golden["eval.image"]),
            lambda images: {"image": torch.stack(images)},
            golden["eval.input_ids"],
            golden["eval.attention_mask"],
            k,
            LocalEvaluator(),
        )


def test_similarities_and_reranked_scores(golden_albef: Path, golden: dict[str, Tensor], meta: dict[str, Any]) -> None:
    found = score(golden_albef, golden, meta["config"]["Q"], meta["retrieval_eval"]["k_test"])
    torch.testing.assert_close(found.similarity, golden["eval.similarity"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.i2t, golden["eval.score_i2t"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.t2i, golden["eval.score_t2i"], atol=1e-5, rtol=1e-5)


def test_matching_score_of_every_pair(golden_albef: Path, golden: dict[str, Tensor], meta: dict[str, Any]) -> None:
    every_image = len(golden["eval.image"])
    found = score(golden_albef, golden, meta["config"]["Q"], every_image)
    torch.testing.assert_close(found.t2i.T, golden["eval.itm_score_all_pairs"], atol=1e-5, rtol=1e-5)


def test_recalls(golden: dict[str, Tensor], meta: dict[str, Any]) -> None:
    answer = meta["retrieval_eval"]
    text_to_image = [answer["txt2img"][str(i)] for i in range(len(answer["txt2img"]))]
    image_to_texts = [answer["img2txt"][str(i)] for i in range(len(answer["img2txt"]))]
    assert recalls(
        *right_ranks(golden["eval.score_i2t"], golden["eval.score_t2i"], image_to_texts, text_to_image)
    ) == pytest.approx(answer["metrics"])
