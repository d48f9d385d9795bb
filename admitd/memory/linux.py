"""linux: memory as /proc tells it, by reads that never wait for the process they are about."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

from admitd.core.pressure import linux_level
from admitd.core.terms import RAM, ProcessId, Reading
from admitd.memory.groups import own_peak
from admitd.memory.shared import SharedPages

# Where a container's own limit stands: the root of the control groups as they are seen from here, v2 and v1. On the
# host that root carries no limit. Deeper groups are not asked: a limit on our own service unit is not one on theirs.
_LIMITS: Final = (
    ("", "memory.max", "memory.current", b"inactive_file"),
    ("memory/", "memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file"),
)
# 100 ms of 2 s in which some task waited for memory. Whoever is not privileged may ask for windows of 2, 4 ... 10 s
# (Documentation/accounting/psi.rst), and the kernel takes the last byte that is written for the end of the text.
_TRIGGER: Final = b"some 100000 2000000\0"
_CHUNK: Final = 16384
_LONGEST: Final = 1 << 20


class _Held(NamedTuple):
    """What /proc/PID/status shows of one process, in bytes. `folder` is where its map can be read."""

    folder: str
    anonymous: int
    file: int
    shared: int
    huge: int


class LinuxMemory:
    """Memory of a Linux machine, or of the container that we run in."""

    def __init__(self, proc: str = "/proc", groups: str = "/sys/fs/cgroup", shared: SharedPages | None = None) -> None:
        self._proc = proc
        self._groups = groups
        self._shared = shared or SharedPages()

    def physical(self) -> int:
        """MemTotal, or the limit of our container where that is less: what is loaded here is loaded inside of it."""
        total = _amount(_read(f"{self._proc}/meminfo"), b"MemTotal:")
        if total is None:
            raise OSError(f"{self._proc}/meminfo has no MemTotal")
        limit = self._limit()
        return total if limit is None else min(total, limit[0])

    def reading(self) -> Reading:
        path = f"{self._proc}/meminfo"
        try:
            text = _read(path)
        except OSError as error:
            return Reading(problem=f"{path} can't be read: {error.strerror or error}")
        total, available = _amount(text, b"MemTotal:"), _amount(text, b"MemAvailable:")
        if total is None or available is None:
            return Reading(problem=f"{path} has no MemTotal or no MemAvailable")
        limit = self._limit()
        if limit is not None and limit[0] < total:
            total, available = limit[0], min(available, limit[1])
        level, why = linux_level(available, total, self._stall())
        return Reading({RAM: available}, level, why + _swapped(text))

    def footprint(self, processes: Sequence[ProcessId], enough: int) -> int | None:
        """Anonymous and swapped pages of each, and the largest share of files, of shared memory and of huge pages.

        Processes of one service mostly map the same files and the same shared memory, so those count once. Where
        that is a guess that could matter, that is with more than one process and more than `enough` counted singly,
        PSS decides, which splits each page among those who map it. Where that is not to be had, in time or of another
        user, the answer is what one of them holds alone if that is more than `enough`, else None. Only beyond `enough`
        are start times compared, too: the look that saw the processes is milliseconds old.
        """
        try:
            held = self._held(processes)
            if sum(map(_singly, held.values())) > enough:
                held = {each: what for each, what in held.items() if self._started(each.pid) == each.started}
        except OSError:
            return None
        if not held:
            return 0
        most = sum(map(_singly, held.values()))
        if len(held) > 1 and most > enough:
            folders = {each: what.folder for each, what in held.items()}
            small_pages = most - sum(what.huge for what in held.values())  # PSS leaves huge pages out
            proportional = self._shared.held_by(folders, small_pages)
            if proportional is None:
                largest = max(map(_singly, held.values()))
                return largest if largest > enough else None
            return proportional + max(what.huge for what in held.values())
        return (
            sum(what.anonymous for what in held.values())
            + max(what.file for what in held.values())
            + max(what.shared for what in held.values())
            + max(what.huge for what in held.values())
        )

    def peak(self, process: ProcessId) -> int | None:
        """VmHWM: resident pages, mapped files included; what was swapped out meanwhile is not in it."""
        try:
            text = _read(f"{self._proc}/{process.pid}/status")
            return _amount(text, b"\nVmHWM:") if self._started(process.pid) == process.started else None
        except OSError:
            return None

    def group_peak(self, processes: Sequence[ProcessId]) -> int | None:
        return own_peak(processes, self._proc, self._groups)

    def _held(self, processes: Sequence[ProcessId]) -> dict[ProcessId, _Held]:
        """Those that still are there; OSError for one that is and can't be read."""
        held = {}
        for each in processes:
            folder = f"{self._proc}/{each.pid}"
            try:
                text = _read(f"{folder}/status")
                if b"\nVmRSS:" not in text and (_number(text, b"\nThreads:") or 0) > 1:
                    folder, text = _live_thread(folder)
            except (FileNotFoundError, ProcessLookupError):
                continue
            anonymous, swap = _amount(text, b"\nRssAnon:") or 0, _amount(text, b"\nVmSwap:") or 0
            held[each] = _Held(
                folder,
                anonymous + swap,
                _amount(text, b"\nRssFile:") or 0,
                _amount(text, b"\nRssShmem:") or 0,
                _amount(text, b"\nHugetlbPages:") or 0,
            )
        return held

    def _started(self, pid: int) -> int | None:
        try:
            text = _read(f"{self._proc}/{pid}/stat")
            return int(text[text.rindex(b")") + 1 :].split()[19])
        except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
            return None

    def _stall(self) -> float | None:
        """PSI full avg10 in percent; None where the kernel keeps none (CONFIG_PSI off, or psi=0 at boot)."""
        try:
            text = _read(f"{self._proc}/pressure/memory")
            at = text.index(b"full avg10=") + len(b"full avg10=")
            return float(text[at : text.index(b" ", at)])
        except (OSError, ValueError):
            return None

    def _limit(self) -> tuple[int, int] | None:
        """Our container's limit and what is available within it: the limit less use, where file pages that were not
        used lately go first, as the kernel reclaims them (cgroup v2, memory.stat: inactive_file). None: no limit."""
        for folder, limit_name, used_name, cache in _LIMITS:
            at = f"{self._groups}/{folder}"
            try:
                limit, used = int(_read(at + limit_name)), int(_read(at + used_name))
                stat = b"\n" + _read(at + "memory.stat")
            except (OSError, ValueError):
                continue
            return limit, max(0, limit - used + (_number(stat, b"\n" + cache + b" ") or 0))
        return None


