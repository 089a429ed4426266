"""The weight of the momentum model's soft targets over training."""


def alpha_at(epochs: float, alpha: float, warmup: bool) -> float:
    """Return alpha after that many epochs: with `warmup` it rises linearly from 0 over the first."""
    return alpha * min(1.0, epochs) if warmup else alpha
