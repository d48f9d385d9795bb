"""LinuxTable: descriptors, processes that stall or cannot be read, and what is made of them."""

from __future__ import annotations

import errno
import os
import resource
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
from admitd.processes import linux, proc, sweep
from admitd.processes.linux import LinuxTable
from admitd.processes.proc import NoDescriptors
from admitd.processes.sweep import CommandLines, Reader
from admitd.processes.table import CannotSee
from tests.processes.crowd import (
    DECOYS,
    WAIT,
    Crowd,
    FakeProc,
    descriptors,
    eventually,
    heard,
    matcher,
    noting,
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


# Descriptors.


@pytest.mark.parametrize("keep", [0, 1, 5, 4096])
def test_every_process_is_seen_however_few_descriptors_are_kept(crowd: Crowd, keep: int) -> None:
    table = LinuxTable(keep)
    started = [crowd.python(WAIT, f"mlx_lm.server {number}").pid for number in range(8)]
    for _ in range(3):
        look = table.look(MATCH)
        assert set(started) <= set(pids(look.sightings))
        assert look.count >= len(started)
        assert table._lines.kept <= keep
    table.close()


def test_descriptors_do_not_leak_while_processes_come_and_go(crowd: Crowd) -> None:
    before = descriptors()
    table = LinuxTable(keep=4096)
    table.look(MATCH)
    for _ in range(200):
        gone = crowd.start("/bin/true")
        table.look(MATCH)
        gone.communicate()
    look = table.look(MATCH)
    assert table._lines.kept <= look.count
    table.close()
    eventually("no thread is left behind with one", lambda: not table._held())
    assert descriptors() == before


def test_descriptors_of_the_gone_do_not_use_up_the_room(fake: FakeProc) -> None:
    table = LinuxTable(keep=3, root=str(fake.root))
    for pid in range(1, 7):
        fake.add(pid, nul("mlx_lm.server"))
    table.look(MATCH)
    assert table._lines.kept == 3
    for pid in (1, 2, 3, 4):
        fake.remove(pid)
    for pid in (11, 12, 13, 14):
        fake.add(pid, nul("mlx_lm.server"))
    table.look(MATCH)
    table.look(MATCH)
    assert table._lines.kept == 3
    assert set(table._lines._kept) <= {"5", "6", "11", "12", "13", "14"}
    table.close()


OUT_OF_DESCRIPTORS = """
import resource, sys
from admitd.processes.linux import LinuxTable
from tests.processes.crowd import matcher, open_descriptors, pids
watched = set(map(int, sys.argv[1:]))
table = LinuxTable(keep=100_000)
match = matcher(mlx="mlx_lm.server")
limit = open_descriptors() + 12
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
for _ in range(3):
    look = table.look(match)
    assert watched <= set(pids(look.sightings)), look
    assert not look.unread, look.unread
print("all seen,", "some kept" if table._lines.kept else "none kept")
"""


def test_too_few_descriptors_for_all_are_made_to_do(crowd: Crowd) -> None:
    """They are given back and opened for each look; no process is overlooked for want of one."""
    started = [str(crowd.python(WAIT, f"mlx_lm.server {number}").pid) for number in range(24)]
    told = subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS, *started],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout == "all seen, some kept\n"


def test_no_descriptors_at_all_is_said_and_nothing_is_guessed(crowd: Crowd) -> None:
    process = crowd.python(WAIT, "mlx_lm.server")
    table = LinuxTable(keep=4096)
    table.look(MATCH)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    table.close()
    held = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(NoDescriptors, match="Too many open files"):
            table.look(MATCH)
        with pytest.raises(NoDescriptors):
            table.identify(process.pid)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in held:
            os.close(fd)
    assert said_of(table.look(MATCH), process.pid) == {"mlx": "mentions"}
    table.close()


# The table itself.


def test_no_proc_at_all(tmp_path: Path) -> None:
    with pytest.raises(CannotSee, match="No such file"):
        LinuxTable(root=str(tmp_path / "nowhere")).look(MATCH)
    with pytest.raises(CannotSee, match="is it mounted"):
        LinuxTable(root=str(tmp_path)).look(MATCH)


