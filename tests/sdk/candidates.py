"""Candidates for eviction as tests need them: they hold a real guard, and unloading gives it back."""

from __future__ import annotations

from admit_sdk import AllocationGuard, EvictionQueue, MemoryGovernor


class Model:
    """A model that is loaded, as far as a governor sees it."""

    def __init__(
        self,
        governor: MemoryGovernor,
        name: str,
        size_bytes: int,
        last_used_s: float = 0.0,
        *,
        eager: bool = False,
        busy: bool = False,
    ) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.last_used_s = last_used_s
        self.eager = eager
        self.busy = busy
        self.evicted = 0
        self.fault: Exception | None = None
        self._queue: EvictionQueue = governor.evictions
        self.guard: AllocationGuard = governor.try_allocate(size_bytes, holder=name).hand_over()
        self._queue.register(self)

    def evict(self) -> bool:
        if self.fault is not None:
            raise self.fault
        if self.busy:
            return False
        self.evicted += 1
        self._queue.unregister(self)
        self.guard.release()
        return True


def unload_all(governor: MemoryGovernor) -> None:
    """Unload what tests left, so that no guard is forgotten."""
    for each in governor.evictions.candidates:
        assert isinstance(each, Model)
        each.busy, each.fault = False, None
        each.evict()
