"""One run at a time in a folder, whatever became of the last one."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from elip.engine.run_lock import RunLock
from elip.errors import ElipError
from tests.conftest import PROJECT


def test_the_holder_is_named_to_whom_comes_second(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    holder = json.loads((tmp_path / "run.lock").read_text())
    expected = f"in use by another run: process {os.getpid()} on {socket.gethostname()}, since {holder['since'][:10]}"
    with pytest.raises(ElipError) as refused:
        second.acquire()
    assert expected in str(refused.value)
    assert "output_dir=" in str(refused.value)
    second.release()
    assert first.is_in_place
    first.release()
    assert not list(tmp_path.iterdir())
    second.acquire()
    second.release()


def test_of_many_that_come_at_once_exactly_one_gets_it(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    refused: list[str] = []
    locks = [RunLock(tmp_path) for _ in range(8)]

    def come(lock: RunLock) -> None:
        barrier.wait()
        try:
            lock.acquire()
        except ElipError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=come, args=[lock]) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert sum(lock.is_in_place for lock in locks) == 1
    for lock in locks:
        lock.release()


def test_a_killed_holder_keeps_nobody_out(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from elip.engine.run_lock import RunLock\n"
        "RunLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "run.lock").exists()
    lock = RunLock(tmp_path)
    lock.acquire()
    assert json.loads((tmp_path / "run.lock").read_text())["process"] == os.getpid()
    lock.release()


def test_a_forked_process_that_outlives_the_holder_keeps_nobody_out(tmp_path: Path) -> None:
    ended = RunLock(tmp_path)
    ended.acquire()
    waits, ends = os.pipe()
    started, starts = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ends)
        os.write(starts, b"x")
        os.read(waits, 1)
        os._exit(0)
    os.read(started, 1)
    ended.forget()  # as the system does when a process ends
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    for descriptor in (ends, waits, started, starts):
        os.close(descriptor)
    os.waitpid(child, 0)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("text")
    (tmp_path / "run.lock").symlink_to(precious)
    with pytest.raises(ElipError, match=rf"cannot write {tmp_path}/run.lock"):
        RunLock(tmp_path).acquire()
    assert precious.read_text() == "text"


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert f"the file system of {tmp_path} has no locks" in caplog.text


def test_a_file_that_names_nobody_still_keeps_others_out(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    first.acquire()
    (tmp_path / "run.lock").write_text("")
    with pytest.raises(ElipError, match="in use by another run: a process that has only just started"):
        RunLock(tmp_path).acquire()
    first.release()


def test_a_holder_whose_file_was_taken_away_knows(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    (tmp_path / "run.lock").unlink()
    assert not first.is_in_place
    second.acquire()
    first.release()
    assert second.is_in_place
    second.release()
