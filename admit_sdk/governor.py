"""governor: the budget of one app: what is granted, to whom, and the one lock under which that changes.

Rules of this file, on which the proof rests (tests/sdk):
- Under the lock nothing waits, nothing is called back and nothing of the app runs; so `try_allocate` never blocks on
  anything slow.
- A grant is one entry of `_claims`; whoever takes it out gives the bytes back, so that it counts once.
- Finalizers never take the lock, since one may run while its own thread holds it: they leave the number in `_loose`,
  and whoever has the lock next takes it up before anything else.
- An exception may come between any two steps (a signal, another thread's): `_torn` tells the next one, who then counts
  anew.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from admit_sdk.errors import Exhausted, GuardReleased, RequiresEviction
from admit_sdk.eviction import EvictionQueue
from admit_sdk.guard import AllocationGuard
from admit_sdk.line import Line, Place
from admit_sdk.watch import Heard, Watch
from admitd.core.governing import Pressure
from admitd.core.units import parse_amount
from admitd.core.verdict import Reason

if TYPE_CHECKING:
    from admitd.memory import Memory

NOBODY: Final = 0
"""The owner of a guard that was handed over and not taken yet."""
_LOOK_AGAIN_S: Final = 1.0
"""How long who waits in the line sleeps at most, though he is rung whenever his turn may have come."""


class MemoryGovernor:
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
        self._lock = threading.Lock()
        self._claims: dict[int, tuple[int, int, str]] = {}  # serial: bytes, the thread that owns it, holder
        self._free = self.whole_bytes
        self._ceiling = self.whole_bytes
        self._serial = 0
        self._torn = False
        self._loose: deque[int] = deque()  # serials to give back; negative: all of a thread that died
        self._line = Line()
        self._threads = 0
        self._here = threading.local()
        self._alarm = 0
        """With less than so much free, the watch is rung: the pressure is another."""
        self.evictions = EvictionQueue(name, by_itself=watch)
        self._watch = Watch(self, memory, by_itself=watch)
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
            owner: int = self._here.thread.number
        except AttributeError:
            owner = self._enter()
        guard = AllocationGuard(self, holder)
        if eager and self.pressure >= Pressure.HIGH:
            raise self._refused_eagerly(size_bytes, holder)
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            left = self._free - size_bytes
            if left >= 0 and not (self._line and self._line.anyone_before(priority)):
                # The guard first: from the moment that the claim stands, somebody ends it.
                self._torn = True
                serial = guard._serial = self._serial = self._serial + 1
                self._claims[serial] = (size_bytes, owner, holder)
                self._free = left
                self._torn = False
            else:
                serial = 0
        if left < self._alarm and serial:
            self._watch.ring()
        if not serial:
            raise self._refused(size_bytes, holder, priority)
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
            raise self._refused(size_bytes, holder, priority)
        place = Place(priority)
        try:
            with self._lock:
                self._line.join(place)
            while not self._taken_in_turn(place, guard, size_bytes, owner, holder):
                if evict:
                    self._make_room(size_bytes, holder)
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise self._refused(size_bytes, holder, priority)
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
            self._torn = True
            serial = guard._serial = self._serial = self._serial + 1
            self._claims[serial] = (size_bytes, owner, holder)
            self._free = left
            self._torn = False
        if left < self._alarm:
            self._watch.ring()
        return True

    def _make_room(self, size_bytes: int, holder: str) -> None:
        """Queue what would have to go for so many bytes; nothing where it fits, or would fit once they have gone."""
        if self.evictions.pending:
            return
        short = size_bytes - self.free_bytes
        if short > 0:
            self.evictions.put(self.evictions.plan(short) or (), f"{holder or 'another'} waits for its room")

    # For guards. A serial that is not held any more is no fault of theirs, except where it says so.

    def give_back(self, serial: int) -> None:
        """End a grant; nothing happens where it has ended."""
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            self._torn = True
            claim = self._claims.pop(serial, None)
            if claim is not None:
                self._free += claim[0]
            self._torn = False
            if self._line:
                self._line.ring_first()

    def abandon(self, serial: int) -> None:
        """End a grant from a finalizer: takes no lock, and counts before anybody is refused for it."""
        self._loose.append(serial)
        if self._line:
            self._line.ring_first()

    def resize(self, serial: int, size_bytes: int, holder: str) -> None:
        """Make a grant larger or smaller. Raises Exhausted, RequiresEviction, GuardReleased or ValueError."""
        if type(size_bytes) is not int or size_bytes <= 0:
            raise _no_size(size_bytes)
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            claim = self._claims.get(serial)
            if claim is None:
                raise GuardReleased(f"the guard of {holder or 'nobody in particular'} was released; allocate anew")
            left = self._free + claim[0] - size_bytes
            # Who holds something already goes before those who wait: what they wait for is that he ends.
            fits = size_bytes <= claim[0] or left >= 0
            if fits:
                self._torn = True
                self._claims[serial] = (size_bytes, claim[1], claim[2])
                self._free = left
                self._torn = False
                if self._line:
                    self._line.ring_first()
        if not fits:
            raise self._refused(size_bytes - claim[0], holder, 0)
        if left < self._alarm:
            self._watch.ring()

    def belongs_to(self, serial: int, thread: int | None) -> None:
        """Have a grant end with that thread; None: with none. Raises GuardReleased."""
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            claim = self._claims.get(serial)
            if claim is None:
                raise GuardReleased("a guard that was released cannot be handed over; allocate anew")
            self._claims[serial] = (claim[0], NOBODY if thread is None else thread, claim[2])

    def reserved_by(self, serial: int) -> int:
        """Bytes of one grant; 0 where it has ended."""
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            claim = self._claims.get(serial)
        return claim[0] if claim is not None else 0

    def reserved_at_a_glance(self, serial: int) -> int:
        """The same for a finalizer, which takes no lock."""
        claim = self._claims.get(serial)
        return claim[0] if claim is not None else 0

    def holds(self, serial: int) -> bool:
        return self.reserved_by(serial) > 0

    # Reporting.

    @property
    def free_bytes(self) -> int:
        """What could be allocated now; negative where the limit was lowered below what stands."""
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            return self._free

    @property
    def allocated_bytes(self) -> int:
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            return self._ceiling - self._free

    def holdings(self) -> dict[str, int]:
        """Bytes by holder."""
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            claims = list(self._claims.values())
        out: dict[str, int] = {}
        for size, _, holder in claims:
            out[holder] = out.get(holder, 0) + size
        return out

    @property
    def pressure(self) -> Pressure:
        """The pressure now: by what is allocated at this moment, and by what the system last said."""
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

    # Within.

    def this_thread(self) -> int:
        """The number of the calling thread, which is told of its death."""
        try:
            number: int = self._here.thread.number
        except AttributeError:
            number = self._enter()
        return number

    def _enter(self) -> int:
        with self._lock:
            self._threads += 1
            number = self._threads
        self._here.thread = _Presence(self, number)
        self._watch.start()
        return number

    def thread_died(self, number: int) -> None:
        """Give back all that belonged to a thread that has ended."""
        self._loose.append(-number)
        with self._lock:
            self._settle()
            self._line.ring_first()

    def _settle(self) -> None:
        """Under the lock: take up what finalizers left, and count anew where somebody was interrupted."""
        while self._loose:
            number = self._loose[0]
            if number < 0:
                for serial in [serial for serial, claim in self._claims.items() if claim[1] == -number]:
                    self._take_out(serial)
            else:
                self._take_out(number)
            self._loose.popleft()
        if self._torn:
            self._free = self._ceiling - sum(claim[0] for claim in self._claims.values())
            self._torn = False

    def _take_out(self, serial: int) -> None:
        torn, self._torn = self._torn, True
        claim = self._claims.pop(serial, None)
        if claim is not None:
            self._free += claim[0]
        self._torn = torn

    def _refused(self, size_bytes: int, holder: str, priority: int) -> Exhausted | RequiresEviction:
        free = self.free_bytes
        what = holder or "this"
        if size_bytes > self.whole_bytes:
            suggestion = f"no unloading would make it fit: the whole limit of {self.name} is less; use a smaller model"
            return Exhausted(size_bytes, free, suggestion, reason=Reason.TOO_LARGE, what=what)
        if size_bytes > free:
            plan = self.evictions.plan(size_bytes - free)
            if plan:
                return RequiresEviction(size_bytes, free, plan, what=what)
            held = sorted(self.holdings().items(), key=lambda pair: -pair[1])[:3]
            names = " and ".join(name or "an unnamed holder" for name, _ in held)
            suggestion = f"wait until {names} gives some back (wait_allocate)" if names else "ask again"
            return Exhausted(size_bytes, free, suggestion, what=what)
        return Exhausted(
            size_bytes, free, "others wait ahead for it; join the line (wait_allocate)", reason=Reason.QUEUED, what=what
        )

    def _refused_eagerly(self, size_bytes: int, holder: str) -> Exhausted:
        pressure = self.pressure
        suggestion = f"the pressure is {pressure.word}, so nothing is loaded ahead of need; load it when it is needed"
        return Exhausted(size_bytes, self.free_bytes, suggestion, reason=Reason.PRESSURE, what=holder)

    def ring_below(self, free_bytes: int) -> None:
        """Ring the watch as soon as less than so much is free."""
        self._alarm = free_bytes

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._line = Line()
        self._watch.after_fork()
        self.evictions.after_fork()


class _Presence:
    """Stands in a thread's own storage, and so dies with the thread."""

    __slots__ = ("_governor", "number")

    def __init__(self, governor: MemoryGovernor, number: int) -> None:
        self._governor = weakref.ref(governor)
        self.number = number

    def __del__(self) -> None:
        governor = self._governor()
        if governor is not None:
            governor.thread_died(self.number)


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
