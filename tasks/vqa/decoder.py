"""The decoder that answers questions: causal BERT layers that attend to the hidden states of a question.

Li et al., "Align before Fuse", NeurIPS 2021, section 5 (VQA), after Cho et al., ICML 2021, arXiv:2102.02779.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from elip.models.bert_layers import Embeddings, KeyValue, Layer, LayerStack, init_bert_weights, key_mask
from elip.models.text import MLMHead

ROWS_AT_ONCE = 4096
"""Words scored at once: their logits over a vocabulary of 30,522 take half a gigabyte."""


class QuestionKV(NamedTuple):
    """Keys and values of B questions for every layer, and the mask over their tokens [B, L]."""

    layers: tuple[KeyValue, ...]
    mask: Tensor

    def select(self, index: Tensor) -> "QuestionKV":
        """Return those of the questions at `index`."""
        return QuestionKV(tuple(kv.select(index) for kv in self.layers), self.mask[index])


class Written(NamedTuple):
    """Answers written word by word: token ids [B, L], and how likely they are, [B]."""

    ids: Tensor
    likelihood: Tensor


class AnswerDecoder(nn.Module):
    """BERT that writes answers, each word from the words before it and the question.

    Args:
        config: BERT's; the number of its layers does not count here.
        num_layers: of this decoder.
    """

    cost_part: ClassVar[str] = "heads"

    def __init__(self, config: BertConfig, num_layers: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack([Layer(config, config.hidden_size) for _ in range(num_layers)])
        self.mlm_head = MLMHead(config)
        self.apply(lambda module: init_bert_weights(module, config.initializer_range))

    def project(self, states: Tensor, mask: Tensor) -> QuestionKV:
        """Return keys and values of questions, for all answers to them.

        Shape:
            states: [B, L, D], hidden states;  mask: [B, L]
        """
        layers = tuple(layer.crossattention.self.project(states) for layer in self.encoder.layer)  # type: ignore[operator,union-attr]
        return QuestionKV(layers, mask)

    def forward(self, ids: Tensor, question: QuestionKV) -> Tensor:
        """Return hidden states [A, L, D] of answers [A, L], padded on the right; answer a goes with question a % B."""
        x, source_mask = self.embeddings(ids), key_mask(question.mask)
        for layer, kv in zip(self.encoder.layer, question.layers, strict=True):
            x = layer(x, None, kv, source_mask, causal=True)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Return what word comes next, [..., vocabulary], from hidden states [..., D]."""
        return self.mlm_head(hidden, self.embeddings.word_embeddings.weight)

    def next_words(self, ids: Tensor, places: Tensor, question: QuestionKV) -> Tensor:
        """Return logits [M, vocabulary] of the words of answers that follow their first token, answer by answer.

        Shape:
            ids: [A, L], padded on the right; answer a goes with question a % B
            places: [M], of `follows`
        """
        return self.logits(self(ids, question)[:, :-1].flatten(0, 1)[places])

    def log_likelihood(self, ids: Tensor, mask: Tensor, question: QuestionKV) -> Tensor:
        """Return the log-likelihood of answers, [A]; see `next_words`."""
        places = follows(mask)
        hidden, words = (x.flatten(0, 1)[places] for x in (self(ids, question)[:, :-1], ids[:, 1:]))
        parts = zip(hidden.split(ROWS_AT_ONCE), words.split(ROWS_AT_ONCE), strict=True)
        each = [-F.cross_entropy(self.logits(h).float(), w, reduction="none") for h, w in parts]
        return (
            torch.zeros(ids[:, 1:].numel(), device=ids.device)
            .index_put((places,), torch.cat(each))
            .view(len(ids), -1)
            .sum(dim=1)
        )

    def rank(self, ids: Tensor, mask: Tensor, k: int, question: QuestionKV) -> tuple[Tensor, Tensor]:
        """Return the best k of all candidate answers for each question, best first, and their share of the score.

        The k with the likeliest first words are scored in full. As in the published code, the first word then counts
        twice. Scores of the k sum to 1.

        Args:
            ids, mask: [N, L], the candidates, each with the token that starts it and the one that ends it.
            k: answers to score in full, at most N.
            question: B questions.

        Shape:
            returns index [B, k] of candidates, score [B, k]
        """
        start = ids[:1, :1].expand(len(question.mask), 1)
        first = self.logits(self(start, question)[:, 0]).float().log_softmax(dim=1)[:, ids[:, 1]]  # [B, N]
        first, chosen = first.topk(k, dim=1)
        by_place = chosen.T.flatten()  # all first choices, then all second ones: question by question
        full = self.log_likelihood(ids[by_place], mask[by_place], question).view(k, -1).T
        score, order = (first + full).softmax(dim=1).sort(dim=1, descending=True)
        return chosen.gather(1, order), score

    def write(self, question: QuestionKV, start: int, end: int, pad: int, max_length: int) -> Written:
        """Return an answer to each question, at each step the likeliest word.

        Args:
            question: B questions.
            start, end, pad: ids of the token that starts an answer, that ends it, and that follows its end.
            max_length: words, the one that ends the answer included.
        """
        ids = torch.full((len(question.mask), 1), start, device=question.mask.device)
        total = torch.zeros(len(ids), device=ids.device)
        done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(max_length):
            best, word = self.logits(self(ids, question)[:, -1]).float().log_softmax(dim=1).max(dim=1)
            total = total + best.masked_fill(done, 0)
            ids = torch.cat([ids, word.masked_fill(done, pad)[:, None]], dim=1)
            done = done | (word == end)
        return Written(ids, total.exp())


def follows(mask: Tensor) -> Tensor:
    """Return the places of words that the ones before them should predict: [A, L] to [M] among all A * (L - 1)."""
    return mask[:, 1:].flatten().nonzero().flatten()
