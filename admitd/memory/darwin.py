"""darwin: memory as XNU tells it, by calls into the C library. Written from its source; see docs/macos.md.

No command is run: under pressure a fork is the first thing that fails. The C library is a parameter, so that tests
bring their own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple

from admitd.core.pressure import darwin_level
from admitd.core.terms import RAM, ProcessId, Reading
from admitd.processes.darwin import LibC, start_token

# osfmk/mach/host_info.h: the flavor, and the largest array that any flavor fills, in words of 4 bytes.
_HOST_VM_INFO64: Final = 4
_HOST_INFO_MAX: Final = 1024
# osfmk/mach/vm_statistics.h, struct vm_statistics64: free, active, inactive, wire: u32; zero_fill ... purges: 9 u64;
# purgeable, speculative: u32; decompressions, compressions, swapins, swapouts: u64; compressor, throttled, external,
# internal: u32; uncompressed in compressor: u64. 152 bytes; later revisions only add behind that.
_PAGES: Final = Struct("=4I72x2I32x4I8x")
_WORDS: Final = _PAGES.size // 4
# osfmk/mach/mig_errors.h. macOS 27 answers so to a count of 38 and says in the count what it wants (giampaolo/psutil
# issue 2853). A count larger than the kernel's own makes it log an error each time (osfmk/kern/host.c, vm_stats), so
# the count starts small and is what the kernel asked for from then on.
_ARRAY_TOO_LARGE: Final = -307

# bsd/sys/sysctl.h, struct xsw_usage: u64 total, avail, used; u32 pagesize, encrypted.
_SWAP: Final = Struct("=16xQ8x")

# bsd/sys/resource.h, RUSAGE_INFO_V4: uuid[16] and 35 u64; the buffer is larger, should the kernel write more.
_RUSAGE_V4: Final = 4
_RUSAGE_SIZE: Final = 1024
_RUSAGE: Final = Struct("=64xQQ160xQ")


ASK_EVERY_S: Final = 0.5


class _Pages(NamedTuple):
    """Bytes."""

    free: int
    file_backed: int
    purgeable: int
    wired: int
    compressed: int


class Rusage(NamedTuple):
    """Bytes of one process: resident pages, its footprint ledger, and the most that ledger ever was."""

    resident: int
    footprint: int
    peak: int


class DarwinMemory:
    """Memory of a Mac."""

    def __init__(self, libc: LibC) -> None:
        self._libc = libc
        self._host: int | None = None
        self._count = _WORDS

    def physical(self) -> int:
        return self._integer(b"hw.memsize")

    def wired_limit(self) -> int | None:
        """What Metal may wire, in bytes; 0 where the system's own limit is in force, None where there is none."""
        for name in (b"iogpu.wired_limit_mb", b"debug.iogpu.wired_limit"):  # the second one before macOS 14
            try:
                found = self._integer(name)
            except OSError:
                continue
            return found << 20 if name.endswith(b"_mb") else found
        return None

    def kernel_level(self) -> int:
        """The kernel's level of memory pressure: 1, 2 or 4. Raises OSError."""
        return self._integer(b"kern.memorystatus_vm_pressure_level")

    def reading(self) -> Reading:
        """Available is what Ollama computes (discover/gpu_info_darwin.m): free + file-backed + purgeable.

        The kernel's level is a late alarm, never a permission: wired memory, and so what Metal holds, is on neither
        side of the comparison behind it (osfmk/vm/vm_page.h, AVAILABLE_MEMORY). So what is available counts as well.
        The numbers may be a second old: XNU answers 2 to 10 requests a second of all programs together, then repeats
        itself (osfmk/kern/host.c, rate_limit_host_statistics).
        """
        try:
            pages = self._pages()
            kernel_level = self.kernel_level()
            total = self.physical()
        except OSError as error:
            return Reading(problem=f"the system does not tell its memory: {error}")
        available = pages.free + pages.file_backed + pages.purgeable
        why = (
            f"kernel pressure level {kernel_level}; {_gib(available)} GiB available: {_gib(pages.free)} free, "
            f"{_gib(pages.file_backed)} file-backed, {_gib(pages.purgeable)} purgeable; {_gib(pages.wired)} GiB "
            f"wired, {_gib(pages.compressed)} compressed{self._swapped()}"
        )
        return Reading({RAM: available}, darwin_level(kernel_level, available, total), why)

    def footprint(self, processes: Sequence[ProcessId], enough: int) -> int | None:
        """The sum of phys_footprint, and the largest part of residence that no footprint shows.

        phys_footprint has no term for clean file pages (osfmk/kern/task.c, "Task ledgers"), so mapped weights are
        only in residence; processes of one service mostly map the same files, so those count once. Another user's
        process is not told without root: None. A figure beyond `enough` is worth asking whether the pid still
        belongs to the process that was seen.
        """
        try:
            found = {each: rusage for each in processes if (rusage := self.rusage(each.pid)) is not None}
        except OSError:
            return None
        if _together(found.values()) > enough:
            found = {each: rusage for each, rusage in found.items() if self._is_still(each)}
        return _together(found.values())

    def peak(self, process: ProcessId) -> int | None:
        """The most that one process ever held, by its footprint ledger; None where it is gone or can't be read."""
        try:
            found = self.rusage(process.pid)
        except OSError:
            return None
        return found.peak if found is not None and self._is_still(process) else None

    def group_peak(self, processes: Sequence[ProcessId]) -> int | None:
        return None

    def rusage(self, pid: int) -> Rusage | None:
        """None for a process that is gone; OSError for one that may not be asked about."""
        buffer = ctypes.create_string_buffer(_RUSAGE_SIZE)
        ctypes.set_errno(0)
        if self._function("proc_pid_rusage")(ctypes.c_int(pid), ctypes.c_int(_RUSAGE_V4), buffer) == 0:
            return Rusage(*_RUSAGE.unpack_from(buffer))
        reason = ctypes.get_errno()
        if reason == errno.ESRCH:
            return None
        raise OSError(reason, os.strerror(reason), f"proc_pid_rusage of {pid}")

    def _is_still(self, process: ProcessId) -> bool:
        return start_token(process.pid, self._libc) == process.started

    def _pages(self) -> _Pages:
        buffer = ctypes.create_string_buffer(_HOST_INFO_MAX * 4)
        page = self._page_size()
        count = self._statistics(buffer, self._count)
        if count < _WORDS:
            raise OSError(errno.EPROTO, f"host_statistics64 filled {count} words where {_WORDS} are needed")
        free, _active, _inactive, wired, purgeable, speculative, compressed, _, external, _ = _PAGES.unpack_from(buffer)
        # free_count has the speculative pages in it (osfmk/kern/host.c, vm_stats), and so has external_page_count
        # (osfmk/vm/vm_resident.c, vm_page_speculate): counted twice, if they stayed.
        return _Pages(
            max(0, free - speculative) * page, external * page, purgeable * page, wired * page, compressed * page
        )

    def _statistics(self, buffer: ctypes.Array[ctypes.c_char], words: int) -> int:
        """Fill the buffer; the words that were filled."""
        count = ctypes.c_uint32(words)
        flavor = ctypes.c_int(_HOST_VM_INFO64)
        answer = self._function("host_statistics64")(self._port(), flavor, buffer, ctypes.byref(count))
        if answer == _ARRAY_TOO_LARGE and words < count.value <= _HOST_INFO_MAX:
            self._count = count.value
            answer = self._function("host_statistics64")(self._port(), flavor, buffer, ctypes.byref(count))
        if answer != 0:
            raise OSError(errno.EIO, f"host_statistics64 returned {answer}")
        return count.value

    def _port(self) -> ctypes.c_uint32:
        """Asked for once: each call adds a reference to the port that no one would give back."""
        if self._host is None:
            self._host = int(self._function("mach_host_self")())
        return ctypes.c_uint32(self._host)

    def _page_size(self) -> int:
        """The kernel's own, in which it counts. hw.pagesize is the caller's: 4096 under Rosetta, where the kernel has
        16384."""
        size = ctypes.c_size_t(0)
        answer = self._function("host_page_size")(self._port(), ctypes.byref(size))
        if answer != 0 or size.value == 0:
            return self._integer(b"hw.pagesize")
        return size.value

    def _swapped(self) -> str:
        """macOS makes swap files as it needs them, so only what is used says anything."""
        try:
            (used,) = _SWAP.unpack(self._sysctl(b"vm.swapusage", _SWAP.size))
        except OSError:
            return ""
        return f", {_gib(used)} in swap"

    def _integer(self, name: bytes) -> int:
        text = self._sysctl(name, 4, 8)
        return int.from_bytes(text, "little", signed=True)

    def _function(self, name: str) -> Callable[..., int]:
        function: Callable[..., int] | None = getattr(self._libc, name, None)
        if function is None:
            raise OSError(errno.ENOSYS, "the C library does not have it", name)
        return function

    def _sysctl(self, name: bytes, *sizes: int) -> bytes:
        """The value, which is of one of these sizes."""
        buffer = ctypes.create_string_buffer(max(sizes))
        length = ctypes.c_size_t(len(buffer))
        ctypes.set_errno(0)
        answer = self._function("sysctlbyname")(
            ctypes.c_char_p(name), buffer, ctypes.byref(length), ctypes.c_void_p(None), ctypes.c_size_t(0)
        )
        if answer != 0:
            reason = ctypes.get_errno()
            raise OSError(reason, os.strerror(reason), f"sysctl {name.decode()}")
        if length.value not in sizes:
            raise OSError(errno.EPROTO, f"sysctl {name.decode()} has {length.value} bytes, not {sizes}")
        return buffer.raw[: length.value]


