"""The ALBEF baseline: every patch token goes through every block."""

from elip.reduction import REDUCERS, EncoderInfo, NoReduction


@REDUCERS.register("none")
class KeepAll(NoReduction):
    """Keep all tokens: the ALBEF baseline."""

    paper = "Li et al., NeurIPS 2021, arXiv:2107.07651"

    def __init__(self, encoder: EncoderInfo) -> None:
        super().__init__()
