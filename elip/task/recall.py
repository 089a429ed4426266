"""Image-text retrieval: rank by similarity, re-rank the best by matching, count recall.

The protocol of ALBEF (Li et al., NeurIPS 2021, section 5), with each pair's matching score computed once: an image
meets all texts it is to be matched with, from either direction, with its keys and values projected once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, inf
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from elip.data.datasets import EvalDataset, collate_samples
from elip.data.tokenizer import Tokenizer
from elip.errors import DataError
from elip.models.albef import Albef
from elip.models.text import ImageKV, TextEncoder
from elip.reduction.guide import Guide, Text, Watch
from elip.sheets import kept_patches_sheet
from elip.task.contract import Batch, EvalResult, Evaluator, ItemScores
from elip.task.examples import Note, draw_best_and_worst
from elip.task.finite import check_finite
from elip.task.pairs import Captioned, Texts, texts_of

TEXTS_AT_ONCE = 64
"""Texts that meet an image together: enough to keep a device busy, and few enough to be of like length."""
NOT_RANKED = -100.0
"""Score of pairs that were not among the best by similarity."""
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalScores:
    """Similarities and re-ranked scores of I images and T texts.

    Shape:
        similarity: [I, T], of unit features
        i2t: [I, T] and t2i: [T, I], matching scores of the best k, `NOT_RANKED` elsewhere
    """

    similarity: Tensor
    i2t: Tensor
    t2i: Tensor


class Numbers(Dataset):
    """The numbers 0 to length - 1, for passes over things that are held elsewhere."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


def evaluate_retrieval(
    albef: Albef,
    match: Callable[[Tensor], Tensor],
    images: EvalDataset[Captioned],
    tokenizer: Tokenizer,
    k: int,
    text_length: int,
    num_examples: int,
    evaluator: Evaluator,
) -> EvalResult:
    """Return recall in both directions, the best texts for each image, and two sheets.

    One shows the images whose own texts are furthest ahead of, and furthest behind, all others; the other one the
    patches that captions keep.

    Args:
        albef, match, k, evaluator: see `score_retrieval`.
        images: with their texts.
        tokenizer: for the texts.
        text_length: tokens of a text, longer ones are cut.
        num_examples: examples on the sheet.
    """
    texts = texts_of(images.examples)
    check_candidates(k, len(images), len(texts.captions))
    ids, mask = tokenizer.encode(texts.captions, text_length)
    scores = score_retrieval(albef, match, images, collate_samples, ids, mask, k, evaluator)
    own = [_best_own(row, right) for row, right in zip(scores.i2t, texts.image_to_texts, strict=True)]
    text_ranks, image_ranks = right_ranks(scores.i2t, scores.t2i, texts.image_to_texts, texts.text_to_image)
    predictions = [
        {
            "image": example.image,
            "texts": [texts.captions[t] for t in row.topk(min(max(RECALL_AT), k)).indices],
            "truth": texts.captions[text],
            "rank": rank,
        }
        for example, row, (text, rank) in zip(images.examples, scores.i2t, own, strict=True)
    ]
    return EvalResult(
        metrics=recalls(text_ranks, image_ranks),
        scores=[
            _mean_recalls(text_ranks, [example.image for example in images.examples]),
            _mean_recalls(image_ranks, [images.examples[image].image for image in texts.text_to_image]),
        ],
        chance=chance_recalls([len(example.captions) for example in images.examples]),
        predictions=predictions,
        sheets={
            **draw_best_and_worst(
                images,
                margin(scores.i2t, texts.image_to_texts),
                lambda index: _describe(predictions[index]),
                lambda batch, watch: albef.encode_image(batch["image"], watch=watch),
                collate_samples,
                ["image"],
                num_examples,
                evaluator,
            ),
            **_kept_patches(albef, images, texts, ids, mask, num_examples, evaluator),
        },
    )


def margin(i2t: Tensor, image_to_texts: Sequence[Sequence[int]]) -> Tensor:
    """Return the margin of the best of an image's own texts over the best of the others; infinite without others.

    Shape:
        i2t: [I, T];  returns [I]
    """
    own = torch.zeros_like(i2t, dtype=torch.bool)
    for row, right in zip(own, image_to_texts, strict=True):
        row[list(right)] = True
    return _where(i2t, own) - _where(i2t, ~own)


def _where(scores: Tensor, chosen: Tensor) -> Tensor:
    return scores.masked_fill(~chosen, -inf).amax(dim=1)


def _best_own(scores: Tensor, right: Sequence[int]) -> tuple[int, int]:
    """Return which of an image's own texts comes first, and its rank from 0."""
    rank, text = min(zip(ranks(scores, right), right, strict=True))
    return text, rank


def _describe(prediction: dict[str, Any]) -> Note:
    lines = [f"first: {prediction['texts'][0]}", f"truth: {prediction['truth']}"]
    return Note(f"own text is no. {prediction['rank'] + 1}", lines)


