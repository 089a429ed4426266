"""ToMe: merge the most similar patches, a few in each block.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv:2210.09461, section 3.
"""

from elip.reduction import REDUCERS, Matching, PairMerging, Tokens, merge_mean


@REDUCERS.register("tome")
class ToMe(PairMerging):
    """Merge the r most similar pairs of patches in each block, between attention and MLP, to their mean.

    Similarity is the cosine of keys averaged over heads; means are weighted by the number of patches in each token. A
    ViT without a class token is merged, too.
    """

    paper = "Bolya et al., ICLR 2023, arXiv:2210.09461"

    def merge(self, block: int, tokens: Tokens, matching: Matching) -> Tokens:
        return merge_mean(tokens, matching.group, matching.order.shape[1])
