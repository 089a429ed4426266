"""Token reducers: the contract, and all that a plug-in's author needs."""

from elip.reduction.clusters import SoftClusters
from elip.reduction.guide import Guide, Teacher, TeacherNeeds, Text, Watch, text_of_cls
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
    Wishes,
    require_class_token,
)
from elip.reduction.schedule import KeepSchedule, Ratios, Removals, RemovalSchedule, Warmup
from elip.reduction.tokens import Tokens, take
from elip.reduction.walk import BlockAttention, BlockHalves, BlockTokens, Host, VisionOutput, walk
from elip.registry import REDUCERS

__all__ = [
    "REDUCERS",
    "AttentionFacts",
    "AttentionFunction",
    "BlockAttention",
    "BlockHalves",
    "BlockTokens",
    "Blocks",
    "EncoderInfo",
    "Guide",
    "Host",
    "KeepSchedule",
    "Matching",
    "Needs",
    "NoReduction",
    "Ratios",
    "ReductionContext",
    "RemovalSchedule",
    "Removals",
    "SoftClusters",
    "Teacher",
    "TeacherNeeds",
    "Text",
    "TokenReducer",
    "Tokens",
    "VisionOutput",
    "Warmup",
    "Watch",
    "Wishes",
    "best_pairs",
    "bipartite_matching",
    "clamped",
    "distances",
    "merge_mean",
    "require_class_token",
    "sum_by_group",
    "take",
    "text_of_cls",
    "walk",
]