def test_kernel_threads_are_nothing(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.add(2, b"", flags=0x00200000)
    fake.add(3, nul("mlx_lm.server"))
    table = LinuxTable(keep=10, root=str(fake.root))
    assert pids(table.look(MATCH).sightings) == [3]
    asked: list[Any] = []
    monkeypatch.setattr(proc, "stat", noting(proc.stat, asked))
    table.look(MATCH)
    assert "2" not in asked, "what is a kernel thread is asked once"
    table.close()


def test_a_reused_pid_is_another_process(fake: FakeProc) -> None:
    fake.add(500, nul("mlx_lm.server"), started=1000)
    table = LinuxTable(keep=10, root=str(fake.root))
    (first,) = table.look(MATCH).sightings
    fake.add(500, nul("mlx_lm.server"), started=2000)
    (second,) = table.look(MATCH).sightings
    assert first.process.id != second.process.id
    assert table.identify(500) == second.process.id
    assert table.again(first.process, MATCH) is None
    assert table.again(second.process, MATCH) is not None
    table.close()


def test_a_process_that_is_nothing_any_more_is_not_signalled(fake: FakeProc) -> None:
    fake.add(500, nul("mlx_lm.server"))
    table = LinuxTable(root=str(fake.root))
    (seen,) = table.look(MATCH).sightings
    fake.add(500, nul("vim"))
    assert table.again(seen.process, MATCH) is None


def test_a_process_that_vanishes_in_the_middle_of_a_look(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid in (1, 2, 3):
        fake.add(pid, nul("mlx_lm.server"))
    read = CommandLines.read

    def vanishing(self: CommandLines, name: str) -> bytes | None:
        line = read(self, name)
        if name == "2" and line is not None:
            fake.remove(2)
        return line

    monkeypatch.setattr(CommandLines, "read", vanishing)
    for keep in (0, 10):
        table = LinuxTable(keep, str(fake.root))
        look = table.look(MATCH)
        assert sorted(pids(look.sightings)) == [1, 3]
        assert not look.unread
        table.close()
        fake.add(2, nul("mlx_lm.server"))


def test_an_unchanged_table_is_judged_once(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    match = matcher(mlx=r"mlx_lm\.server")
    judged: list[bytes] = []
    monkeypatch.setattr(match, "judge", noting(match.judge, judged))
    fake.add(1, nul("mlx_lm.server"))
    fake.add(2, nul("bash"))
    table = LinuxTable(keep=10, root=str(fake.root))
    for _ in range(3):
        assert pids(table.look(match).sightings) == [1]
    assert sorted(judged) == [nul("bash"), nul("mlx_lm.server")]
    fake.add(2, nul("mlx_lm.server", "2"))
    assert sorted(pids(table.look(match).sightings)) == [1, 2]
    assert len(judged) == 3
    assert table.look(matcher(other="bash")).sightings == (), "another matcher has a memory of its own"
    table.close()


# What is blank, and what cannot be read.


def test_a_process_in_the_middle_of_an_exec_is_read_again(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows its new argv only some microseconds after its old one is gone."""
    fake.add(1, nul("mlx_lm.server"))
    opened = CommandLines._open_and_read
    reads = iter([b""] * 3)
    monkeypatch.setattr(CommandLines, "_open_and_read", lambda lines, name: next(reads, opened(lines, name)))
    assert pids(LinuxTable(root=str(fake.root)).look(MATCH).sightings) == [1]


def test_a_process_that_shows_nothing_keeps_the_claim_it_had(fake: FakeProc) -> None:
    fake.add(1, nul("mlx_lm.server"))
    fake.add(2, b"")
    table = LinuxTable(keep=10, root=str(fake.root))
    assert pids(table.look(MATCH).sightings) == [1]
    fake.add(1, b"")
    for _ in range(2):
        look = table.look(MATCH)
        assert (pids(look.sightings), look.unread) == ([1], ())
    fake.remove(1)
    assert table.look(MATCH).sightings == ()
    table.close()


@dataclass
class Refusing:
    """Makes opening some paths fail."""

    monkeypatch: pytest.MonkeyPatch
    paths: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        opens = os.open

        def opening(path: Any, flags: int, *more: Any, **options: Any) -> int:
            if path in self.paths:
                raise OSError(self.paths[path], os.strerror(self.paths[path]), path)
            return opens(path, flags, *more, **options)

        self.monkeypatch.setattr(os, "open", opening)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EIO])
@pytest.mark.parametrize("keep", [0, 10])
def test_a_command_line_that_cannot_be_read_is_reported(
    fake: FakeProc, monkeypatch: pytest.MonkeyPatch, keep: int, code: int
) -> None:
    for pid in (1, 2, 3):
        fake.add(pid, nul("mlx_lm.server"))
    Refusing(monkeypatch, {f"{fake.root}/2/cmdline": code})
    table = LinuxTable(keep, str(fake.root))
    look = table.look(MATCH)
    assert sorted(pids(look.sightings)) == [1, 3], "one process does not stop the look"
    (unread,) = look.unread
    assert unread.process.pid == 2
    assert unread.could_be_ours
    assert unread.resident == {RAM: 50 * os.sysconf("SC_PAGE_SIZE")}
    with pytest.raises(CannotSee, match="process 2 does not show its command line"):
        table.again(Process(unread.process, 0), MATCH)
    table.close()


def test_one_that_was_known_keeps_its_claim(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.add(1, nul("bash"))
    fake.add(2, nul("mlx_lm.server"))
    table = LinuxTable(root=str(fake.root))
    before = table.look(MATCH)
    Refusing(monkeypatch, {f"{fake.root}/2/cmdline": errno.EACCES})
    for _ in range(2):
        look = table.look(MATCH)
        assert (pids(look.sightings), look.unread, look.lines) == ([2], (), before.lines)


def test_what_other_users_keep_to_themselves_is_not_held_against_anyone(
    fake: FakeProc, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(1, nul("bash"))
    fake.add(2, nul("mlx_lm.server"))
    Refusing(monkeypatch, {f"{fake.root}/2/cmdline": errno.EACCES})
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(fake.root).st_uid + 1)
    assert LinuxTable(root=str(fake.root)).look(MATCH).unread == ()


def test_a_process_of_which_nothing_can_be_read_is_passed_by(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under hidepid: not even its owner is told."""
    fake.add(1, nul("bash"))
    fake.add(2, nul("mlx_lm.server"))
    Refusing(monkeypatch, {f"{fake.root}/2/{each}": errno.EACCES for each in ("cmdline", "stat")})
    look = LinuxTable(root=str(fake.root)).look(MATCH)
    assert (look.sightings, look.unread, look.count) == ((), (), 2)


# What stalls: a command line whose owner holds its memory map cannot be read, and the read cannot be interrupted.


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
        read = CommandLines.read

        def reading(lines: CommandLines, name: str) -> bytes | None:
            self.read.append(name)
            if name not in self.names:
                return read(lines, name)
            self.began.append(name)
            self.released.wait(30)
            line = read(lines, name)
            self.ended.append(name)
            return line

        self.monkeypatch.setattr(CommandLines, "read", reading)

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
