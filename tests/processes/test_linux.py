"""LinuxTable: descriptors, processes that stall or cannot be read, and what is made of them."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from admitd.core.terms import RAM, Process
from admitd.processes import proc
from admitd.processes.linux import HIDES, LinuxTable
from admitd.processes.proc import NoDescriptors
from admitd.processes.sweep import CommandLines
from admitd.processes.table import CannotSee
from tests.processes.crowd import (
    WAIT,
    Crowd,
    FakeProc,
    descriptors,
    eventually,
    matcher,
    noting,
    nul,
    pids,
    said_of,
    where_proc_is_mounted,
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
    eventually("all are given back", lambda: descriptors() == before)


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
    assert set(table._lines.kept_open) <= {"5", "6", "11", "12", "13", "14"}
    table.close()


OUT_OF_DESCRIPTORS = """
import resource, sys
from admitd.processes.linux import HIDES, LinuxTable
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


@pytest.mark.parametrize(("me", "signalable"), [(0, True), (1, True), (2, False)], ids=["root", "its own", "another"])
def test_who_may_signal_what_was_seen(
    fake: FakeProc, monkeypatch: pytest.MonkeyPatch, me: int, signalable: bool
) -> None:
    fake.add(1, nul("mlx_lm.server"))
    owner = os.stat(fake.root).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: {0: 0, 1: owner, 2: owner + 1}[me])
    (seen,) = LinuxTable(root=str(fake.root)).look(MATCH).sightings
    assert seen.signalable is signalable


HIDDEN = """
import os
from admitd.processes.linux import HIDES, LinuxTable
from admitd.processes.matching import Matcher
os.setgroups([]); os.setgid(65534); os.setuid(65534)
look = LinuxTable().look(Matcher([]))
print(*look.warnings)
"""


@pytest.mark.parametrize(("option", "said"), [("hidepid=2", HIDES), ("hidepid=1", HIDES), ("hidepid=0", "")])
def test_that_other_users_processes_are_hidden_is_said(option: str, said: str) -> None:
    done = where_proc_is_mounted(option, HIDDEN)
    assert done.stdout.strip() == said, done.stderr


@pytest.mark.parametrize("ends", ["before it is read", "after it was read"])
def test_a_successor_that_came_meanwhile_is_seen(fake: FakeProc, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """A server that goes into the background ends after it was listed; its child was not listed yet."""
    fake.add(5, nul("mlx_lm.server"))
    table = LinuxTable(root=str(fake.root))
    listed, read = CommandLines.names, CommandLines.read

    def fork(name: str) -> None:
        if name == "5":
            fake.remove(5)
            fake.add(6, nul("mlx_lm.server"))

    def names_and_fork(lines: CommandLines) -> list[str]:
        names = listed(lines)
        if "5" in names:
            fork("5")
        return names

    def read_and_fork(lines: CommandLines, name: str) -> bytes | None:
        line = read(lines, name)
        fork(name)
        return line

    if ends == "before it is read":
        monkeypatch.setattr(CommandLines, "names", names_and_fork)
    else:
        monkeypatch.setattr(CommandLines, "read", read_and_fork)
    assert pids(table.look(MATCH).sightings) == [6]
    table.close()
