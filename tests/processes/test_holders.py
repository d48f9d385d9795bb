"""Holders: who of them lives, by pidfd and without."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from admitd.core.terms import ProcessId
from admitd.processes import holders, proc
from admitd.processes.holders import Holders
from admitd.processes.linux import LinuxTable
from admitd.processes.proc import NoDescriptors
from tests.processes.crowd import (
    DECOYS,
    WAIT,
    Crowd,
    eventually,
    heard,
    open_descriptors,
    state_of,
    where_proc_is_mounted,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="identifies by Linux's /proc")


@pytest.fixture(params=["pidfd", "without", "few"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holders]:
    """By pidfd; as on a system without them; and with room for one only."""
    if request.param == "without":
        monkeypatch.delattr(os, "pidfd_open")
    if request.param == "few":
        monkeypatch.setattr(holders, "DESCRIPTORS_MAX", 1)
    made = Holders(proc.identify)
    yield made
    made.close()


def holding(crowd: Crowd) -> tuple[Any, ProcessId]:
    process = crowd.python(WAIT)
    found = proc.identify(process.pid)
    assert found is not None
    return process, found


def test_who_lives_and_who_does_not(crowd: Crowd, made: Holders) -> None:
    started = [holding(crowd) for _ in range(6)]
    everyone = {holder for _, holder in started}
    assert made.living(everyone) == everyone
    os.kill(started[0][1].pid, signal.SIGKILL)
    eventually("it is a zombie", lambda: state_of(started[0][1].pid) == "Z")
    assert made.living(everyone) == everyone - {started[0][1]}, "a zombie holds nothing"
    crowd.end(started[0][0])
    crowd.end(started[1][0])
    assert made.living(everyone) == {holder for _, holder in started[2:]}
    assert made.living(set()) == set()
    assert made.living(everyone) == {holder for _, holder in started[2:]}, "asked again, after they were let go"


def test_a_reused_pid_is_someone_else(crowd: Crowd, made: Holders) -> None:
    _, holder = holding(crowd)
    other = ProcessId(holder.pid, holder.started + 1)
    assert made.living({other, holder}) == {holder}
    assert made.living({other}) == set()


def test_a_stopped_holder_and_one_whose_first_thread_has_ended_live(crowd: Crowd, made: Holders) -> None:
    _, stopped = holding(crowd)
    os.kill(stopped.pid, signal.SIGSTOP)
    eventually("it is stopped", lambda: state_of(stopped.pid) == "T")
    process = crowd.start(sys.executable, DECOYS / "first_thread_ends.py")
    assert heard(process) == b"ready"
    holder = proc.identify(process.pid)
    assert holder is not None
    assert made.living({holder}) == {holder}
    eventually("its first thread has ended", lambda: state_of(process.pid) == "Z")
    assert made.living({holder, stopped}) == {holder, stopped}


@pytest.mark.parametrize("pid", [1 << 22, 1 << 31, 1 << 63, 1 << 200])
def test_a_number_that_is_no_pid_is_nobody(made: Holders, pid: int) -> None:
    assert made.living({ProcessId(pid, 1)}) == set()


def test_descriptors_are_given_back(crowd: Crowd, made: Holders) -> None:
    started = [holding(crowd) for _ in range(5)]
    before = open_descriptors()
    for _ in range(50):
        for count in range(6):
            made.living({holder for _, holder in started[:count]})
            made.living({ProcessId(holder.pid, holder.started + 1) for _, holder in started[:count]})
    made.living(set())
    assert open_descriptors() == before
    made.living({holder for _, holder in started})
    made.close()
    assert open_descriptors() == before


def test_descriptors_are_given_back_where_nothing_can_be_seen(crowd: Crowd) -> None:
    _, holder = holding(crowd)

    def fails(_pid: int) -> ProcessId | None:
        raise NoDescriptors("too many open files")

    before = open_descriptors()
    with pytest.raises(NoDescriptors):
        Holders(fails).living({holder})
    assert open_descriptors() == before


def test_both_ways_agree(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    started = [holding(crowd) for _ in range(8)]
    for process, _ in started[::2]:
        crowd.end(process)
    everyone = {holder for _, holder in started} | {ProcessId(os.getpid(), 1), ProcessId(1 << 22, 5)}
    table = LinuxTable()
    by_pidfd = Holders(table.identify)
    found = by_pidfd.living(everyone)
    by_pidfd.close()
    monkeypatch.delattr(os, "pidfd_open")
    assert Holders(table.identify).living(everyone) == found == {holder for _, holder in started[1::2]}


HIDDEN = """
import os, subprocess
from admitd.core.terms import ProcessId
from admitd.processes import proc
from admitd.processes.holders import Holders
started = [subprocess.Popen(["/bin/sleep", "1000"]) for _ in range(2)]
lives, dies = (proc.identify(each.pid) for each in started)
asking, answering = os.pipe(), os.pipe()
if os.fork() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    holders = Holders(proc.identify)
    nobody = ProcessId(1 << 22, 1)
    for _ in range(3):
        os.read(asking[0], 1)
        living = holders.living({lives, dies, nobody})
        os.write(answering[1], b"yes" if living == {lives, dies} else b"one" if living == {lives} else b"no")
    os._exit(0)
def told():
    os.write(asking[1], b"?")
    return os.read(answering[0], 9).decode()
said = [told()]
started[1].kill(); os.waitid(os.P_PID, dies.pid, os.WEXITED | os.WNOWAIT)
said.append(told())
started[1].wait()
said.append(told())
started[0].kill(); started[0].wait(); os.wait()
print(*said)
"""


@pytest.mark.parametrize("option", ["hidepid=2", "hidepid=1", "hidepid=0"])
def test_a_holder_that_proc_hides_lives_as_long_as_its_process(option: str) -> None:
    """Another user's; both live, one is a zombie, and one is gone."""
    done = where_proc_is_mounted(option, HIDDEN)
    assert done.stdout.split() == ["yes", "one", "one"], done.stderr
