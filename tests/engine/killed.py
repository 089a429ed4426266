"""`python -m tests.engine.killed FOLDER STEP`: trains the stub and kills itself, as a power cut would, at a step."""

import signal
import sys
from functools import partial
from pathlib import Path

import torch

from tests.engine.conftest import train
from tests.engine.stub import harm_at, send_self, stub_config

if __name__ == "__main__":
    torch.set_num_threads(1)
    config = stub_config(Path(sys.argv[1]), data={"num_workers": 2}, save_every=3)
    train(config, before_step=harm_at(int(sys.argv[2]), partial(send_self, signal.SIGKILL)))
