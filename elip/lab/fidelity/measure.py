"""How true an encoder stays to itself under token reducers, without training: features, neighbours, classes, recall.

Every score is one number a picture, so that whatever is said of a reducer has an interval over pictures. The yardstick
is `random`: patches drawn by lot at the same cost, several draws of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from elip.config.schema import ReducerConfig
from elip.efficiency.costed import BASELINE, Pictures, within_budget
from elip.efficiency.report import label
from elip.efficiency.resources import Timing, time_in_turn
from elip.efficiency.vision_cost import VisionCost
from elip.errors import ConfigError, DataError, ElipError
from elip.lab.fidelity.features import Features, encode, pooled
from elip.lab.fidelity.neighbours import agreement, nearest, voted
from elip.lab.fidelity.picture_sets import PictureSet
from elip.lab.fidelity.subjects import Subject
from elip.reduction.guide import Guide
from elip.reduction.reducer import NoReduction, TokenReducer
from elip.task.recall import RECALL_AT, right_ranks
from elip.undisturbed import undisturbed

YARDSTICK = "random"
"""The reducer that all others are held against."""
EARLY = (1, 0)
"""Blocks at which the yardstick drops all at once where its own cannot reach a budget."""
COSTED_PICTURES = 32
"""Pictures that costs are the mean of where they differ between pictures."""
CPU_TIMED = 8
"""Pictures in a batch that is timed on a CPU."""

Scores = dict[str, np.ndarray]
"""By metric, one number a picture, [draws, N]; of all but the yardstick there is one draw."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        neighbours: nearest neighbours of a picture that are compared.
        votes: nearest neighbours that vote for a picture's class.
        batch: pictures that are encoded at once.
        draws: of the yardstick.
        rounds: how often each reducer is timed; 0 for not at all.
        seed: of the yardstick's first draw and of untrained parameters.
    """

    neighbours: int = 10
    votes: int = 5
    batch: int = 32
    draws: int = 5
    rounds: int = 5
    seed: int = 0


class Asked(NamedTuple):
    """A reducer to measure.

    Args:
        reducer: with the parameters given.
        named: whether the user named it, so that parameters which do not fit are a mistake and not passed over.
    """

    reducer: ReducerConfig
    named: bool = True


@dataclass(frozen=True)
class Arm:
    """A reducer at one strength, to be measured.

    Args:
        label: what to call it.
        reducer: with its parameters.
        budget: multiply-adds that it was to keep to, and the yardstick beside it keeps to.
        cost: of an image in the encoder.
        modules: the reducer made for the encoder; several of the yardstick, one a draw.
        unranked: why it cannot be ranked among the others; "" if it can.
    """

    label: str
    reducer: ReducerConfig
    budget: float
    cost: VisionCost
    modules: list[TokenReducer]
    unranked: str = ""


@dataclass(frozen=True)
class Measured:
    """What was measured of an arm; time is None where it was not taken."""

    arm: Arm
    scores: Scores
    timing: Timing | None = None


@dataclass(frozen=True)
class Fidelity:
    """All that was measured.

    Args:
        dense: with all tokens kept.
        arms: the reducers, the yardstick of each budget before those held against it.
        notes: one line each on what was left out, and why.
    """

    dense: Measured
    arms: list[Measured]
    notes: list[str] = field(default_factory=list)


def measure(
    subject: Subject,
    pictures: PictureSet,
    asked: Sequence[Asked],
    budgets: Sequence[float] = (),
    settings: Settings | None = None,
    *,
    shares: bool = False,
) -> Fidelity:
    """Return how true the encoder stays to itself under the reducers, at each budget.

    Args:
        subject: the encoder.
        pictures: to measure on.
        asked: the reducers; where `random` is among them, its parameters are those of the yardstick.
        budgets: GMACs of an image; the planner finds the weakest parameters that keep to each. None for parameters as
            they are given; the yardstick is then planned to each reducer's own cost.
        settings: how to measure.
        shares: whether budgets are shares of the cost with all tokens.

    Raises:
        DataError: there are too few pictures, or one cannot be read.
        ElipError: a reducer that was named does not fit the encoder; nothing is left to measure.
    """
    settings = settings or Settings()
    _check_numbers(len(pictures.paths), pictures.classes is not None, settings)
    plan = _Planner(subject, pictures, settings)
    arms = plan.arms(asked, [one * (plan.dense.cost.total if shares else 1e9) for one in budgets])
    modules = [module for arm in arms for module in arm.modules]
    with undisturbed(subject.encoder, buffers=False, seed=settings.seed):
        found = encode(subject, modules, plan.batches(len(modules) + 1), plan.captions)
        timings = _timed(plan, [plan.dense, *arms])
    score = _Scoring(subject, pictures, settings, found[0])
    dense = Measured(plan.dense, score.of([found[0]]), timings[0])
    measured, place = [], 1
    for arm, timing in zip(arms, timings[1:], strict=True):
        measured.append(Measured(arm, score.of(found[place : place + len(arm.modules)]), timing))
        place += len(arm.modules)
    return Fidelity(dense, measured, plan.notes)


def _check_numbers(count: int, classes: bool, settings: Settings) -> None:
    needed = max(settings.neighbours, settings.votes if classes else 0)
    if count <= needed:
        raise DataError(f"{count} pictures are too few for {needed} neighbours of each: give more, or ask for fewer.")


class _Planner:
    """Finds the reducers to measure, their strength and their cost, and notes what cannot be measured."""

    def __init__(self, subject: Subject, pictures: PictureSet, settings: Settings) -> None:
        self._subject, self._pictures, self._settings = subject, pictures, settings
        self._opened = Pictures(pictures.images, pictures.paths, subject.transform)
        self._costed = Pictures(pictures.images, pictures.spread(COSTED_PICTURES).paths, subject.transform)
        self.notes: list[str] = []
        keep_all = ReducerConfig(name=BASELINE)
        cost = subject.cost(keep_all, None)
        self.dense = Arm("dense", keep_all, cost.total, cost, [NoReduction()])

    @property
    def subject(self) -> Subject:
        return self._subject

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def captions(self) -> list[str] | None:
        """The first caption of each picture."""
        captions = self._pictures.captions
        return None if captions is None else [several[0] for several in captions]

    def batches(self, passes: int) -> Iterator[Tensor]:
        """Yield all pictures, batch by batch; whoever waits at a terminal sees how many are done."""
        size = self._settings.batch
        starts = range(0, len(self._opened), size)
        for start in tqdm(starts, desc=f"pictures, {passes} passes each", unit="batch", disable=None):
            stop = min(start + size, len(self._opened))
            yield torch.stack([self._opened[place] for place in range(start, stop)])

    def first(self, count: int) -> tuple[Tensor, Guide | None]:
        """Return the first pictures, and what their captions tell."""
        images = torch.stack([self._opened[place] for place in range(min(count, len(self._opened)))])
        captions = self.captions
        guide = None if captions is None else self._subject.guide(captions[: len(images)])
        return images.to(next(self._subject.encoder.parameters()).device), guide

    def arms(self, asked: Sequence[Asked], budgets: Sequence[float]) -> list[Arm]:
        """Return what is to be measured, the yardstick of each budget before the others."""
        yardstick = next((one.reducer for one in asked if one.reducer.name == YARDSTICK), None)
        usable = [one for one in asked if one.reducer.name not in (YARDSTICK, BASELINE) and self._fits(one)]
        goals: list[float | None] = [*budgets] or [None]
        wanted = [(one.reducer, budget) for budget in goals for one in usable]
        found = [arm for reducer, budget in wanted if (arm := self._arm(reducer, budget))]
        if not found and not (yardstick and budgets):
            raise ConfigError(" ".join(["there is nothing to measure.", *self.notes]))
        reached = budgets or list(dict.fromkeys(arm.budget for arm in found))
        yardsticks = self._yardsticks(yardstick, reached)
        return [arm for budget in reached for arm in (*yardsticks, *found) if arm.budget == budget]

    def _yardsticks(self, given: ReducerConfig | None, budgets: Sequence[float]) -> list[Arm]:
        """Return the yardstick at each budget that it reaches: all with stages at the same blocks.

        Unless the user has said where they are, they are the default ones, or a single early one where those cannot
        save as much as some budget asks for.
        """
        early = [ReducerConfig(name=YARDSTICK, begin=[block], keep_ratio=[0.5]) for block in EARLY]
        arms, noted = [], len(self.notes)
        for random in [given] if given else [self._subject.parse(YARDSTICK), *early]:
            del self.notes[noted:]
            arms = [arm for budget in budgets if (arm := self._arm(random, budget))]
            if len(arms) == len(budgets):
                break
        if arms and random in early:
            block = random.params["begin"][0]
            self.notes.append(f"{YARDSTICK} drops at block {block} alone: its usual blocks cannot reach all budgets.")
        return arms

    def _fits(self, asked: Asked) -> bool:
        """Return whether a reducer can be tried in this encoder; if not, note why, or raise for one that was named."""
        reducer = asked.reducer
        try:
            made = self._made(reducer)[0][0]
        except ElipError as error:
            if asked.named:
                raise
            self._leave_out(reducer, str(error))
            return False
        captions = self.captions
        if made.requires_text and (captions is None or self._subject.guide(captions[:1]) is None):
            self._leave_out(reducer, "it needs a text, and here is none: take a trained run with pairs (--run, --data)")
            return False
        if made.requires_teacher:
            self._leave_out(reducer, "it needs what a momentum encoder saw, and here is none")
            return False
        return True

    def _arm(self, reducer: ReducerConfig, budget: float | None) -> Arm | None:
        """Return a reducer at the strength that keeps to a budget, or as it is; None, and a note, if it cannot."""
        found = reducer
        try:
            if budget is not None:
                found = within_budget(self._subject, reducer, budget / 1e9, self._costed)
            cost = self._subject.cost(found, self._costed)
        except ElipError as error:
            self._leave_out(reducer, str(error))
            return None
        modules, trained = self._made(found)
        reason = "" if trained else "its parameters are not trained"
        return Arm(label(reducer), found, cost.total if budget is None else budget, cost, modules, reason)

    def _made(self, reducer: ReducerConfig) -> tuple[list[TokenReducer], bool]:
        """Return the modules of a reducer, a draw each, and whether all their parameters are trained."""
        first = reducer.params.get("seed", self._settings.seed)
        draws = [reducer]
        if reducer.name == YARDSTICK:
            draws = [_drawn(reducer, first + draw) for draw in range(self._settings.draws)]
        with undisturbed(seed=self._settings.seed):
            made = [self._subject.make(one) for one in draws]
        return [one.reducer for one in made], all(one.trained for one in made)

    def _leave_out(self, reducer: ReducerConfig, reason: str) -> None:
        self.notes.append(f"{label(reducer)} is left out: {reason}")


def _drawn(reducer: ReducerConfig, seed: int) -> ReducerConfig:
    return ReducerConfig(name=reducer.name, strict=reducer.strict, **{**reducer.params, "seed": seed})


def _timed(plan: _Planner, arms: Sequence[Arm]) -> list[Timing | None]:
    """Return the time of each arm's pass over the same few pictures, all in turn."""
    if not plan.settings.rounds:
        return [None] * len(arms)
    encoder, device = plan.subject.encoder, next(plan.subject.encoder.parameters()).device
    images, guide = plan.first(plan.settings.batch if device.type == "cuda" else min(CPU_TIMED, plan.settings.batch))

    def step(reducer: TokenReducer) -> None:
        with torch.inference_mode():
            pooled(encoder, encoder(images, reducer, guide if reducer.requires_text else None))

    functions = [lambda reducer=arm.modules[0]: step(reducer) for arm in arms]
    return list(time_in_turn(functions, device, plan.settings.rounds))