def _kept_patches(
    albef: Albef,
    images: EvalDataset[Captioned],
    texts: Texts,
    ids: Tensor,
    mask: Tensor,
    num_examples: int,
    evaluator: Evaluator,
) -> dict[str, Any]:
    """A sheet of the first images, each reduced under its first caption; nothing where nothing is reduced."""
    first_text = torch.tensor([own[0] for own in texts.image_to_texts[:num_examples]])

    def encode(batch: Batch) -> dict[str, Tensor]:
        first = first_text[batch["index"].cpu()]
        captions, there = (t[first].to(batch["image"].device) for t in (ids, mask))
        text = Text(albef.text_encoder.encode(captions, there), there)
        output = albef.encode_image(batch["image"], Guide(text), Watch(source=True))
        kept = {f"kept{block}": grid for block, grid in output.kept.items()}
        return {"image": images.to_pixels(batch["image"]), **kept}

    if not len(first_text):
        return {}
    shown = evaluator.map(Subset(images, range(len(first_text))), encode, collate_samples)
    image = shown.pop("image")
    if not shown:
        return {}
    kept = {int(name.removeprefix("kept")): grid for name, grid in shown.items()}
    return {"kept_patches": kept_patches_sheet(image, [texts.captions[t] for t in first_text], kept)}


def check_candidates(k: int, num_images: int, num_texts: int) -> None:
    """Raise an error if there are fewer than k images or texts to re-rank."""
    if k > min(num_images, num_texts):
        raise DataError(
            f"task.k_test: there are {num_images} images and {num_texts} texts, fewer than the {k} candidates to "
            f"re-rank; set it to at most {min(num_images, num_texts)}."
        )


def score_retrieval(
    albef: Albef,
    match: Callable[[Tensor], Tensor],
    images: Dataset,
    collate_images: Callable[[list[Any]], Batch],
    ids: Tensor,
    mask: Tensor,
    k: int,
    evaluator: Evaluator,
) -> RetrievalScores:
    """Return the scores of every image with every text.

    What it holds grows with both: the tokens of a rank's own images, those of all texts, and some 20 bytes a pair. With
    ViT-B/16 at 384 px and texts of 30 tokens an image takes 1.8 MB and a text 0.09 MB: 1,000 images and 5,000 texts
    2.3 GB on one rank.

    Args:
        albef: the encoders.
        match: fused hidden states of [CLS], [K, D], to matching logits [K, 2].
        images: items that `collate_images` joins to a batch with a key `image`.
        ids, mask: [T, L], the tokenised texts.
        k: candidates to re-rank in both directions.
        evaluator: spreads the work over ranks.
    """
    encoder, device = albef.text_encoder, next(albef.parameters()).device
    held: list[tuple[Tensor, Tensor | None]] = []  # this rank's images, for the second pass

    def encode_texts(batch: Batch) -> dict[str, Tensor]:
        hidden = encoder.encode(batch["ids"], batch["mask"])
        return {"attended": encoder.attend_alone(hidden, batch["mask"]), "feat": albef.text_feat(hidden)}

    def encode_images(batch: Batch) -> dict[str, Tensor]:
        output = albef.encode_image(batch["image"])
        # in the computer's own memory: 1.8 MB an image of 384 px, too much for a device where there are thousands
        embeds, masks = output.embeds.cpu(), [None] * len(output.embeds)
        held.extend(zip(embeds, masks if output.mask is None else output.mask.cpu(), strict=True))
        return {"feat": albef.image_feat(output.embeds)}

    texts = evaluator.map(Numbers(len(ids)), encode_texts, lambda rows: {"ids": ids[rows], "mask": mask[rows]})
    check_finite(texts["feat"], "features of texts")
    image_feat = evaluator.map(images, encode_images, collate_images)["feat"]
    check_finite(image_feat, "features of images")
    similarity = image_feat.float() @ texts["feat"].float().T
    best_texts, best_images = _best(similarity, k), _best(similarity.T, k)
    wanted = best_texts | best_images.T
    first = evaluator.shard(len(image_feat)).start

    def match_pairs(batch: Batch) -> dict[str, Tensor]:
        rows = []
        for index in batch["index"].tolist():
            embeds, there = held[index - first]
            kv = encoder.project(embeds[None].to(device), None if there is None else there[None].to(device))
            chosen = wanted[index].nonzero().flatten()
            row = torch.full((len(ids),), NOT_RANKED)
            row[chosen] = match_texts(encoder, match, texts["attended"][chosen], mask[chosen], kv).cpu()
            rows.append(row)
        return {"score": torch.stack(rows).to(device)}  # where a rank without images has its rows

    scores = evaluator.map(Numbers(len(image_feat)), match_pairs, lambda rows: {"index": torch.tensor(rows)})["score"]
    check_finite(scores, "matching scores")
    return RetrievalScores(
        similarity=similarity,
        i2t=scores.masked_fill(~best_texts, NOT_RANKED),
        t2i=scores.T.masked_fill(~best_images, NOT_RANKED),
    )


