"""Token reducers: the contract, and all that a plug-in's author needs."""

from elip.reduction.clusters import SoftClusters
from elip.reduction.merging import (
    Matching,
    best_pairs,
    bipartite_matching,
    clamped,
    distances,
    merge_mean,
    sum_by_group,
)
from elip.reduction.reducer import (
    AttentionFacts,
    AttentionFunction,
    Blocks,
    EncoderInfo,
    Needs,
    NoReduction,
    ReductionContext,
    TokenReducer,
    require_class_token,
)
from elip.reduction.schedule import KeepSchedule, Ratios, Removals, RemovalSchedule, Warmup
from elip.reduction.tokens import Tokens, take
from elip.registry import REDUCERS

__all__ = [
    "REDUCERS",
    "AttentionFacts",
    "AttentionFunction",
    "Blocks",
    "EncoderInfo",
    "KeepSchedule",
    "Matching",
    "Needs",
    "NoReduction",
    "Ratios",
    "ReductionContext",
    "RemovalSchedule",
    "Removals",
    "SoftClusters",
    "TokenReducer",
    "Tokens",
    "Warmup",
    "best_pairs",
    "bipartite_matching",
    "clamped",
    "distances",
    "merge_mean",
    "require_class_token",
    "sum_by_group",
    "take",
]
