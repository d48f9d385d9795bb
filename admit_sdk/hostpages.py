"""hostpages: where the pages of a large buffer lie: in huge pages, and on which NUMA node. Linux only; elsewhere, and
where it would change nothing, nothing is done, and the answer says why."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from typing import Final

_THP: Final = "/sys/kernel/mm/transparent_hugepage"
_NODES: Final = "/sys/devices/system/node"
# asm/unistd.h; glibc has no wrapper (mbind(2), get_mempolicy(2)): mbind, get_mempolicy.
_SYSCALLS: Final = {"x86_64": (237, 239), "aarch64": (235, 236)}
# linux/mempolicy.h. Preferred, not bound: where that node is full, memory of another is better than none.
_MPOL_PREFERRED: Final = 1
_MPOL_F_NODE: Final = 1
_MPOL_F_ADDR: Final = 2
_MOST_NODES: Final = 1024


@dataclass(frozen=True, slots=True)
class Applied:
    """Whether it was done, and where it was not, why."""

    done: bool
    why: str = ""


def want_huge_pages(buffer: mmap.mmap) -> Applied:
    """Have the kernel back `buffer` by huge pages where it can: fewer misses of the TLB when weights are gone through.

    madvise(2), MADV_HUGEPAGE: advice, for what is touched from now on. `buffer` is private, anonymous memory; what is
    shared goes by another switch (shmem_enabled).
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return Applied(False, "this system has no huge pages that a program could ask for")
    if "[never]" in _read(f"{_THP}/enabled"):
        return Applied(False, f"they are switched off on this machine ({_THP}/enabled)")
    least = int(_read(f"{_THP}/hpage_pmd_size") or 2 << 20)
    if len(buffer) < least:
        return Applied(False, f"the buffer is smaller than one huge page ({least >> 10} KiB)")
    try:
        buffer.madvise(mmap.MADV_HUGEPAGE)
    except OSError as problem:
        return Applied(False, f"the kernel declined: {problem.strerror}")
    return Applied(True)


@cache
def nodes() -> tuple[int, ...]:
    """The NUMA nodes of this system that are online; one where it does not say."""
    return _listed(_read(f"{_NODES}/online")) or (0,)


def prefer_node(buffer: mmap.mmap, node: int) -> Applied:
    """Have the pages of `buffer` that are touched from now on lie on `node`. Raises ValueError for one that is none."""
    nothing = _nothing_to_choose(node)
    return nothing or place(buffer, node)


def run_on_node(node: int) -> Applied:
    """Have the calling thread run on the processors of `node` only. Raises ValueError for one that is none."""
    nothing = _nothing_to_choose(node)
    if nothing is not None:
        return nothing
    processors = set(_listed(_read(f"{_NODES}/node{node}/cpulist"))) & os.sched_getaffinity(0)
    if not processors:
        return Applied(False, f"this process may not run on any processor of node {node}")
    os.sched_setaffinity(0, processors)  # 0: the calling thread, not the process (sched_setaffinity(2))
    return Applied(True)


def place(buffer: mmap.mmap, node: int) -> Applied:
    """mbind(2), also where there is one node only."""
    numbers = _SYSCALLS.get(platform.machine())
    if not sys.platform.startswith("linux") or numbers is None:
        return Applied(False, f"the system call's number is not known for {platform.machine()}")
    words = (ctypes.c_ulong * (_MOST_NODES // (8 * ctypes.sizeof(ctypes.c_ulong))))()
    bits = 8 * ctypes.sizeof(ctypes.c_ulong)
    words[node // bits] = 1 << (node % bits)
    failed = _call(
        numbers[0],
        ctypes.c_void_p(address_of(buffer)),
        ctypes.c_ulong(len(buffer)),
        ctypes.c_int(_MPOL_PREFERRED),
        words,
        ctypes.c_ulong(_MOST_NODES),
        ctypes.c_uint(0),
    )
    return Applied(True) if not failed else Applied(False, f"the kernel declined: {os.strerror(failed)}")


def node_of(buffer: mmap.mmap) -> int | None:
    """The node on which the first page of `buffer` lies; None where the system does not say."""
    numbers = _SYSCALLS.get(platform.machine())
    if not sys.platform.startswith("linux") or numbers is None:
        return None
    node = ctypes.c_int(-1)
    failed = _call(
        numbers[1],
        ctypes.byref(node),
        None,
        ctypes.c_ulong(0),
        ctypes.c_void_p(address_of(buffer)),
        ctypes.c_ulong(_MPOL_F_NODE | _MPOL_F_ADDR),
    )
    return None if failed else node.value


def address_of(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _nothing_to_choose(node: int) -> Applied | None:
    if node not in nodes():
        raise ValueError(f"there is no NUMA node {node}; there are {', '.join(map(str, nodes()))}")
    return Applied(False, "this system has one NUMA node") if len(nodes()) == 1 else None


def _call(number: int, *arguments: object) -> int:
    """One system call; 0, or its errno."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    return 0 if syscall(ctypes.c_long(number), *arguments) == 0 else ctypes.get_errno() or errno.EINVAL


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def _listed(text: str) -> tuple[int, ...]:
    """The numbers of "0-3,8": the kernel's cpulist format."""
    out: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        out.extend(range(int(first), int(last or first) + 1))
    return tuple(out)
