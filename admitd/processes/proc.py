"""proc: what Linux says of one process in /proc/PID/stat and beside it (proc_pid_stat(5)).

The answer is None where there is no such process, or where it is hidden from us (mount option hidepid). Running out of
descriptors is neither, and is raised: a process must not be overlooked because we are short of something.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import Final

from admitd.core.terms import Process, ProcessId
from admitd.processes.table import CannotSee, Details

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PF_KTHREAD: Final = 0x00200000  # include/linux/sched.h
_SHORT_OF: Final = frozenset({errno.EMFILE, errno.ENFILE})


class NoDescriptors(CannotSee):
    """Too many files are open, here or on the whole machine."""


@dataclass(frozen=True, slots=True)
class Stat:
    """/proc/PID/stat. `started` is in ticks since boot."""

    state: str
    parent: int
    flags: int
    threads: int
    started: int

    @property
    def kernel_thread(self) -> bool:
        return bool(self.flags & _PF_KTHREAD)

    @property
    def first_thread_dead(self) -> bool:
        """It shows as a zombie, while its other threads live and hold the memory."""
        return self.state in ("Z", "X") and self.threads > 1

    @property
    def zombie(self) -> bool:
        return self.state in ("Z", "X") and self.threads <= 1


def open_to_read(path: str) -> int:
    """A descriptor; NoDescriptors where there are none left, and else whatever OSError says."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno in _SHORT_OF:
            raise NoDescriptors(f"{path} cannot be opened: {problem.strerror}") from problem
        raise


def listed(path: str) -> list[str]:
    """The entries of a folder; raises as `open_to_read` does."""
    try:
        return os.listdir(path)
    except OSError as problem:
        if problem.errno in _SHORT_OF:
            raise NoDescriptors(f"{path} cannot be opened: {problem.strerror}") from problem
        raise


def stat(pid: int | str, root: str = "/proc") -> Stat | None:
    """/proc/PID/stat; or that of one thread, where `pid` says PID/task/TID."""
    try:
        fd = open_to_read(f"{root}/{pid}/stat")
    except OSError:
        return None
    try:
        # The name before the last parenthesis may hold anything.
        fields = os.read(fd, 4096).rsplit(b")", 1)[1].split()
        state = fields[0].decode("ascii")
        return Stat(state, int(fields[1]), int(fields[6]), int(fields[17]), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None
    finally:
        os.close(fd)


def details(pid: int, root: str = "/proc") -> Details | None:
    """What is needed of a process that matched."""
    found = stat(pid, root)
    if found is None:
        return None
    try:
        uid = os.stat(f"{root}/{pid}").st_uid
    except OSError:
        return None
    state = _state_of_the_rest(pid, root) if found.first_thread_dead else found.state
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - found.started / _TICKS
    process = Process(ProcessId(pid, found.started), uid, state == "T", state == "t", max(0.0, age))
    return Details(process, found.parent, found.zombie)


def identify(pid: int, root: str = "/proc") -> ProcessId | None:
    """The process that has this pid; None where there is none, or only a zombie."""
    found = stat(pid, root)
    return None if found is None or found.zombie else ProcessId(pid, found.started)


def hides_others(root: str = "/proc") -> bool:
    """Whether other users' processes are hidden (proc(5), hidepid=1 and above): the first one is always there."""
    return not os.access(f"{root}/1/stat", os.F_OK)


def last_pid(root: str = "/proc") -> int | None:
    """The pid that was given out last, to a process or a thread: while it stays, nobody was started.

    It is that of the pid namespace that asks, where whoever is started in a namespace below has a pid as well. None
    where it says nothing: /proc shows another namespace than ours (`unshare --pid` alone), or 0 (gVisor).
    """
    try:
        if os.readlink(f"{root}/self") != str(os.getpid()):
            return None
        fd = os.open(f"{root}/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.read(fd, 256).split()[4]) or None
    except (OSError, IndexError, ValueError):
        return None
    finally:
        os.close(fd)


def other_threads(pid: int | str, root: str) -> list[str]:
    """The threads of a process beside its first one."""
    try:
        return [thread for thread in listed(f"{root}/{pid}/task") if thread != str(pid)]
    except OSError:
        return []


def resident_bytes(pid: int, root: str = "/proc") -> int:
    """What it has in memory; 0 where that cannot be told. Never waits for the process."""
    try:
        fd = open_to_read(f"{root}/{pid}/statm")
    except OSError:
        return 0
    try:
        return int(os.read(fd, 256).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        os.close(fd)


def _state_of_the_rest(pid: int, root: str) -> str:
    for thread in other_threads(pid, root):
        found = stat(f"{pid}/task/{thread}", root)
        if found is not None and found.state not in ("Z", "X"):
            return found.state
    return "Z"
