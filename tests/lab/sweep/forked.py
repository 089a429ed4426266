"""The project's own commands in forked processes: what they import is there already, which takes them longest."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from tools import evaluate, train

MAINS = {"train": train.main, "evaluate": evaluate.main}
_HANDLED = (signal.SIGINT, signal.SIGTERM)


class Forked:
    """A process, as far as `subprocess.Popen` is made use of."""

    def __init__(self, call: Callable[[], int | None]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            for number in _HANDLED:
                signal.signal(number, signal.SIG_DFL)
            code = 1
            try:
                code = call() or 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def start(command: Sequence[str], output: BinaryIO, environment: Mapping[str, str]) -> Forked:
    """Start one of the commands, in the place of `elip.lab.sweep.chain.start`."""

    def call() -> int:
        say_into(output.fileno())
        os.environ.clear()
        os.environ.update(environment)
        return MAINS[Path(command[1]).stem](list(command[2:]))

    return Forked(call)


def say_into(descriptor: int) -> None:
    """Let all that this process says go to a file from now on."""
    for number in (1, 2):
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    logging.getLogger().handlers.clear()