class StallAlarm:
    """A trigger of the kernel's pressure figures: it fires when tasks begin to wait for memory, at most every 2 s.

    Raises OSError where there is none: CONFIG_PSI off, psi=0 at boot, a read-only /proc, or a kernel before 6.4 and no
    privilege.
    """

    how = "told by the kernel at once"

    def __init__(self, path: str = "/proc/pressure/memory") -> None:
        self._lock = threading.Lock()
        self._open = True
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(self._fd, _TRIGGER)
            self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            os.close(self._fd)
            raise

    def wait(self) -> bool:
        """Wait until it fires; False once it never will again. One thread waits, and no more after a False."""
        poll = select.poll()
        poll.register(self._fd, select.POLLPRI)
        poll.register(self._end, select.POLLIN)
        happened = dict(poll.poll())
        if self._end not in happened and not happened.get(self._fd, 0) & (select.POLLERR | select.POLLNVAL):
            return True
        with self._lock:
            self._open = False
            os.close(self._fd)
            os.close(self._end)
        return False

    def end(self) -> None:
        """Have `wait` return False, now or next time."""
        with self._lock:
            if self._open:
                os.eventfd_write(self._end, 1)


def _swapped(meminfo: bytes) -> str:
    """What is in swap, where anything is: no measure of how short memory is now, but of how short it was."""
    total, free = _amount(meminfo, b"SwapTotal:"), _amount(meminfo, b"SwapFree:")
    return (
        f", {(total - free) / (1 << 30):.1f} GiB in swap"
        if total is not None and free is not None and total > free
        else ""
    )


def _singly(held: _Held) -> int:
    """The most one process can hold of its own."""
    return held.anonymous + held.file + held.shared + held.huge


def _live_thread(folder: str) -> tuple[str, bytes]:
    """The folder and status of a thread that still has the memory map, where the thread that leads has exited.

    The kernel then shows the process as a zombie without memory, and each of its other threads with all of it (seen
    on Linux 6.18; tests/test_memory_linux.py has such a process).
    """
    for name in os.listdir(f"{folder}/task"):
        at = f"{folder}/task/{name}"
        try:
            text = _read(f"{at}/status")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"\nVmRSS:" in text:
            return at, text
    return folder, b""


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        text = os.read(fd, _CHUNK)
        # A status line of 65,536 supplementary groups stands before the amounts, and takes more than one read.
        while text and len(text) % _CHUNK == 0 and len(text) < _LONGEST:
            more = os.read(fd, _CHUNK)
            if not more:
                break
            text += more
        return text
    finally:
        os.close(fd)


def _number(text: bytes, label: bytes) -> int | None:
    at = text.find(label)
    if at < 0:
        return None
    end = text.find(b"\n", at + len(label))
    try:
        return int(text[at + len(label) : end if end >= 0 else None])
    except ValueError:
        return None


def _amount(text: bytes, label: bytes) -> int | None:
    """Bytes of a line such as b"RssAnon:     116 kB"."""
    at = text.find(label)
    unit = text.find(b" kB", at)
    if at < 0 or unit < 0:
        return None
    try:
        return int(text[at + len(label) : unit]) * 1024
    except ValueError:
        return None
