"""memory: what the machine has left, and what processes really hold; one file for each system that can be asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from admitd.core.terms import ProcessId, Reading


class Memory(Protocol):
    """One system's memory. Amounts are bytes; nothing here starts a process."""

    def physical(self) -> int:
        """Bytes of RAM, for a capacity file that leaves `ram_physical_mb` out. OSError where the system won't say."""

    def reading(self) -> Reading:
        """What the system says now. Never raises: what can't be had is in `problem`, and then `available` is None."""

    def footprint(self, processes: Sequence[ProcessId], enough: int) -> int | None:
        """Bytes that these processes hold together, pages they share counted once; None where that is unreadable.

        `enough` is the budget: a figure up to it changes no charge, so only one beyond it is worth dear reads.
        `ProcessId.started` is field 22 of /proc/PID/stat on Linux, `p_uniqueid` on macOS.
        """

    def peak(self, process: ProcessId) -> int | None:
        """The most that one process ever held, as the kernel has it; None where it is gone or can't be read."""

    def group_peak(self, processes: Sequence[ProcessId]) -> int | None:
        """The most that the control group of these processes ever held, cached files included; None where others are
        in it too, or the system has no such groups."""


class Alarm(Protocol):
    """What tells of memory pressure between two rounds of the sentinel."""

    how: str
    """How it comes to know, in words."""

    def wait(self) -> bool:
        """Wait until memory is short; False once that will not be told any more."""

    def end(self) -> None:
        """Have `wait` return False, now or next time."""


def alarm_for_this_system() -> Alarm:
    """Raises OSError, with the reason, where the system tells nobody and has to be asked."""
    if sys.platform == "darwin":
        from admitd.memory.darwin import DarwinMemory, LevelAlarm
        from admitd.processes.darwin import load

        return LevelAlarm(DarwinMemory(load()))
    from admitd.memory.linux import StallAlarm

    return StallAlarm()


def for_this_system() -> Memory:
    """The one that can be asked here. Anything but macOS is taken for Linux; where it is not, its readings say so."""
    if sys.platform == "darwin":
        from admitd.memory.darwin import DarwinMemory
        from admitd.processes.darwin import load

        return DarwinMemory(load())
    from admitd.memory.linux import LinuxMemory

    return LinuxMemory()
