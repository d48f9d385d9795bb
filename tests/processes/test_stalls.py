"""Stalls: a command line whose owner holds its memory map cannot be read, and the read cannot be interrupted.

A look waits for no such process, drops none, and reads each of the others once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from admitd.core.terms import RAM, Process
from admitd.processes import linux, sweep
from admitd.processes.linux import LinuxTable
from admitd.processes.sweep import CommandLines, Reader
from admitd.processes.table import CannotSee
from tests.processes.crowd import (
    DECOYS,
    Crowd,
    FakeProc,
    descriptors,
    eventually,
    heard,
    matcher,
    nul,
    open_descriptors,
    pids,
    said_of,
    sightings_of,
    state_of,
    tell,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")

MATCH = matcher(mlx=r"mlx_lm\.server")


@dataclass
class Stalling:
    """Makes reading some command lines hang until they are released, as if in the kernel."""

    monkeypatch: pytest.MonkeyPatch
    names: set[str]
    released: threading.Event = field(default_factory=threading.Event)
    began: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        read, pread, full = CommandLines.read, os.pread, threading.local()

        def reading(lines: CommandLines, name: str) -> bytes | None:
            self.read.append(name)
            full.way = True
            try:
                if name not in self.names:
                    return read(lines, name)
                self.began.append(name)
                self.released.wait(30)
                line = read(lines, name)
                self.ended.append(name)
                return line
            finally:
                full.way = False

        def no_quick_way(fd: int, size: int, offset: int) -> bytes:
            if not getattr(full, "way", False):
                raise BlockingIOError
            return pread(fd, size, offset)

        self.monkeypatch.setattr(CommandLines, "read", reading)
        self.monkeypatch.setattr(os, "pread", no_quick_way)

    def in_the_kernel(self) -> None:
        self.monkeypatch.setattr(Reader, "hangs", lambda _reader: True)

    def release(self, table: LinuxTable) -> None:
        self.released.set()
        eventually("the left-behind threads have ended their reads", lambda: not table._held())


@pytest.fixture
def stalling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stalling]:
    return lambda *names: Stalling(monkeypatch, set(names))


def serving(fake: FakeProc, *numbers: int) -> LinuxTable:
    for pid in numbers:
        fake.add(pid, nul("mlx_lm.server"))
    return LinuxTable(keep=100, root=str(fake.root))


def test_a_look_does_not_wait_for_a_process_that_stalls(fake: FakeProc, stalling: Callable[..., Stalling]) -> None:
    table = serving(fake, 1, 2, 3)
    stalls = stalling("2")
    stalls.in_the_kernel()
    look = table.look(MATCH)
    assert not stalls.ended, "the read is still blocked"
    assert sorted(pids(look.sightings)) == [1, 3], "those before and after it are read"
    (unread,) = look.unread
    assert (unread.process.pid, unread.resident[RAM] > 0, unread.could_be_ours) == (2, True, True)
    look = table.look(MATCH)
    assert stalls.began == ["2"], "and is not asked again as long as its thread hangs"
    assert ([u.process.pid for u in look.unread], sorted(pids(look.sightings))) == ([2], [1, 3])
    with pytest.raises(CannotSee, match="process 2 does not show"):
        table.again(Process(unread.process, 0), MATCH)
    stalls.release(table)
    look = table.look(MATCH)
    assert (sorted(pids(look.sightings)), look.unread) == ([1, 2, 3], ())
    table.close()


def test_another_users_process_that_stalls_could_be_any_service_too(
    fake: FakeProc, stalling: Callable[..., Stalling], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command line is no secret, and would be charged if it matched: it only takes its time."""
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(fake.root).st_uid + 1)
    table = serving(fake, 1, 2)
    stalls = stalling("2")
    stalls.in_the_kernel()
    (unread,) = table.look(MATCH).unread
    assert (unread.process.pid, unread.could_be_ours) == (2, True)
    stalls.release(table)
    assert sorted(pids(table.look(MATCH).sightings)) == [1, 2]
    table.close()


