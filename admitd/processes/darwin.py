"""darwin: what macOS tells anyone about one process, by libproc. Written from XNU's source; see docs/macos.md.

Nothing here raises for a process that is gone: the answer is None. The flavors of identity are open to every user
(bsd/kern/proc_info.c, NO_CHECK_SAME_USER). The C library is a parameter, so that tests bring their own.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from struct import Struct
from typing import Any, Final

LibC = Any
"""What `ctypes.CDLL(None, use_errno=True)` is on macOS: libSystem, which holds libproc and the Mach calls."""

# bsd/sys/proc_info.h: PROC_PIDT_SHORTBSDINFO, struct proc_bsdshortinfo; every field but comm[16] is 4 bytes wide:
# pid, ppid, pgid, status, comm, flags, uid, gid, ruid, rgid, svuid, svgid, rfu.
_SHORT_BSD_INFO: Final = 13
_SHORT: Final = Struct("=4I16s2I24x")
# bsd/sys/proc_info_private.h: PROC_PIDUNIQIDENTIFIERINFO, struct proc_uniqidentifierinfo: uuid[16], u64 p_uniqueid,
# u64 p_puniqueid, i32 p_idversion, ... ; its size, 56, is asserted there ("This structure is API").
_UNIQUE_IDENTIFIER_INFO: Final = 17
_UNIQUE: Final = Struct("=16xQ8xi20x")
# bsd/sys/proc_info.h: PROC_PIDVNODEPATHINFO, struct proc_vnodepathinfo: two of struct vnode_info_path, the working
# folder and the root: a vnode_info (vinfo_stat of 136 bytes, int, int, fsid of 8) and a path of MAXPATHLEN.
_VNODE_PATH_INFO: Final = 9
_VNODE_INFO: Final = 152
_PATH_MAX: Final = 1024
_VNODE_PATH_SIZE: Final = 2 * (_VNODE_INFO + _PATH_MAX)

# bsd/sys/proc_info.h: which processes proc_listpids lists. It answers in bytes; without a buffer, in those it needs.
_ALL_PIDS: Final = 1
_PPID_ONLY: Final = 6
_PID_SIZE: Final = ctypes.sizeof(ctypes.c_int)

# bsd/sys/proc.h and bsd/sys/proc_info.h
_STOPPED: Final = 4
_ZOMBIE: Final = 5
_TRACED: Final = 0x2
_SUSPENDED: Final = 0x1000


@dataclass(frozen=True, slots=True)
class ShortInfo:
    """One process, as struct proc_bsdshortinfo has it. `uid` is the effective one; `comm` has 16 bytes at most.

    `suspended` is PROC_FLAG_PA_SUSP: parked by the kernel when it ran out of room for pages, which `ps` does not
    show; the flag stays after a SIGCONT.
    """

    pid: int
    parent: int
    uid: int
    comm: bytes
    stopped: bool
    zombie: bool
    traced: bool
    suspended: bool


@cache
def load() -> LibC:
    """The C library of this process, opened once."""
    return ctypes.CDLL(None, use_errno=True)


def start_token(pid: int, libc: LibC) -> int | None:
    """`p_uniqueid`: one for each fork or spawn since boot, kept across exec, never used again."""
    found = _unique(pid, libc)
    return None if found is None else found[0]


def image_token(pid: int, libc: LibC) -> int | None:
    """`p_idversion`: another one after each exec; with `start_token`, "the same process, and the same program"."""
    found = _unique(pid, libc)
    return None if found is None else found[1]


def short_bsd_info(pid: int, libc: LibC) -> ShortInfo | None:
    """Whose it is, whether it is stopped, traced or suspended; None where there is no such process."""
    text = _ask(pid, _SHORT_BSD_INFO, _SHORT.size, libc)
    if text is None:
        return None
    shown, parent, _group, status, comm, flags, uid = _SHORT.unpack(text)
    if shown != pid:
        return None
    return ShortInfo(
        pid,
        parent,
        ctypes.c_int32(uid).value,
        comm.split(b"\0", 1)[0],
        stopped=status == _STOPPED,
        zombie=status == _ZOMBIE,
        traced=bool(flags & _TRACED),
        suspended=bool(flags & _SUSPENDED),
    )


def folder(pid: int, libc: LibC) -> str | None:
    """The folder that a process stands in; only one's own processes say."""
    text = _ask(pid, _VNODE_PATH_INFO, _VNODE_PATH_SIZE, libc)
    if text is None:
        return None
    path = text[_VNODE_INFO : _VNODE_INFO + _PATH_MAX].split(b"\0", 1)[0]
    return path.decode("utf-8", "surrogateescape") or None


def pids(libc: LibC) -> list[int]:
    """All processes, everybody's."""
    needed = libc.proc_listpids(ctypes.c_uint32(_ALL_PIDS), ctypes.c_uint32(0), None, ctypes.c_int(0))
    # Half as much again: some are started meanwhile.
    return _listed(_ALL_PIDS, 0, max(0, needed) // _PID_SIZE * 3 // 2, libc)


def children(pid: int, most: int, libc: LibC) -> list[int]:
    """The processes that one has started; not more than `most`."""
    return _listed(_PPID_ONLY, pid, most, libc)


def _listed(kind: int, of: int, most: int, libc: LibC) -> list[int]:
    found = (ctypes.c_int * most)()
    size = ctypes.c_int(ctypes.sizeof(found))
    filled = libc.proc_listpids(ctypes.c_uint32(kind), ctypes.c_uint32(of), found, size)
    return [pid for pid in found[: max(0, filled) // _PID_SIZE] if pid > 0]


def _unique(pid: int, libc: LibC) -> tuple[int, int] | None:
    text = _ask(pid, _UNIQUE_IDENTIFIER_INFO, _UNIQUE.size, libc)
    if text is None:
        return None
    unique, version = _UNIQUE.unpack(text)
    # No process has 0, launchd has 1: a kernel that left the field empty has not told.
    return (unique, version) if unique else None


def _ask(pid: int, flavor: int, size: int, libc: LibC) -> bytes | None:
    """The struct that proc_pidinfo fills, where it fills all of it: it returns the bytes written, 0 or less for none.

    Each argument carries its C type, `arg` above all: it is 64 bits wide, and ctypes would pass 32.
    """
    buffer = ctypes.create_string_buffer(size)
    written = libc.proc_pidinfo(ctypes.c_int(pid), ctypes.c_int(flavor), ctypes.c_uint64(0), buffer, ctypes.c_int(size))
    return buffer.raw if written == size else None