class _Scoring:
    """Turns features into scores, one a picture."""

    def __init__(self, subject: Subject, pictures: PictureSet, settings: Settings, dense: Features) -> None:
        self._settings, self._dense = settings, dense
        self._nearest = nearest(dense.pooled, dense.pooled, settings.neighbours)
        self._labels: Tensor | None = None
        if pictures.classes is not None:
            self._labels = torch.from_numpy(np.unique(pictures.classes, return_inverse=True)[1])
        self._own_texts: list[list[int]] = []
        self._texts: Tensor | None = None
        if pictures.captions is not None and (space := subject.joint_space) is not None:
            captions = [caption for several in pictures.captions for caption in several]
            numbers = iter(range(len(captions)))
            self._own_texts = [[next(numbers) for _ in several] for several in pictures.captions]
            self._texts = space.of_texts(captions).float().cpu()

    def of(self, draws: Sequence[Features]) -> Scores:
        """Return the scores of all draws of an arm."""
        each = [self._scores(features) for features in draws]
        return {name: torch.stack([scores[name] for scores in each]).double().numpy() for name in each[0]}

    def _scores(self, features: Features) -> dict[str, Tensor]:
        own, dense, settings = features.pooled, self._dense.pooled, self._settings
        scores = {"pooled_cosine": F.cosine_similarity(own, dense, dim=-1)}
        if features.patches is not None:
            scores["patch_cosine"] = features.patches
        scores["neighbours"] = 100 * agreement(nearest(own, own, settings.neighbours), self._nearest)
        if self._labels is not None:
            for name, bank in (("own_bank", own), ("dense_bank", dense)):
                right = voted(nearest(own, bank, settings.votes), self._labels) == self._labels
                scores[name] = 100 * right.float()
        if self._texts is not None and features.joint is not None:
            scores |= recall_by_picture(features.joint @ self._texts.T, self._own_texts)
        return scores


def recall_by_picture(similarity: Tensor, own_texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return recall at 1, 5 and 10 in percent for each picture, [N] each; of its texts the mean.

    `txt_r*` tells whether one of a picture's own texts is among the first for it, `img_r*` which share of its texts
    have it among their first pictures.

    Args:
        similarity: [N, T], of pictures and texts.
        own_texts: numbers of each picture's texts.
    """
    owner = [picture for picture, own in enumerate(own_texts) for _ in own]
    order = [text for own in own_texts for text in own]
    text_ranks, image_ranks = right_ranks(similarity, similarity.T[order], own_texts, owner)
    texts = torch.tensor(text_ranks)
    images = torch.tensor(image_ranks).split([len(own) for own in own_texts])
    found = {f"txt_r{at}": 100.0 * (texts < at).float() for at in RECALL_AT}
    for at in RECALL_AT:
        found[f"img_r{at}"] = torch.stack([100.0 * (rank < at).float().mean() for rank in images])
    return found