def test_a_thread_that_was_left_behind_reads_nobody_else(fake: FakeProc, stalling: Callable[..., Stalling]) -> None:
    """The descriptors of the others are another thread's by then."""
    table = serving(fake, 1, 2, 3, 4, 5)
    stalls = stalling("1", "2", "3")
    stalls.in_the_kernel()
    table.look(MATCH)
    stalls.release(table)
    assert sorted(stalls.read) == ["1", "2", "3", "4", "5"]
    table.close()


def test_a_known_process_that_stalls_keeps_its_claim(fake: FakeProc, stalling: Callable[..., Stalling]) -> None:
    table = serving(fake, 1, 2)
    fake.add(3, nul("bash"))
    table.look(MATCH)
    stalls = stalling("2", "3")
    stalls.in_the_kernel()
    for _ in range(3):
        look = table.look(MATCH)
        assert sorted(pids(look.sightings)) == [1, 2]
        assert [unread.process.pid for unread in look.unread] == [3], "what it was is not what it may be by now"
    assert sorted(stalls.began) == ["2", "3"]
    stalls.release(table)
    look = table.look(MATCH)
    assert (sorted(pids(look.sightings)), look.unread) == ([1, 2], ())
    table.close()


def test_a_process_that_stalls_and_dies_is_gone(fake: FakeProc, stalling: Callable[..., Stalling]) -> None:
    table = serving(fake, 1, 2)
    stalls = stalling("2")
    stalls.in_the_kernel()
    assert table.look(MATCH).unread
    fake.remove(2)
    look = table.look(MATCH)
    assert (pids(look.sightings), look.unread) == ([1], ())
    stalls.release(table)
    table.close()


def test_a_thread_that_only_waits_for_a_processor_is_not_left(
    fake: FakeProc, stalling: Callable[..., Stalling]
) -> None:
    """It is in no uninterruptible sleep: the look waits for it, and reads everyone once."""
    table = serving(fake, 1, 2, 3)
    stalls = stalling("2")
    answers: list[Any] = []
    looking = threading.Thread(target=lambda: answers.append(table.look(MATCH)))
    looking.start()
    eventually("the read has begun", lambda: bool(stalls.began))
    looking.join(10 * sweep.STALL_SLICE_S)
    assert looking.is_alive()
    stalls.released.set()
    looking.join()
    assert (sorted(pids(answers[0].sightings)), answers[0].unread) == ([1, 2, 3], ())
    assert stalls.began == ["2"]
    table.close()


