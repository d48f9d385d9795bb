"""The kernel's own alarm of memory pressure: it fires when tasks wait for memory, and the sentinel looks at once."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from admitd import app, memory
from admitd.memory.linux import StallAlarm
from bench.measuring import Skipped
from bench.soak.group import Group, group
from tests.gates import until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PSI is Linux's")

PATIENCE_S = 30.0
TOLD_SHARE = 0.05
"""What the trigger asks for: 100 ms of 2 s."""
TREES = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
# Reads a file that does not fit, again and again: the kernel takes pages away that are wanted back.
THRASH = """
import os, sys
for place in sys.argv[2:]:
    with open(place, "wb", buffering=0) as group:
        group.write(b"0")
with open(sys.argv[1], "wb") as file:  # pages belong to the group of who touched them first
    for _ in range(96):
        file.write(os.urandom(1 << 20))
    os.fsync(file.fileno())
while True:
    with open(sys.argv[1], "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
"""


@pytest.fixture
def tight() -> Iterator[Group]:
    """A memory cgroup with hardly any memory."""
    try:
        with group(24 << 20) as made:
            yield made
    except Skipped as why:
        pytest.skip(str(why))


@pytest.fixture
def observed(tight: Group) -> Iterator[Callable[[], Path]]:
    """Makes groups whose pressure the kernel shows; v1 shows none of its own."""
    made: list[Path] = []

    def make() -> Path:
        for tree in TREES:
            path = tree / f"admit-alarm-{os.getpid()}-{len(made)}"
            if (tree / "cgroup.controllers").exists():
                with contextlib.suppress(OSError):
                    path.mkdir()
                    made.append(path)
                    if (path / "memory.pressure").exists():
                        return path
        pytest.skip("no group whose pressure is shown can be made here")

    yield make
    for path in made:
        until(lambda path=path: not (path / "cgroup.procs").read_text(), 10)
        path.rmdir()


def stalled_us(group: Path) -> int:
    """Microseconds in which some task of the group waited for memory, since the group was made."""
    some = (group / "memory.pressure").read_text().splitlines()[0]
    return int(some.rpartition("total=")[2])


def armed(path: Path) -> StallAlarm:
    try:
        return StallAlarm(str(path))
    except OSError as why:
        assert why.errno != errno.EINVAL, "the kernel does not understand what it is asked for"
        pytest.skip(f"this kernel takes no trigger: {why}")


def listening(alarm: StallAlarm) -> tuple[threading.Thread, list[bool]]:
    heard: list[bool] = []

    def listen() -> None:
        while True:
            heard.append(alarm.wait())
            if not heard[-1]:
                return

    thread = threading.Thread(target=listen)
    thread.start()
    return thread, heard


def test_it_fires_where_tasks_wait_for_memory_and_not_beside(
    tight: Group, observed: Callable[[], Path], tmp_path: Path
) -> None:
    here, beside = observed(), observed()
    alarms = [armed(each / "memory.pressure") for each in (here, beside)]
    threads = [listening(alarm) for alarm in alarms]
    places = [str(tight.members), str(here / "cgroup.procs")]
    files = [str(tmp_path / f"large-{number}") for number in range(4)]
    thrashing = [subprocess.Popen([sys.executable, "-c", THRASH, file, *places]) for file in files]
    try:
        with contextlib.suppress(AssertionError):
            until(lambda: threads[0][1], PATIENCE_S)
        if not threads[0][1]:
            share = stalled_us(here) / (PATIENCE_S * 1e6)
            assert share < TOLD_SHARE, f"nothing was told, and {share:.0%} of the time was waited for memory"
            pytest.skip(f"a disk so fast that only {share:.1%} of the time is waited for memory")
        assert threads[1][1] == []
    finally:
        for each in thrashing:
            each.kill()
            each.wait()
        for alarm, (thread, _) in zip(alarms, threads, strict=True):
            alarm.end()
            thread.join(10)
            assert not thread.is_alive()
    assert threads[0][1][-1] is False
    assert set(threads[0][1][:-1]) == {True}
    assert threads[1][1] == [False]


def test_once_it_has_ended_it_has_ended(tmp_path: Path) -> None:
    alarm = armed(Path("/proc/pressure/memory"))
    before = len(os.listdir("/proc/self/fd"))
    alarm.end()
    assert alarm.wait() is False
    alarm.end()
    assert len(os.listdir("/proc/self/fd")) == before - 2


REFUSED = [
    ("PSI is off", lambda folder: folder / "missing", errno.ENOENT),
    ("it takes no trigger", lambda folder: Path("/dev/full"), errno.ENOSPC),
    ("it is a folder", lambda folder: folder, errno.EISDIR),
]


@pytest.mark.parametrize(("path", "number"), [pytest.param(path, number, id=why) for why, path, number in REFUSED])
def test_where_there_is_none_the_system_says_why(path: Callable[[Path], Path], number: int, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) as refused:
        StallAlarm(str(path(tmp_path)))
    assert refused.value.errno == number
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_refusal_is_what_the_daemon_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise PermissionError(errno.EPERM, "Operation not permitted", "/proc/pressure/memory")

    monkeypatch.setattr(memory, "alarm_for_this_system", refuse)
    assert app._alarm() == "/proc/pressure/memory: Operation not permitted"
