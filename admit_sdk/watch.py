"""watch: the thread that looks at the pressure, more often the less is left, and acts: it tells, and frees a tenth."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from admit_sdk.rounds import Rounds
from admit_sdk.told import tell_fault
from admitd.core import governing
from admitd.core.governing import Pressure
from admitd.core.terms import RAM, Level, Reading

if TYPE_CHECKING:
    from admit_sdk.governor import MemoryGovernor
    from admitd.memory import Memory

Heard = Callable[[Pressure, str], None]
ACT_AGAIN_S: Final = 5.0
"""What was unloaded shows in the system's numbers a little later; nothing more goes before that."""


class Watch:
    """The pressure of one governor."""

    def __init__(self, governor: MemoryGovernor, memory: Memory | None, *, by_itself: bool) -> None:
        self._whole = governor.whole_bytes
        self._soft = governor.soft_bytes
        self._memory = memory
        self._physical = 0
        self._by_itself = by_itself
        self._level: Level | None = None
        self._has_looked = False
        self._told = Pressure.LOW
        self._acted_s = float("-inf")
        self._listeners: dict[object, Heard] = {}
        self._lock = threading.Lock()
        self._rounds = Rounds(f"admit-pressure-{governor.name}", governor, self.look)

    def start(self) -> None:
        """Start looking, where it looks by itself."""
        if self._by_itself:
            self._rounds.start()

    def ring(self) -> None:
        """Have it look now: much was taken at once."""
        self._rounds.ring()

    def stop(self, wait_s: float) -> bool:
        return self._rounds.stop(wait_s)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._rounds.after_fork()

    def on_change(self, callback: Heard) -> Callable[[], None]:
        key = object()
        with self._lock:
            self._listeners[key] = callback

        def end() -> None:
            with self._lock:
                self._listeners.pop(key, None)

        return end

    def pressure_of(self, allocated: int) -> Pressure:
        """The pressure with so much allocated, beside what the system last said; asked now where nobody has looked."""
        level = self._level if self._has_looked else self._system().level
        return governing.pressure_of(allocated, self._whole, self._soft, level)

    def look(self, governor: MemoryGovernor) -> float:
        """One look: read, tell, act. Returns seconds until the next."""
        reading = self._system()
        self._level, self._has_looked = reading.level, True
        allocated = governor.allocated_bytes
        before = self._told
        now = governing.settled(before, allocated, self._whole, self._soft, self._level)
        self._told = now
        governor.ring_below(governing.alarm(now, self._whole, self._soft))
        if now is not before:
            share = f"{allocated / self._whole:.0%} of {governor.name}'s limit is allocated"
            self._tell(now, "; ".join(filter(None, (share, reading.why))))
        if now is Pressure.CRITICAL:
            self._free_some(governor, allocated)
        left = 1 - allocated / self._whole
        if reading.available is not None and self._physical:
            left = min(left, reading.available.get(RAM, 0) / self._physical)
        return governing.interval_s(left)

    def _system(self) -> Reading:
        """What the system says now; imported and opened when first asked, which mostly is in the watching thread."""
        if self._memory is None:
            from admitd.memory import for_this_system

            self._memory = for_this_system()
        if not self._physical:
            with contextlib.suppress(OSError):  # it would not say: then the app's own headroom alone counts
                self._physical = self._memory.physical()
        return self._memory.reading()

    def _free_some(self, governor: MemoryGovernor, allocated: int) -> None:
        now_s = time.monotonic()
        queue = governor.evictions
        if queue.pending or now_s - self._acted_s < ACT_AGAIN_S:
            return
        self._acted_s = now_s
        queue.put(queue.plan_what_there_is(int(allocated * governing.FREED_SHARE)), "the pressure is critical")

    def _tell(self, now: Pressure, why: str) -> None:
        with self._lock:
            listeners = list(self._listeners.values())
        for each in listeners:
            try:
                each(now, why)
            except Exception:  # one listener's fault is not the others'
                tell_fault("a listener for pressure failed")