def test_a_thread_that_wakes_as_it_is_told_to_stop_is_not_left(
    fake: FakeProc, stalling: Callable[..., Stalling], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends its one read, which counts; the rest is read by the same thread, and nobody twice."""
    table = serving(fake, 1, 2, 3)
    stalls = stalling("2")

    def hangs(_reader: Reader) -> bool:
        stalls.released.set()
        return True

    monkeypatch.setattr(Reader, "hangs", hangs)
    look = table.look(MATCH)
    assert sorted(pids(look.sightings)) == [1, 2, 3]
    assert not look.unread
    assert stalls.began == stalls.ended == ["2"]
    table.close()


def test_a_look_ends_in_time_whatever_the_reads_do(
    fake: FakeProc, stalling: Callable[..., Stalling], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux, "LOOK_BOUND_S", 0.05)
    table = serving(fake, 1, 2, 3)
    stalls = stalling("2")
    with pytest.raises(CannotSee, match="do not show their command lines"):
        table.look(MATCH)
    assert not stalls.ended
    stalls.release(table)
    monkeypatch.setattr(linux, "LOOK_BOUND_S", 30.0)
    assert sorted(pids(table.look(MATCH).sightings)) == [1, 2, 3]
    table.close()


def test_many_that_stall_are_too_many(fake: FakeProc, stalling: Callable[..., Stalling]) -> None:
    table = serving(fake, *range(1, 40))
    stalls = stalling(*(str(pid) for pid in range(1, 40)))
    stalls.in_the_kernel()
    threads = threading.active_count()
    for _ in range(3):
        with pytest.raises(CannotSee, match="processes that do not show their command lines: 17"):
            table.look(MATCH)
    assert threading.active_count() <= threads + linux.STUCK_READERS_MAX + 1
    stalls.release(table)
    eventually("their threads have ended", lambda: threading.active_count() <= threads)
    table.close()


def test_a_thread_left_behind_gives_its_descriptor_back_after_the_table_is_closed(
    fake: FakeProc, stalling: Callable[..., Stalling]
) -> None:
    before = descriptors()
    table = serving(fake, 1, 2, 3)
    table.look(MATCH)
    stalls = stalling("2")
    stalls.in_the_kernel()
    table.look(MATCH)
    table.close()
    assert len(descriptors()) == len(before) + 1
    stalls.release(table)
    eventually("it has given it back", lambda: descriptors() == before)


def test_descriptors_and_threads_are_given_back_after_stalls(crowd: Crowd, stalling: Callable[..., Stalling]) -> None:
    descriptors, threads = open_descriptors(), threading.active_count()
    process = crowd.start(sys.executable, "-S", "-E", crowd.script("mlx_lm.server"))
    own = open_descriptors() - descriptors
    table = LinuxTable(keep=4096)
    table.look(MATCH)
    stalls = stalling(str(process.pid))
    stalls.in_the_kernel()
    assert said_of(table.look(MATCH), process.pid) == {"mlx": "is"}
    crowd.end(process)
    assert said_of(table.look(MATCH), process.pid) == {}
    stalls.release(table)
    table.look(MATCH)
    table.close()
    eventually("the threads have ended", lambda: threading.active_count() == threads)
    assert open_descriptors() <= descriptors + own


def test_an_error_in_the_reading_thread_reaches_who_asked(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    table = serving(fake, 1)
    match = matcher(mlx="mlx")

    def broken(_line: bytes) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(match, "judge", broken)
    with pytest.raises(MemoryError, match="no room"):
        table.look(match)
    assert pids(table.look(MATCH).sightings) == [1], "and the next look is none the worse for it"
    table.close()


@pytest.mark.slow
def test_a_real_process_that_holds_its_memory_map(crowd: Crowd, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to build the process that stalls")
    program = tmp_path / "holds_its_map"
    subprocess.run([compiler, "-O1", "-pthread", "-o", program, DECOYS / "holds_its_map.c"], check=True)
    match = matcher(mlx="holds_its_map")
    known, unknown = LinuxTable(keep=4096), LinuxTable(keep=4096)
    process = crowd.start(program)
    assert heard(process) == b"ready"
    before = known.look(match)
    assert said_of(before, process.pid) == {"mlx": "is"}
    tell(process)
    left_behind = False
    deadline = time.monotonic() + 10
    while not left_behind and time.monotonic() < deadline:
        look = known.look(match)
        assert sightings_of(look, process.pid)[0].process.id == sightings_of(before, process.pid)[0].process.id
        look = unknown.look(match)
        unread = [each for each in look.unread if each.process.pid == process.pid]
        assert bool(unread) != bool(sightings_of(look, process.pid)), "charged as one or the other, never dropped"
        left_behind = bool(unread) and bool(known._held())
        assert all(each.resident[RAM] >= 1 << 30 for each in unread)
    crowd.end(process)
    assert state_of(process.pid) == ""
    eventually("its readers are released", lambda: not known._held() and not unknown._held())
    for table in (known, unknown):
        assert said_of(table.look(match), process.pid) == {}
        table.close()
    if not left_behind:
        pytest.skip("this machine never kept the reader waiting")
