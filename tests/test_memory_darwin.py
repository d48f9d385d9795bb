"""macOS memory: the layouts of XNU's headers, written by a made-up C library that fails as the real one may."""

from __future__ import annotations

import ctypes
import errno
import struct
import sys
import threading
from typing import Any

import pytest

from admitd.core.terms import Level, ProcessId
from admitd.memory.darwin import DarwinMemory, LevelAlarm

GIB = 1 << 30
PAGE = 16384
PLENTY = 1 << 50


class VmStatistics64(ctypes.Structure):
    """struct vm_statistics64 as macOS 10.9 to 15 have it, field by field as in osfmk/mach/vm_statistics.h."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("free", "active", "inactive", "wire")),
        *((name, ctypes.c_uint64) for name in ("zero_fill", "reactivations", "pageins", "pageouts", "faults")),
        *((name, ctypes.c_uint64) for name in ("cow_faults", "lookups", "hits", "purges")),
        *((name, ctypes.c_uint32) for name in ("purgeable", "speculative")),
        *((name, ctypes.c_uint64) for name in ("decompressions", "compressions", "swapins", "swapouts")),
        *((name, ctypes.c_uint32) for name in ("compressor", "throttled", "external", "internal")),
        ("uncompressed_in_compressor", ctypes.c_uint64),
    ]


class RusageInfoV4(ctypes.Structure):
    """struct rusage_info_v4, field by field as in bsd/sys/resource.h."""

    _fields_ = [
        ("uuid", ctypes.c_uint8 * 16),
        *(
            (name, ctypes.c_uint64)
            for name in (
                *("user_time", "system_time", "pkg_idle_wkups", "interrupt_wkups", "pageins", "wired_size"),
                *("resident_size", "phys_footprint", "proc_start_abstime", "proc_exit_abstime"),
                *("child_user_time", "child_system_time", "child_pkg_idle_wkups", "child_interrupt_wkups"),
                *("child_pageins", "child_elapsed_abstime", "diskio_bytesread", "diskio_byteswritten"),
                *("cpu_qos_default", "cpu_qos_maintenance", "cpu_qos_background", "cpu_qos_utility"),
                *("cpu_qos_legacy", "cpu_qos_user_initiated", "cpu_qos_user_interactive"),
                *("billed_system_time", "serviced_system_time", "logical_writes", "lifetime_max_phys_footprint"),
                *("instructions", "cycles", "billed_energy", "serviced_energy"),
                *("interval_max_phys_footprint", "runnable_time"),
            )
        ),
    ]


def sysctls() -> dict[bytes, bytes]:
    """A Mac of 64 GiB."""
    return {
        b"hw.memsize": struct.pack("=Q", 64 * GIB),
        b"hw.pagesize": struct.pack("=I", 4096),
        b"kern.memorystatus_vm_pressure_level": struct.pack("=i", 1),
        b"vm.swapusage": struct.pack("=QQQII", 2 * GIB, GIB, GIB, PAGE, 1),
    }


def pages(**gib: float) -> VmStatistics64:
    """Every field that is not named is full of nonsense, so that a wrong offset shows."""
    nonsense = {name: 0xDEAD for name, _ in VmStatistics64._fields_}
    return VmStatistics64(**(nonsense | {name: int(amount * GIB / PAGE) for name, amount in gib.items()}))


class Libc:
    """libSystem, as far as memory goes."""

    def __init__(self) -> None:
        self.sysctls = sysctls()
        self.statistics = pages(free=10, speculative=2, external=5, purgeable=1, wire=30, compressor=4)
        self.words_needed = 38
        self.words_filled: int | None = None
        self.kern_return = 0
        self.page_size = PAGE
        self.rusages: dict[int, RusageInfoV4 | int] = {}
        self.tokens: dict[int, int] = {}
        self.ports = 0
        self.counts_asked: list[int] = []

    def mach_host_self(self) -> int:
        self.ports += 1
        return 0x1003

    def host_page_size(self, port: Any, size: Any) -> int:
        assert port.value == 0x1003
        size._obj.value = self.page_size
        return 0 if self.page_size else 5

    def host_statistics64(self, port: Any, flavor: Any, buffer: Any, count: Any) -> int:
        assert (port.value, flavor.value) == (0x1003, 4)
        asked = count._obj.value
        self.counts_asked.append(asked)
        assert asked * 4 <= ctypes.sizeof(buffer)
        if self.kern_return:
            return self.kern_return
        ctypes.memmove(buffer, ctypes.byref(self.statistics), min(asked * 4, ctypes.sizeof(self.statistics)))
        if asked < self.words_needed:
            count._obj.value = self.words_needed
            return -307
        count._obj.value = self.words_needed if self.words_filled is None else self.words_filled
        return 0

    def sysctlbyname(self, name: Any, buffer: Any, length: Any, new: Any, new_length: Any) -> int:
        assert new.value is None and new_length.value == 0, "nothing is ever written"
        value = self.sysctls.get(name.value)
        if value is None:
            ctypes.set_errno(errno.ENOENT)
            return -1
        if len(value) > length._obj.value:
            ctypes.set_errno(errno.ENOMEM)
            return -1
        ctypes.memmove(buffer, value, len(value))
        length._obj.value = len(value)
        return 0

    def proc_pid_rusage(self, pid: Any, flavor: Any, buffer: Any) -> int:
        assert flavor.value == 4
        found = self.rusages.get(pid.value, errno.ESRCH)
        if isinstance(found, int):
            ctypes.set_errno(found)
            return -1
        assert ctypes.sizeof(found) <= 512 <= ctypes.sizeof(buffer)
        ctypes.memmove(buffer, ctypes.byref(found), ctypes.sizeof(found))
        return 0

    def proc_pidinfo(self, pid: Any, flavor: Any, arg: Any, buffer: Any, size: Any) -> int:
        assert (flavor.value, size.value) == (17, 56)
        token = self.tokens.get(pid.value)
        if token is None:
            return 0
        ctypes.memmove(buffer, struct.pack("=16xQ32x", token), 56)
        return 56


@pytest.fixture
def libc() -> Libc:
    return Libc()


def test_the_offsets_are_those_of_the_headers() -> None:
    assert ctypes.sizeof(VmStatistics64) == 152
    assert ctypes.sizeof(RusageInfoV4) == 296
    assert (RusageInfoV4.resident_size.offset, RusageInfoV4.phys_footprint.offset) == (64, 72)
    assert RusageInfoV4.lifetime_max_phys_footprint.offset == 240


class TestReading:
    def test_available_is_free_and_file_backed_and_purgeable(self, libc: Libc) -> None:
        reading = DarwinMemory(libc).reading()
        assert reading.available == {"ram": 14 * GIB}, "10 - 2 speculative, 5 file-backed, 1 purgeable"
        assert (reading.level, reading.problem) == (Level.NORMAL, None)

    def test_why_has_the_numbers(self, libc: Libc) -> None:
        assert DarwinMemory(libc).reading().why == (
            "kernel pressure level 1; 14.0 GiB available: 8.0 free, 5.0 file-backed, 1.0 purgeable; "
            "30.0 GiB wired, 4.0 compressed, 1.0 in swap"
        )

    @pytest.mark.parametrize(
        ("kernel", "level"), [(1, Level.NORMAL), (2, Level.WARN), (4, Level.CRITICAL), (0, None), (3, None), (-1, None)]
    )
    def test_level(self, libc: Libc, kernel: int, level: Level | None) -> None:
        libc.sysctls[b"kern.memorystatus_vm_pressure_level"] = struct.pack("=i", kernel)
        reading = DarwinMemory(libc).reading()
        assert reading.level is level
        assert reading.available is not None

    def test_more_speculative_pages_than_free_ones_is_no_negative_amount(self, libc: Libc) -> None:
        libc.statistics = pages(free=1, speculative=2, external=5, purgeable=0, wire=1, compressor=1)
        assert DarwinMemory(libc).reading().available == {"ram": 5 * GIB}

    def test_without_swap_usage_only_the_sentence_is_shorter(self, libc: Libc) -> None:
        del libc.sysctls[b"vm.swapusage"]
        reading = DarwinMemory(libc).reading()
        assert reading.available is not None
        assert "swap" not in reading.why

    def test_a_kernel_whose_struct_has_grown_is_asked_again_with_its_own_count(self, libc: Libc) -> None:
        libc.words_needed = 62
        memory = DarwinMemory(libc)
        assert [memory.reading().available for _ in range(2)] == [{"ram": 14 * GIB}] * 2
        assert libc.counts_asked == [38, 62, 62], "learned once; never more than the kernel knows, or it logs an error"

    def test_the_host_port_is_taken_once(self, libc: Libc) -> None:
        memory = DarwinMemory(libc)
        for _ in range(5):
            memory.reading()
        assert libc.ports == 1

    def test_pages_are_the_kernels_even_where_ours_are_smaller(self, libc: Libc) -> None:
        assert libc.sysctls[b"hw.pagesize"] == struct.pack("=I", 4096)
        assert DarwinMemory(libc).reading().available == {"ram": 14 * GIB}

    def test_without_a_page_size_from_the_kernel_ours_is_taken(self, libc: Libc) -> None:
        libc.page_size = 0
        assert DarwinMemory(libc).reading().available == {"ram": 14 * GIB // 4}

    @pytest.mark.parametrize(
        ("attribute", "value", "said"),
        [
            ("kern_return", 5, "host_statistics64 returned 5"),
            ("words_needed", 5000, "host_statistics64 returned -307"),
            ("words_filled", 24, "filled 24 words where 38"),
            ("words_filled", 0, "filled 0 words"),
            ("host_statistics64", None, "does not have it"),
            ("sysctlbyname", None, "does not have it"),
            ("mach_host_self", None, "does not have it"),
        ],
    )
    def test_what_fails_is_a_problem_and_no_guess(self, libc: Libc, attribute: str, value: Any, said: str) -> None:
        setattr(libc, attribute, value)
        reading = DarwinMemory(libc).reading()
        assert (reading.available, reading.level) == (None, None)
        assert reading.problem is not None and said in reading.problem

    @pytest.mark.parametrize("value", [None, b"", b"\1\0", b"\1\0\0\0\0\0", b"\1" * 16])
    def test_a_pressure_level_that_is_not_there_or_of_an_odd_size_is_a_problem(
        self, libc: Libc, value: bytes | None
    ) -> None:
        del libc.sysctls[b"kern.memorystatus_vm_pressure_level"]
        if value is not None:
            libc.sysctls[b"kern.memorystatus_vm_pressure_level"] = value
        reading = DarwinMemory(libc).reading()
        assert reading.available is None
        assert reading.problem is not None and "kern.memorystatus_vm_pressure_level" in reading.problem


class TestLevelAlarm:
    @staticmethod
    def levels(libc: Libc, *levels: int | None) -> LevelAlarm:
        """An alarm that is told these levels one after the other, the last again and again; None: it fails."""
        left = list(levels)

        class Told(DarwinMemory):
            def kernel_level(self) -> int:
                level = left.pop(0) if len(left) > 1 else left[0]
                if level is None:
                    raise OSError(errno.ENOENT, "No such file or directory")
                return level

        return LevelAlarm(Told(libc), ask_every_s=0.0)

    def test_it_fires_each_time_that_the_level_gets_worse(self, libc: Libc) -> None:
        alarm = self.levels(libc, 1, 1, 2, 2, 1, 4, None)
        assert [alarm.wait() for _ in range(3)] == [True, True, False]

    def test_one_that_is_ended_waits_no_more(self, libc: Libc) -> None:
        alarm = self.levels(libc, 2, 2)
        told: list[bool] = []
        waiting = threading.Thread(target=lambda: told.append(alarm.wait()))
        waiting.start()
        alarm.end()
        waiting.join()
        assert (told, alarm.wait()) == ([False], False)

    def test_it_reads_the_kernels_own_level_and_needs_one(self, libc: Libc) -> None:
        assert DarwinMemory(libc).kernel_level() == 1
        del libc.sysctls[b"kern.memorystatus_vm_pressure_level"]
        with pytest.raises(OSError, match=r"kern\.memorystatus_vm_pressure_level"):
            LevelAlarm(DarwinMemory(libc))


class TestPhysical:
    def test_it_is_hw_memsize(self, libc: Libc) -> None:
        assert DarwinMemory(libc).physical() == 64 * GIB

    def test_it_raises_where_it_can_not_be_had(self, libc: Libc) -> None:
        del libc.sysctls[b"hw.memsize"]
        with pytest.raises(OSError, match=r"hw\.memsize"):
            DarwinMemory(libc).physical()


class TestWiredLimit:
    def test_it_is_what_the_system_says_in_mb_or_as_before_macos_14_in_bytes(self, libc: Libc) -> None:
        memory = DarwinMemory(libc)
        assert memory.wired_limit() is None
        libc.sysctls[b"debug.iogpu.wired_limit"] = struct.pack("=Q", 3 * GIB)
        assert memory.wired_limit() == 3 * GIB
        libc.sysctls[b"iogpu.wired_limit_mb"] = struct.pack("=i", 49_152)
        assert memory.wired_limit() == 48 * GIB


def process(libc: Libc, pid: int, footprint: float, resident: float = 0, peak: float = 0) -> ProcessId:
    nonsense = {name: 0xDEADBEEF for name, _ in RusageInfoV4._fields_ if name != "uuid"}
    amounts = {"phys_footprint": footprint, "resident_size": resident, "lifetime_max_phys_footprint": peak}
    libc.rusages[pid] = RusageInfoV4(**(nonsense | {name: int(gib * GIB) for name, gib in amounts.items()}))
    libc.tokens[pid] = pid * 1000
    return ProcessId(pid, pid * 1000)


class TestFootprint:
    @pytest.mark.parametrize(
        ("processes", "held", "why"),
        [
            ([], 0, "none"),
            ([(10, 3)], 10, "compressed pages and Metal are in the footprint and not in residence"),
            ([(2, 30)], 30, "mapped weights are in residence and not in the footprint"),
            ([(2, 30), (3, 30)], 33, "the same weights, mapped twice, count once"),
            ([(10, 1), (5, 1)], 15, "the sum of footprints"),
        ],
    )
    def test_rules(self, libc: Libc, processes: list[tuple[float, float]], held: float, why: str) -> None:
        found = [process(libc, 100 + at, *amounts) for at, amounts in enumerate(processes)]
        assert DarwinMemory(libc).footprint(found, PLENTY) == held * GIB, why

    def test_one_that_is_gone_contributes_nothing(self, libc: Libc) -> None:
        here = process(libc, 100, 5)
        assert DarwinMemory(libc).footprint([here, ProcessId(101, 5)], PLENTY) == 5 * GIB

    def test_one_of_another_user_makes_the_whole_unreadable(self, libc: Libc) -> None:
        here = process(libc, 100, 5)
        libc.rusages[101] = errno.EPERM
        assert DarwinMemory(libc).footprint([here, ProcessId(101, 5)], PLENTY) is None

    @pytest.mark.parametrize("reason", [errno.EINVAL, errno.EIO, 0])
    def test_any_other_failure_is_unreadable_as_well(self, libc: Libc, reason: int) -> None:
        libc.rusages[101] = reason
        assert DarwinMemory(libc).footprint([ProcessId(101, 5)], PLENTY) is None

    def test_a_library_without_the_call_is_unreadable(self, libc: Libc) -> None:
        libc.proc_pid_rusage = None  # type: ignore[method-assign,assignment]
        assert DarwinMemory(libc).footprint([ProcessId(101, 5)], PLENTY) is None

    def test_beyond_the_budget_a_pid_that_belongs_to_another_contributes_nothing(self, libc: Libc) -> None:
        ours, reused = process(libc, 100, 5), process(libc, 101, 7)
        libc.tokens[101] += 1
        assert DarwinMemory(libc).footprint([ours, reused], GIB) == 5 * GIB
        assert DarwinMemory(libc).footprint([ours], GIB) == 5 * GIB

    def test_the_peak_of_one_process(self, libc: Libc) -> None:
        one = process(libc, 100, 5, peak=9)
        memory = DarwinMemory(libc)
        assert memory.peak(one) == 9 * GIB
        assert memory.peak(ProcessId(100, 1)) is None
        assert memory.peak(ProcessId(101, 1)) is None
        libc.rusages[100] = errno.EPERM
        assert memory.peak(one) is None


@pytest.mark.skipif(sys.platform != "darwin", reason="asks macOS itself; never run so far")
def test_this_mac() -> None:  # pragma: no cover
    import os

    from admitd.memory import for_this_system
    from admitd.processes.darwin import load, start_token

    memory = for_this_system()
    reading = memory.reading()
    assert reading.problem is None and reading.available is not None
    assert 0 < reading.available["ram"] < memory.physical()
    token = start_token(os.getpid(), load())
    assert token is not None
    assert (memory.footprint([ProcessId(os.getpid(), token)], 0) or 0) > 1 << 20
