"""Token reducers: the contract, and all that a plug-in's author needs."""

from elip.reduction.clusters import SoftClusters
from elip.reduction.encoder import EncoderInfo, require_class_token, require_text_width
from elip.reduction.guide import Guide, Teacher, TeacherNeeds, Text, Watch, text_of_cls
from elip.reduction.merging import (
    Matching,
    PairMerging,
    best_pairs,
    bipartite_matching,
    distances,
    merge_mean,
    sum_by_group,
)
from elip.reduction.reducer import (
    AttentionFacts,
    AttentionFunction,
    Blocks,
    Needs,
    NoReduction,
    ReductionContext,
    TokenReducer,
    Wishes,
)
from elip.reduction.schedule import Base, KeepSchedule, Ratios, Removals, RemovalSchedule
from elip.reduction.stages import Stage, StageReducer
from elip.reduction.tokens import Tokens, take
from elip.reduction.walk import BlockAttention, BlockHalves, BlockTokens, Host, VisionOutput, walk
from elip.reduction.warmup import Warmup
from elip.registry import REDUCERS

__all__ = [
    "REDUCERS",
    "AttentionFacts",
    "AttentionFunction",
    "Base",
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
    "PairMerging",
    "Ratios",
    "ReductionContext",
    "RemovalSchedule",
    "Removals",
    "SoftClusters",
    "Stage",
    "StageReducer",
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
    "distances",
    "merge_mean",
    "require_class_token",
    "require_text_width",
    "sum_by_group",
    "take",
    "text_of_cls",
    "walk",
]