def match_texts(
    encoder: TextEncoder, match: Callable[[Tensor], Tensor], attended: Tensor, mask: Tensor, image_kv: ImageKV
) -> Tensor:
    """Return the matching scores of texts with one image, [K]; this is what re-ranking spends its time on.

    Texts of like length go together, so that no more is computed of a text than it has tokens, or hardly more.

    Args:
        encoder: the fusion layers.
        match: see `score_retrieval`.
        attended: [K, L, D], from `TextEncoder.attend_alone`, on any device.
        mask: [K, L].
        image_kv: of the image, from `TextEncoder.project`.
    """
    device = image_kv.layers[0].key.device
    lengths = mask.sum(dim=1)
    order = lengths.argsort(stable=True)
    scores = []
    for chunk in order.split(TEXTS_AT_ONCE):
        longest = int(lengths[chunk[-1]])
        text, there = attended[chunk, :longest].to(device), mask[chunk, :longest].to(device)
        scores.append(match(encoder.fuse_cls(text, there, image_kv, attended=True))[:, 1].float())
    return torch.cat(scores)[order.argsort().to(device)]


def right_ranks(
    i2t: Tensor, t2i: Tensor, image_to_texts: Sequence[Sequence[int]], text_to_image: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the ranks, from 0, of the first of its own texts for each image, and of its image for each text.

    Args:
        i2t: [I, T] scores of texts for each image;  t2i: [T, I] scores of images for each text.
        image_to_texts: the right texts of each image;  text_to_image: the right image of each text.
    """
    return (
        [min(ranks(row, right)) for row, right in zip(i2t, image_to_texts, strict=True)],
        [ranks(row, [right])[0] for row, right in zip(t2i, text_to_image, strict=True)],
    )


def recalls(text_ranks: Sequence[int], image_ranks: Sequence[int]) -> dict[str, float]:
    """Return recall at 1, 5, 10 in percent in both directions, and their means.

    `txt_r*` is the share of images with one of their own texts among the first, `img_r*` of texts with theirs.

    Args:
        text_ranks, image_ranks: see `right_ranks`.
    """
    return _with_means(
        txt={at: sum(rank < at for rank in text_ranks) / len(text_ranks) for at in RECALL_AT},
        img={at: sum(rank < at for rank in image_ranks) / len(image_ranks) for at in RECALL_AT},
    )


def _mean_recalls(found: Sequence[int], pictures: list[str]) -> ItemScores:
    """Return one direction's share of `r_mean`, by the ranks of what was to be found and the picture of each."""
    return ItemScores([100 * sum(rank < at for at in RECALL_AT) / len(RECALL_AT) for rank in found], pictures, 0.5)


def chance_recalls(texts_per_image: Sequence[int]) -> dict[str, float]:
    """Return what `recalls` gives on average for a random order of texts and of images.

    Args:
        texts_per_image: how many of all the texts are right for each image.
    """
    num_images, num_texts = len(texts_per_image), sum(texts_per_image)

    def one_found(right: int, at: int) -> float:
        return 1 - comb(num_texts - right, at) / comb(num_texts, at) if at < num_texts else 1.0

    return _with_means(
        txt={at: sum(one_found(right, at) for right in texts_per_image) / num_images for at in RECALL_AT},
        img={at: min(1.0, at / num_images) for at in RECALL_AT},
    )


def _with_means(**shares: dict[int, float]) -> dict[str, float]:
    """Name recalls given as shares, in percent, and add their means."""
    metrics = {}
    for side, found in shares.items():
        metrics.update({f"{side}_r{at}": 100.0 * share for at, share in found.items()})
        metrics[f"{side}_r_mean"] = 100.0 * sum(found.values()) / len(found)
    metrics["r_mean"] = (metrics["txt_r_mean"] + metrics["img_r_mean"]) / 2
    return metrics


def ranks(scores: Tensor, places: Sequence[int]) -> list[int]:
    """Return the rank, from 0, of each of `places` by falling score; of equal scores the later place goes first.

    Shape:
        scores: [N]
    """
    index = torch.arange(len(scores))
    mine = torch.tensor(list(places))
    ahead = scores[None] > scores[mine][:, None]
    tied = (scores[None] == scores[mine][:, None]) & (index[None] > mine[:, None])
    return (ahead | tied).sum(dim=1).tolist()


def _best(similarity: Tensor, k: int) -> Tensor:
    """[rows, columns] bool, True at the k largest of each row."""
    best = torch.zeros_like(similarity, dtype=torch.bool)
    return best.scatter(1, similarity.topk(k, dim=1).indices, True)
