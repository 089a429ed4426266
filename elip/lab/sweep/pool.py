"""Chains side by side on this machine, each worker with a GPU of its own where there are GPUs."""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import torch

from elip.errors import Interrupted
from elip.lab.sweep.chain import Chain, ChainRunner, Stage, StageState

Notice = Callable[[Chain, Stage, StageState], None]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAIT_SECONDS = 0.2


def gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls the GPUs that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else []
    return [names[i].strip() if i < len(names) else str(i) for i in range(torch.cuda.device_count())]


def default_jobs() -> int:
    """Return one for each GPU; without any, one."""
    return max(1, len(gpus()))


def environments(jobs: int) -> list[dict[str, str]]:
    """Return what each worker's commands find in their environment: its GPU, or its share of the CPU's cores."""
    found = gpus()
    if found:
        return [{"CUDA_VISIBLE_DEVICES": found[job % len(found)]} for job in range(jobs)]
    if "OMP_NUM_THREADS" in os.environ:
        return [{} for _ in range(jobs)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [{"OMP_NUM_THREADS": str(max(1, cores // jobs))} for _ in range(jobs)]


def run_all(chains: Sequence[Chain], jobs: int, notice: Notice) -> None:
    """Run chains, those first that come first; one that fails leaves the others alone.

    SIGINT and SIGTERM are handed to the commands that run, which save and end; a second one ends them at once.

    Args:
        chains: to run.
        jobs: that run side by side.
        notice: is told, in this thread, when a stage begins or has come to an end.

    Raises:
        Interrupted: after all commands have ended, when a signal asked for it.
        Exception: what `notice` raises, after all commands have been asked to save and have ended.
    """
    waiting: queue.SimpleQueue[Chain] = queue.SimpleQueue()
    for chain in chains:
        waiting.put(chain)
    events: queue.SimpleQueue[tuple[Chain, Stage, StageState]] = queue.SimpleQueue()
    stopping, bugs = threading.Event(), list[Exception]()
    runners = [ChainRunner(one, lambda *event: events.put(event)) for one in environments(jobs)]

    def work(runner: ChainRunner) -> None:
        while not stopping.is_set():
            try:
                chain = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                runner.run(chain)
            except Exception as error:  # a bug: to be told in the main thread
                bugs.append(error)
                return

    threads = [threading.Thread(target=work, args=(runner,), daemon=True) for runner in runners]
    with _handing_on(runners, stopping) as received:
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) or not events.empty():
                with suppress(queue.Empty):
                    event = events.get(timeout=_WAIT_SECONDS)
                    notice(*event)
        except BaseException:  # such as a full disk: no command goes on without anyone to say what became of it
            stopping.set()
            for runner in runners:
                runner.stop()
            for thread in threads:
                thread.join()
            raise
    if bugs:
        raise bugs[0]
    if received:
        raise Interrupted(received[0])


@contextmanager
def _handing_on(runners: Sequence[ChainRunner], stopping: threading.Event) -> Iterator[list[int]]:
    """Return a context in which signals are handed to the commands that run; gives the list of those that came."""
    received: list[int] = []

    def answer(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        stopping.set()
        for runner in runners:  # the first as SIGTERM: from a terminal the commands have had their SIGINT already
            runner.stop(signal.SIGTERM if len(received) == 1 else signal.SIGINT)

    before = {number: signal.signal(number, answer) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
