"""buffers: large host buffers that are charged to a governor, and a pool that keeps returned ones for the next.

What is kept is still charged, since it is still memory; it is a candidate for eviction like an idle model, and the
pool lets go of it by itself before it refuses anything.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections import OrderedDict
from types import TracebackType
from typing import Final

from admit_sdk.errors import ResourceNotAvailableError
from admit_sdk.governor import MemoryGovernor
from admit_sdk.guard import AllocationGuard
from admit_sdk.hostpages import Applied, prefer_node, want_huge_pages

_NOT_ASKED: Final = Applied(False, "it was not asked for")


class HostBuffer:
    """Anonymous memory, page-aligned; given back to its pool by `release` or at the end of its block."""

    def __init__(self, pool: BufferPool, memory: mmap.mmap, guard: AllocationGuard) -> None:
        self._pool: BufferPool | None = pool
        self._memory = memory
        self._guard = guard
        self.huge_pages = _NOT_ASKED
        self.numa_node = _NOT_ASKED
        self.view = memoryview(memory)
        """The bytes. Slices and arrays made of it must be gone before the buffer is given back."""

    def __len__(self) -> int:
        return len(self._memory)

    def release(self) -> None:
        """Give it back, once. Raises BufferError while something else still looks at its bytes, and then it stays."""
        if self._pool is None:
            return
        self.view.release()
        if _is_looked_at(self._memory):
            self.view = memoryview(self._memory)
            raise BufferError(
                f"a view of this buffer of {len(self)} bytes is still in use; drop it before the buffer is given back"
            )
        pool, self._pool = self._pool, None
        pool.take_back(self._memory, self._guard)

    def __enter__(self) -> HostBuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class BufferPool:
    """Buffers of one governor; returned ones are kept, up to `keep_bytes` together, for whoever wants the same size."""

    eager = False
    busy = False

    def __init__(
        self,
        governor: MemoryGovernor,
        keep_bytes: int,
        *,
        name: str = "buffers",
        huge_pages: bool = False,
        numa_node: int | None = None,
    ) -> None:
        """`huge_pages`, `numa_node`: asked for each new buffer; each says whether it was done (admit_sdk/hostpages)."""
        self.name = name
        self.last_used_s = time.monotonic()
        self._governor = governor
        self._keep_bytes = keep_bytes
        self._huge_pages = huge_pages
        self._numa_node = numa_node
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[mmap.mmap, AllocationGuard]] = OrderedDict()  # the oldest first
        self._size_bytes = 0
        self._serial = 0
        governor.evictions.register(self)

    @property
    def size_bytes(self) -> int:
        """What is kept now, and charged: what evicting it gives back."""
        return self._size_bytes

    def get(self, size_bytes: int) -> HostBuffer:
        """A buffer of at least so many bytes, in whole pages; its content is whatever the last one left in it.

        Raises Exhausted, RequiresEviction or ValueError, as the governor does.
        """
        pages = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        kept = self._reuse(pages)
        if kept is None:
            kept = self._make(pages, size_bytes)
        buffer = HostBuffer(self, *kept)
        if self._huge_pages:
            buffer.huge_pages = want_huge_pages(kept[0])
        if self._numa_node is not None:
            buffer.numa_node = prefer_node(kept[0], self._numa_node)
        return buffer

    def take_back(self, memory: mmap.mmap, guard: AllocationGuard) -> None:
        """For buffers: keep this one, and let go of the oldest where there are too many bytes."""
        gone = []
        with self._lock:
            self.last_used_s = time.monotonic()
            self._serial += 1
            self._kept[self._serial] = (memory, guard)
            self._size_bytes += len(memory)
            while self._size_bytes > self._keep_bytes:
                gone.append(self._kept.popitem(last=False)[1])
                self._size_bytes -= len(gone[-1][0])
        _let_go(gone)

    def evict(self) -> bool:
        """Let go of all that is kept; whether there was anything."""
        with self._lock:
            gone = list(self._kept.values())
            self._kept.clear()
            self._size_bytes = 0
        _let_go(gone)
        return bool(gone)

    def close(self) -> None:
        """Let go of all that is kept; what is in use is let go of when it is returned."""
        self._keep_bytes = 0
        self._governor.evictions.unregister(self)
        self.evict()

    def _reuse(self, pages: int) -> tuple[mmap.mmap, AllocationGuard] | None:
        """The one that was returned last, whose pages are the likeliest to be in a cache."""
        with self._lock:
            self.last_used_s = time.monotonic()
            for serial in reversed(self._kept):
                if len(self._kept[serial][0]) == pages:
                    self._size_bytes -= pages
                    return self._kept.pop(serial)
        return None

    def _make(self, pages: int, size_bytes: int) -> tuple[mmap.mmap, AllocationGuard]:
        try:
            guard = self._governor.try_allocate(pages or size_bytes, holder=self.name)
        except ResourceNotAvailableError:
            if not self.evict():
                raise
            guard = self._governor.try_allocate(pages, holder=self.name)
        try:
            # Private: what is shared has a switch of its own for huge pages (shmem_enabled) and is in nobody's heap.
            # It outlives this thread: it belongs to the buffer, and then to the pool.
            return mmap.mmap(-1, pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), guard.hand_over()
        except BaseException:
            guard.release()
            raise


def _is_looked_at(memory: mmap.mmap) -> bool:
    """Whether any slice or array still points into it. Resizing asks that first (CPython, Modules/mmapmodule.c), and to
    the size that it has it changes nothing."""
    try:
        memory.resize(len(memory))
    except BufferError:
        return True
    except (OSError, SystemError, ValueError):
        return False  # no mremap here, as on macOS: it was asked all the same
    return False


def _let_go(gone: list[tuple[mmap.mmap, AllocationGuard]]) -> None:
    for memory, guard in gone:
        memory.close()
        guard.release()
