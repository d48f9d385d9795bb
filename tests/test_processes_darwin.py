"""macOS processes by libproc: the layouts of XNU's headers, written by a made-up C library."""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any

import pytest

from admitd.processes.darwin import (
    ShortInfo,
    children,
    folder,
    image_token,
    load,
    pids,
    short_bsd_info,
    start_token,
)


class ShortBsdInfo(ctypes.Structure):
    """struct proc_bsdshortinfo, field by field as in bsd/sys/proc_info.h."""

    _fields_ = [
        ("pid", ctypes.c_uint32),
        ("ppid", ctypes.c_uint32),
        ("pgid", ctypes.c_uint32),
        ("status", ctypes.c_uint32),
        ("comm", ctypes.c_char * 16),
        ("flags", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("ruid", ctypes.c_uint32),
        ("rgid", ctypes.c_uint32),
        ("svuid", ctypes.c_uint32),
        ("svgid", ctypes.c_uint32),
        ("rfu", ctypes.c_uint32),
    ]


class UniqueIdentifierInfo(ctypes.Structure):
    """struct proc_uniqidentifierinfo, field by field as in bsd/sys/proc_info_private.h."""

    _fields_ = [
        ("uuid", ctypes.c_uint8 * 16),
        ("uniqueid", ctypes.c_uint64),
        ("puniqueid", ctypes.c_uint64),
        ("idversion", ctypes.c_int32),
        ("orig_ppidversion", ctypes.c_int32),
        ("reserve2", ctypes.c_uint64),
        ("reserve3", ctypes.c_uint64),
    ]


class Libc:
    """proc_pidinfo as XNU answers: the bytes written; 0 for no such process, ENOMEM for a buffer too small."""

    def __init__(self, answers: dict[tuple[int, int], ctypes.Structure], written: int | None = None) -> None:
        self.answers = answers
        self.written = written

    def proc_pidinfo(self, pid: Any, flavor: Any, arg: Any, buffer: Any, size: Any) -> int:
        assert isinstance(arg, ctypes.c_uint64), "32 bits of a 64-bit argument are not enough"
        found = self.answers.get((pid.value, flavor.value))
        if found is None or size.value < ctypes.sizeof(found):
            return 0
        ctypes.memmove(buffer, ctypes.byref(found), ctypes.sizeof(found))
        return ctypes.sizeof(found) if self.written is None else self.written


def short(**fields: Any) -> Libc:
    return Libc({(501, 13): ShortBsdInfo(pid=501, ppid=1, **fields)})


def unique(**fields: Any) -> Libc:
    return Libc({(501, 17): UniqueIdentifierInfo(uuid=(255,) * 16, puniqueid=9, **fields)})


class VnodeInfoPath(ctypes.Structure):
    _fields_ = (
        ("stat", ctypes.c_char * 136),
        ("type", ctypes.c_int),
        ("pad", ctypes.c_int),
        ("fsid", ctypes.c_int * 2),
        ("path", ctypes.c_char * 1024),
    )


class VnodePathInfo(ctypes.Structure):
    _fields_ = (("folder", VnodeInfoPath), ("root", VnodeInfoPath))


def test_the_folder_of_a_process() -> None:
    assert ctypes.sizeof(VnodePathInfo) == 2352
    whole = VnodePathInfo(VnodeInfoPath(path="/Users/ü/models".encode()), VnodeInfoPath(path=b"/"))
    assert folder(501, Libc({(501, 9): whole})) == "/Users/ü/models"
    assert folder(502, Libc({(501, 9): whole})) is None
    assert folder(501, Libc({(501, 9): VnodePathInfo()})) is None


def test_the_sizes_are_those_of_the_headers() -> None:
    assert (ctypes.sizeof(ShortBsdInfo), ctypes.sizeof(UniqueIdentifierInfo)) == (64, 56)
    assert (ShortBsdInfo.status.offset, ShortBsdInfo.flags.offset) == (12, 32)
    assert (UniqueIdentifierInfo.uniqueid.offset, UniqueIdentifierInfo.idversion.offset) == (16, 32)


def test_a_plain_process() -> None:
    libc = short(status=2, comm=b"python3.11", flags=0x4014, uid=501, gid=20, ruid=502)
    assert short_bsd_info(501, libc) == ShortInfo(
        501, 1, 501, b"python3.11", stopped=False, zombie=False, traced=False, suspended=False
    )


@pytest.mark.parametrize(
    ("status", "flags", "said", "why"),
    [
        (3, 0, set(), "asleep"),
        (4, 0, {"stopped"}, "SIGSTOP"),
        (4, 0x2, {"stopped", "traced"}, "a debugger: SIGCONT would be dropped"),
        (5, 0, {"zombie"}, "gone, not yet collected"),
        (2, 0x1000, {"suspended"}, "parked for want of memory; ps does not show it"),
        (2, 0x800 | 0x600, set(), "throttled, or marked for later: it runs"),
    ],
)
def test_what_a_process_is(status: int, flags: int, said: set[str], why: str) -> None:
    found = short_bsd_info(501, short(status=status, flags=flags))
    assert found is not None
    assert {name for name in ("stopped", "zombie", "traced", "suspended") if getattr(found, name)} == said, why


def test_nobody_is_minus_two_as_ps_prints_it() -> None:
    found = short_bsd_info(501, short(uid=0xFFFFFFFE))
    assert found is not None and found.uid == -2


def test_a_name_of_sixteen_bytes_has_no_end_of_its_own() -> None:
    found = short_bsd_info(501, short(comm=b"sixteen-letters!", flags=0x0))
    assert found is not None and found.comm == b"sixteen-letters!"


def test_tokens() -> None:
    libc = unique(uniqueid=(1 << 40) + 7, idversion=1234)
    assert start_token(501, libc) == (1 << 40) + 7
    assert image_token(501, libc) == 1234


def test_an_image_token_may_be_negative() -> None:
    assert image_token(501, unique(uniqueid=1, idversion=-5)) == -5


@pytest.mark.parametrize("ask", [start_token, image_token, short_bsd_info])
@pytest.mark.parametrize(
    "libc",
    [
        Libc({}),
        Libc({(501, 13): ShortBsdInfo(pid=501), (501, 17): UniqueIdentifierInfo(uniqueid=5)}, written=0),
        Libc({(501, 13): ShortBsdInfo(pid=501), (501, 17): UniqueIdentifierInfo(uniqueid=5)}, written=-1),
        Libc({(501, 13): ShortBsdInfo(pid=501), (501, 17): UniqueIdentifierInfo(uniqueid=5)}, written=32),
        Libc({(501, 13): ShortBsdInfo(pid=502), (501, 17): UniqueIdentifierInfo(uniqueid=0)}),
    ],
    ids=["gone", "nothing written", "an error", "half a struct", "another process, or an empty answer"],
)
def test_what_is_not_told_in_full_is_none(ask: Any, libc: Libc) -> None:
    assert ask(501, libc) is None


def test_the_struct_is_read_in_the_order_of_the_machine() -> None:
    assert start_token(501, unique(uniqueid=struct.unpack("=Q", bytes(range(1, 9)))[0])) == int.from_bytes(
        bytes(range(1, 9)), sys.byteorder
    )


class Lister:
    """proc_listpids as XNU answers: in bytes; without a buffer the bytes that all and 20 more would need."""

    def __init__(self, living: list[int]) -> None:
        self.living = living

    def proc_listpids(self, kind: Any, of: Any, buffer: Any, size: Any) -> int:
        found = self.living if kind.value == 1 else [pid for pid in self.living if pid > of.value]
        assert (kind.value, of.value) in ((1, 0), (6, 501))
        if buffer is None:
            return 4 * (len(found) + 20)
        told = found[: size.value // 4]
        buffer[: len(told)] = told
        return 4 * len(told)


def test_every_process_is_listed_and_the_children_of_one_up_to_a_bound() -> None:
    living = [0, *range(500, 1500)]
    assert pids(Lister(living)) == living[1:]
    assert children(501, 128, Lister(living)) == list(range(502, 630))
    assert pids(Lister([])) == []


@pytest.mark.skipif(sys.platform != "darwin", reason="asks macOS itself; never run so far")
def test_on_a_mac_we_are_ourselves() -> None:  # pragma: no cover
    import os

    libc = load()
    found = short_bsd_info(os.getpid(), libc)
    assert found is not None and (found.parent, found.uid) == (os.getppid(), os.geteuid())
    assert start_token(os.getpid(), libc) != start_token(os.getppid(), libc)
    assert start_token(99_999_999, libc) is None
    assert os.getpid() in pids(libc)
    assert os.getpid() in children(os.getppid(), 1024, libc)