class LevelAlarm:
    """It fires when the kernel's level of memory pressure gets worse, for which it asks twice a second: one call.

    The system would tell it too, but one process at a time, and up to more than a minute late (Firefox,
    nsAppShell.mm, InitMemoryPressureObserver; bsd/kern/kern_memorystatus_notify.c). What is available is not asked for:
    XNU limits how often all programs together get that. Raises OSError where the level can't be read.
    """

    how = f"asked for every {ASK_EVERY_S:g} s"

    def __init__(self, memory: DarwinMemory, ask_every_s: float = ASK_EVERY_S) -> None:
        self._memory = memory
        self._ask_every_s = ask_every_s
        self._end = threading.Event()
        self._level = memory.kernel_level()

    def wait(self) -> bool:
        """Wait until it gets worse; False once nobody wants to know, or it can't be read any more."""
        while not self._end.wait(self._ask_every_s):
            try:
                before, self._level = self._level, self._memory.kernel_level()
            except OSError:
                return False
            if self._level > before:
                return True
        return False

    def end(self) -> None:
        """Have `wait` return False, now or next time."""
        self._end.set()


def _together(found: Iterable[Rusage]) -> int:
    footprint = unseen = 0
    for each in found:
        footprint += each.footprint
        unseen = max(unseen, each.resident - each.footprint)
    return footprint + unseen


def _gib(amount: int) -> str:
    return f"{amount / (1 << 30):.1f}"
