"""Devices, output folder, precision and random state of a run."""

import errno
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.engine.rng import rng_state, seed_everything, separate_rng, set_rng_state
from elip.engine.runtime import start_run
from elip.errors import ConfigError, ElipError
from tests.engine.stub import send_self, stub_config

needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a CUDA device")


@pytest.mark.parametrize("place", ["taken", "taken/below"])
def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").touch()
    with (
        pytest.raises(ElipError, match=rf"cannot write {tmp_path}/{place}: .*another folder with output_dir="),
        start_run(stub_config(tmp_path / place)),
    ):
        pass


def test_an_output_folder_without_space_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with (
        pytest.raises(ElipError, match=rf"cannot write {tmp_path}/out: No space left on device. Free some space there"),
        start_run(stub_config(tmp_path / "out")),
    ):
        pass


@needs_no_cuda
def test_without_cuda_auto_is_the_cpu_and_cuda_an_error(tmp_path: Path) -> None:
    with start_run(stub_config(tmp_path, device="auto")) as run:
        assert run.device == torch.device("cpu")
    with (
        pytest.raises(ConfigError, match=r"train.device: 'cuda:1' .*no CUDA device"),
        start_run(stub_config(tmp_path, device="cuda:1")),
    ):
        pass


def test_a_device_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"train.device: 'gpu' is no device"),
        start_run(stub_config(tmp_path, device="gpu")),
    ):
        pass


def test_signals_are_noted_while_a_run_lasts_and_no_longer(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with start_run(stub_config(tmp_path)) as run:
        assert run.stop_signal is None
        send_self(signal.SIGUSR1)
        assert run.stop_signal == "SIGUSR1"
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        with start_run(stub_config(tmp_path, seed=seed)):
            drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_bf16_forward_passes_run_in_bf16_and_fp32_ones_do_not(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with start_run(stub_config(tmp_path, precision=precision)) as run, run.autocast():
            assert layer(torch.ones(1, 2)).dtype is dtype


def test_a_weight_used_without_gradient_first_still_gets_one(tmp_path: Path) -> None:
    """A look-ahead does that, and autocast's cache of cast weights must not keep the one without gradient."""
    layer = torch.nn.Linear(2, 2, bias=False)
    with start_run(stub_config(tmp_path, precision="bf16")) as run, run.autocast():
        with torch.no_grad():
            layer(torch.ones(1, 2))
        layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is not None


def draws() -> list[float]:
    import random

    import numpy as np

    return [random.random(), float(np.random.rand()), float(np.random.standard_normal()), torch.rand(1).item()]


def test_all_generators_come_back_to_a_saved_state(tmp_path: Path) -> None:
    seed_everything(7)
    draws()
    torch.save(rng_state(), tmp_path / "state.pt")
    expected = draws()
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == expected


def test_random_numbers_drawn_apart_leave_the_others_alone() -> None:
    seed_everything(7)
    expected = draws()
    seed_everything(7)
    with separate_rng(3):
        apart = draws()
    assert draws() == expected
    with separate_rng(3):
        assert draws() == apart
