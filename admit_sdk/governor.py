"""governor: the budget of one app: who may take how much of it, who has to wait, and what a refusal says."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from admit_sdk.claims import Claims
from admit_sdk.errors import Exhausted, RequiresEviction
from admit_sdk.eviction import EvictionQueue
from admit_sdk.guard import AllocationGuard
from admit_sdk.line import Place
from admit_sdk.watch import Heard, Watch
from admitd.core.governing import Pressure
from admitd.core.units import parse_amount
from admitd.core.verdict import Reason

if TYPE_CHECKING:
    from types import TracebackType

    from admitd.memory import Memory

Grow = Callable[[int], str]
"""Bytes that are wanted all together -> why they may not be had yet, and what would help."""
_LOOK_AGAIN_S: Final = 1.0
"""How long who waits in the line sleeps at most, though he is rung whenever his turn may have come."""


class MemoryGovernor(Claims):
    """Grants memory up to `limit` less `reserved`, to any number of threads."""

    def __init__(
        self,
        limit: int | str,
        reserved: int | str = 0,
        *,
        soft: int | str | None = None,
        name: str = "app",
        memory: Memory | None = None,
        watch: bool = True,
    ) -> None:
        """Amounts are bytes, or text such as "8GiB".

        `reserved`: what the app itself needs beside what is allocated here, its heap, its libraries. `soft`: from so
        many bytes on the pressure is HIGH. `memory`: the system's, which says how much is left (admitd/memory).
        `watch`: whether threads of its own look at the pressure, from the first allocation on, and work the eviction
        queue off; without them, `look` and `evictions.work_off` do.
        """
        self.name = name
        self.limit_bytes = _bytes(limit, "limit")
        self.reserved_bytes = _bytes(reserved, "reserved", least=0)
        self.whole_bytes = self.limit_bytes - self.reserved_bytes
        """What can be allocated at all."""
        if self.whole_bytes <= 0:
            raise ValueError(f"reserved ({reserved}) leaves nothing of the limit ({limit})")
        self.soft_bytes = self.whole_bytes if soft is None else min(self.whole_bytes, _bytes(soft, "soft"))
        super().__init__(self.whole_bytes)
        self._alarm = 0
        """With less than so much free, the watch is rung: the pressure is another."""
        self.evictions = EvictionQueue(name, by_itself=watch)
        self._watch = Watch(self, memory, by_itself=watch)
        self._grow: Grow | None = None
        _governors.add(self)

    # Asking.

    def try_allocate(
        self, size_bytes: int, *, holder: str = "", priority: int = 0, eager: bool = False
    ) -> AllocationGuard:
        """Keep so many bytes, at once or not at all.

        `eager`: nobody needs it yet, so that it is refused under HIGH pressure. Raises Exhausted, or RequiresEviction
        where unloading what is idle would make it fit; ValueError.
        """
        if type(size_bytes) is not int or size_bytes <= 0:
            raise _no_size(size_bytes)
        try:
            owner: int = self._here.number
        except AttributeError:
            owner = self._enter()
        guard = AllocationGuard(self, holder)
        if eager and (pressure := self.pressure) >= Pressure.HIGH:
            raise self._refused_eagerly(size_bytes, holder, pressure)
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            left = self._free - size_bytes
            if left >= 0 and not (self._line and self._line.anyone_before(priority)):
                self._grant(guard, (size_bytes, owner, holder), left)
                granted = True
            else:
                granted = False
        if granted and left < self._alarm:
            self._watch.ring()
        if not granted:
            raise self._refused(size_bytes, holder)
        return guard

    def wait_allocate(
        self, size_bytes: int, timeout_s: float, *, holder: str = "", priority: int = 0, evict: bool = False
    ) -> AllocationGuard:
        """Keep so many bytes, waiting in the line for them: by priority, the higher first, then by arrival.

        `evict`: what is idle and in the way goes into the eviction queue. Raises Exhausted or RequiresEviction when the
        time is up, and Exhausted at once where it can never fit.
        """
        if type(size_bytes) is not int or size_bytes <= 0:
            raise _no_size(size_bytes)
        deadline_s = time.monotonic() + timeout_s
        guard = AllocationGuard(self, holder)
        owner = self.this_thread()
        if size_bytes > self.whole_bytes:
            raise self._refused(size_bytes, holder)
        place = Place(priority)
        try:
            with self._lock:
                self._line.join(place)
            while not self._taken_in_turn(place, guard, size_bytes, owner, holder):
                self._ask_for_more(size_bytes)
                if evict:
                    self._make_room(size_bytes, holder)
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise self._refused(size_bytes, holder)
                place.wait(min(left_s, _LOOK_AGAIN_S))
        finally:
            with self._lock:
                self._line.leave(place)
                self._line.ring_first()
        return guard

    def _taken_in_turn(self, place: Place, guard: AllocationGuard, size_bytes: int, owner: int, holder: str) -> bool:
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            left = self._free - size_bytes
            if left < 0 or not self._line.is_first(place):
                return False
            self._grant(guard, (size_bytes, owner, holder), left)
        if left < self._alarm:
            self._watch.ring()
        return True

    def ask_before_growing(self, ceiling_bytes: int, grow: Grow | None) -> None:
        """Allocate no more than `ceiling_bytes`; where more is wanted, `grow` is told how much and says why not yet.

        It may not block: whoever asks others does so in a thread of its own, and then moves the ceiling.
        """
        self._grow = grow
        self.set_ceiling(min(ceiling_bytes, self.whole_bytes))

    def _ask_for_more(self, size_bytes: int) -> str | None:
        """Where the ceiling alone is in the way: have it moved, and the sentence that says what is waited for."""
        grow = self._grow
        if grow is None:
            return None
        wanted = self.allocated_bytes + size_bytes
        return grow(wanted) if self._ceiling < wanted <= self.whole_bytes else None

    def _make_room(self, size_bytes: int, holder: str) -> None:
        """Queue what would have to go for so many bytes; nothing where it fits, or would fit once they have gone."""
        if self.evictions.pending:
            return
        short = size_bytes - self.free_bytes
        if short > 0:
            self.evictions.put(self.evictions.plan(short) or (), f"{holder or 'another'} waits for its room")

    def resize(self, serial: int, size_bytes: int, holder: str) -> None:
        """For guards: make a grant larger or smaller. Raises Exhausted, RequiresEviction, GuardReleased, ValueError."""
        if type(size_bytes) is not int or size_bytes <= 0:
            raise _no_size(size_bytes)
        lacks = self.replace(serial, size_bytes, holder)
        if lacks is not None:
            raise self._refused(lacks, holder)
        if self._free < self._alarm:
            self._watch.ring()

    # Pressure.

    @property
    def pressure(self) -> Pressure:
        """The pressure now: by what is allocated at this moment, and by what the system said at the last look, or says
        now where nobody looked yet."""
        return self._watch.pressure_of(self.allocated_bytes)

    def on_pressure(self, callback: Heard) -> Callable[[], None]:
        """Call `callback(pressure, why)` from the watching thread whenever it changes. Returns what ends that."""
        return self._watch.on_change(callback)

    def look(self) -> float:
        """Look at the pressure now, tell whoever listens, and act on it; returns the seconds until the next look."""
        return self._watch.look(self)

    def close(self, wait_s: float = 1.0) -> bool:
        """End the threads of this governor; guards stay valid. Whether they have ended within `wait_s`."""
        watched = self._watch.stop(wait_s)
        return self.evictions.stop(wait_s) and watched

    def __enter__(self) -> MemoryGovernor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Within.

    def _enter(self) -> int:
        number = super()._enter()
        self._watch.start()
        return number

    def _refused(self, size_bytes: int, holder: str) -> Exhausted | RequiresEviction:
        free = self.free_bytes
        what = holder or "this"
        if size_bytes > self.whole_bytes:
            suggestion = f"no unloading would make it fit: the whole limit of {self.name} is less; use a smaller model"
            return Exhausted(size_bytes, free, suggestion, reason=Reason.TOO_LARGE, what=what)
        unasked = self._ask_for_more(size_bytes)  # also where the app's own idle models would do
        plan = self.evictions.plan(size_bytes - free) if size_bytes > free else None
        if plan:
            return RequiresEviction(size_bytes, free, plan, what=what)
        if unasked is not None:
            return Exhausted(size_bytes, free, unasked, what=what)
        if size_bytes > free:
            held = sorted(self.holdings().items(), key=lambda pair: -pair[1])[:3]
            names = " and ".join(name or "an unnamed holder" for name, _ in held)
            suggestion = f"wait until {names} gives some back (wait_allocate)" if names else "ask again"
            return Exhausted(size_bytes, free, suggestion, what=what)
        return Exhausted(
            size_bytes, free, "others wait ahead for it; join the line (wait_allocate)", reason=Reason.QUEUED, what=what
        )

    def _refused_eagerly(self, size_bytes: int, holder: str, pressure: Pressure) -> Exhausted:
        suggestion = f"the pressure is {pressure.word}, so nothing is loaded ahead of need; load it when it is needed"
        return Exhausted(size_bytes, self.free_bytes, suggestion, reason=Reason.PRESSURE, what=holder)

    def ring_below(self, free_bytes: int) -> None:
        """Ring the watch as soon as less than so much is free."""
        self._alarm = free_bytes

    def after_fork(self) -> None:
        super().after_fork()
        self._watch.after_fork()
        self.evictions.after_fork()


def _in_a_child() -> None:
    for each in list(_governors):
        each.after_fork()


_governors: weakref.WeakSet[MemoryGovernor] = weakref.WeakSet()
os.register_at_fork(after_in_child=_in_a_child)


def _bytes(amount: int | str, what: str, least: int = 1) -> int:
    found = parse_amount(amount) if isinstance(amount, str) else amount
    if type(found) is not int or found < least:
        raise ValueError(f"{what} is an amount of bytes, {least} or more, not {amount!r}; write for example '8GiB'")
    return found


def _no_size(size: object) -> Exception:
    return ValueError(f"a size is a whole number of bytes, 1 or more, not {size!r}")
