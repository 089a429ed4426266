"""What tests of models have in common."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from elip import execution


@pytest.fixture
def eager_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let what is compiled be traced, and run as it was traced: code for this machine would take minutes to make."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    execution._compiled.cache_clear()
    yield
    execution._compiled.cache_clear()
    torch._dynamo.reset()
