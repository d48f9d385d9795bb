"""cputime: the processor time that processes and their children have taken, by small reads; no fork, no wait."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from struct import Struct
from typing import Any, Final, Protocol

from admitd.core.terms import ProcessId
from admitd.processes import darwin

FAMILY_MAX: Final = 128
"""Processes of one service, with their children, that are counted; of more, no sum is made."""
THREADS_MAX: Final = 512

# bsd/sys/resource.h, RUSAGE_INFO_V4: uuid[16], then u64: user time, system time, in Mach ticks. The buffer is larger.
_RUSAGE_V4: Final = 4
_RUSAGE_SIZE: Final = 1024
_RUSAGE: Final = Struct("=16xQQ")
# osfmk/mach/mach_time.h, struct mach_timebase_info: u32 numerator, denominator; ticks times both is nanoseconds.
_TIMEBASE: Final = Struct("=II")

Times = Mapping[ProcessId, float]


class CpuTimes(Protocol):
    """One system's way to tell processor time."""

    def of(self, processes: Iterable[ProcessId], without: Collection[int] = ()) -> Times | None:
        """Seconds by process, children and their children included; None where one can't be read.

        Left out: who is gone, and children whose pid is in `without`, which belong to somebody else.
        """


class Untold:
    """A system that can't be asked: nothing is known, ever."""

    def of(self, processes: Iterable[ProcessId], without: Collection[int] = ()) -> Times | None:
        return None


class LinuxCpuTimes:
    """/proc/PID/stat. Readable for every process, whoever owns it, unless /proc is mounted with hidepid."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")

    def of(self, processes: Iterable[ProcessId], without: Collection[int] = ()) -> Times | None:
        waiting = [(each.pid, each.started) for each in processes]
        told: dict[ProcessId, float] = {}
        try:
            while waiting:
                pid, expected = waiting.pop()
                found = self._stat(pid)
                if found is None or (expected >= 0 and found[0] != expected) or ProcessId(pid, found[0]) in told:
                    continue
                if len(told) >= FAMILY_MAX:
                    return None
                told[ProcessId(pid, found[0])] = found[1]
                waiting += [(child, -1) for child in self._children(pid) if child not in without]
        except (OSError, ValueError, IndexError):
            return None
        return told

    def _stat(self, pid: int) -> tuple[int, float] | None:
        """When it started, and seconds of user and system time; None where it is gone. proc_pid_stat(5)."""
        try:
            with open(f"{self._proc}/{pid}/stat", "rb", buffering=0) as stat:
                fields = stat.read(4096).rsplit(b")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return int(fields[19]), (int(fields[11]) + int(fields[12])) * self._tick_s

    def _children(self, pid: int) -> list[int]:
        """Each thread lists the children that it started itself. A kernel without CONFIG_PROC_CHILDREN has none."""
        children: list[int] = []
        try:
            for thread in os.listdir(f"{self._proc}/{pid}/task")[:THREADS_MAX]:
                with open(f"{self._proc}/{pid}/task/{thread}/children", "rb", buffering=0) as listed:
                    children += map(int, listed.read(4096).split())
        except OSError:
            pass  # gone meanwhile, or not told: what was heard so far is what there is
        return children


class DarwinCpuTimes:
    """proc_pid_rusage. Another user's process is not told without root: then all of it is unknown."""

    def __init__(self, libc: Any) -> None:
        self._libc = libc
        self._per_tick_s = _seconds_per_tick(libc)

    def of(self, processes: Iterable[ProcessId], without: Collection[int] = ()) -> Times | None:
        waiting = list(processes)
        told: dict[ProcessId, float] = {}
        while waiting:
            each = waiting.pop()
            if each in told or darwin.start_token(each.pid, self._libc) != each.started:
                continue
            buffer = ctypes.create_string_buffer(_RUSAGE_SIZE)
            if self._libc.proc_pid_rusage(ctypes.c_int(each.pid), ctypes.c_int(_RUSAGE_V4), buffer) != 0:
                return None
            if len(told) >= FAMILY_MAX:
                return None
            user, system = _RUSAGE.unpack_from(buffer)
            told[each] = (user + system) * self._per_tick_s
            waiting += [child for child in self._children(each.pid) if child.pid not in without]
        return told

    def _children(self, pid: int) -> list[ProcessId]:
        found = darwin.children(pid, FAMILY_MAX, self._libc)
        tokens = {child: darwin.start_token(child, self._libc) for child in found}
        return [ProcessId(child, token) for child, token in tokens.items() if token is not None]


def _seconds_per_tick(libc: Any) -> float:
    buffer = ctypes.create_string_buffer(_TIMEBASE.size)
    libc.mach_timebase_info(buffer)
    numerator, denominator = _TIMEBASE.unpack(buffer.raw)
    return float(numerator) / (denominator or 1) / 1e9


@cache
def for_this_system() -> CpuTimes:
    """The one that can be asked here."""
    if sys.platform == "darwin":
        return DarwinCpuTimes(darwin.load())
    return LinuxCpuTimes() if os.path.exists("/proc/self/stat") else Untold()
