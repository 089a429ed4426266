"""A reducer that needs what the momentum encoder saw: an example, and a test of what a plug-in can ask for."""

from torch.nn.functional import cosine_similarity

from elip.reduction import REDUCERS, EncoderInfo, Needs, Ratios, Stage, StageReducer, TeacherNeeds, Tokens

BLOCK = 6


@REDUCERS.register("teacher_keys")
class TeacherKeys(StageReducer):
    """Keep the patches whose keys in block 6 of the momentum encoder stand out most, in image order.

    In evaluation, where there is no momentum encoder, keys are those of the block to reduce in.
    """

    teacher_needs = TeacherNeeds(keys=(BLOCK,))
    at_stage = Needs.KEYS
    keeps_order = True

    def __init__(self, encoder: EncoderInfo, *, block: int = 3, keep_ratio: Ratios = 0.5) -> None:
        super().__init__(encoder, begin=[block], keep_ratio=keep_ratio)

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        teacher = stage.context.guide.teacher
        keys = stage.keys if teacher is None else teacher.keys[BLOCK]  # [B, P, d]
        likeness = cosine_similarity(keys, keys.mean(dim=1, keepdim=True), dim=-1)
        return tokens.keep(likeness.topk(keep, dim=1, largest=False).indices.sort(dim=1).values)
