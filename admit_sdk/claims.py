"""claims: what is granted, to whom, and the one lock under which that changes.

Rules of this file, on which the proof rests (tests/sdk):
- Under the lock nothing waits, nothing is called back and nothing of the app runs; so asking never blocks on anything
  slow.
- A grant is one entry of `_claims`; whoever takes it out gives the bytes back, so that it counts once.
- Giving back takes no lock, since a finalizer or a signal handler may do it while its own thread holds the lock: the
  number is left in `_loose`, and whoever has the lock next takes it up before anything else.
- An exception may come between any two steps (a signal, another thread's): `_torn` tells the next one, who then counts
  anew.
- Nothing rests on an interpreter's own lock: builds without one are as safe.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import Final

from admit_sdk.errors import GuardReleased
from admit_sdk.guard import AllocationGuard
from admit_sdk.line import Line

NOBODY: Final = 0
"""The owner of a guard that was handed over and not taken yet."""


class Claims:
    """The grants of one governor. Safe to use from any thread."""

    def __init__(self, whole_bytes: int) -> None:
        self._lock = threading.Lock()
        self._claims: dict[int, tuple[int, int, str]] = {}  # serial: bytes, the thread that owns it, holder
        self._ceiling = whole_bytes
        self._free = whole_bytes
        self._serial = 0
        self._torn = False
        self._loose: deque[int] = deque()  # serials given back; negative: all of a thread that died
        self._line = Line()
        self._threads = 0
        self._here = threading.local()

    # Under the lock.

    def _grant(self, guard: AllocationGuard, claim: tuple[int, int, str], left: int) -> None:
        """Write a claim down. The guard first: from the moment that the claim stands, somebody ends it."""
        self._torn = True
        serial = guard._serial = self._serial = self._serial + 1
        self._claims[serial] = claim
        self._free = left
        self._torn = False

    def _settle(self) -> None:
        """Take up what was given back, and count anew where somebody was interrupted."""
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

    # For guards. A serial that is not held any more is no fault of theirs, except where it says so.

    def give_back(self, serial: int) -> None:
        """End a grant, once. Takes no lock, and counts before anybody is refused for it."""
        self._loose.append(serial)
        if self._line:
            self._line.ring_first()

    def replace(self, serial: int, size_bytes: int, holder: str) -> int | None:
        """Make a grant larger or smaller; the bytes that it lacks, where it cannot grow so far, None where it is done.

        Who holds something already goes before those who wait: what they wait for is that he ends. Raises
        GuardReleased.
        """
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            claim = self._claims.get(serial)
            if claim is None:
                raise GuardReleased(f"the guard of {holder or 'nobody in particular'} was released; allocate anew")
            left = self._free + claim[0] - size_bytes
            if left < 0 and size_bytes > claim[0]:
                return size_bytes - claim[0]
            self._torn = True
            self._claims[serial] = (size_bytes, claim[1], claim[2])
            self._free = left
            self._torn = False
            if self._line:
                self._line.ring_first()
        return None

    def belongs_to(self, serial: int, thread: int) -> None:
        """Have a grant end with that thread at the latest; NOBODY: with none. Raises GuardReleased."""
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            claim = self._claims.get(serial)
            if claim is None:
                raise GuardReleased("a guard that was released cannot be handed over; allocate anew")
            self._claims[serial] = (claim[0], thread, claim[2])

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

    # What stands.

    @property
    def free_bytes(self) -> int:
        """What could be allocated now; negative where the ceiling was lowered below what stands."""
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            return self._free

    @property
    def allocated_bytes(self) -> int:
        """What is kept for all holders together."""
        with self._lock:
            if self._loose or self._torn:
                self._settle()
            return self._ceiling - self._free

    @property
    def waiting(self) -> int:
        """How many wait in the line."""
        with self._lock:
            return len(self._line)

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

    def set_ceiling(self, ceiling_bytes: int) -> None:
        """What may be allocated from now on, all together. What stands beyond it stays; what comes is refused."""
        with self._lock:
            self._ceiling = ceiling_bytes
            self._torn = True  # whoever is next counts anew
            self._line.ring_first()

    # Threads.

    def this_thread(self) -> int:
        """The number of the calling thread, whose death is noticed from now on."""
        try:
            number: int = self._here.number
        except AttributeError:
            number = self._enter()
        return number

    def _enter(self) -> int:
        with self._lock:
            self._threads += 1
            number = self._threads
        self._here.presence = _Presence(self, number)
        self._here.number = number
        return number

    def thread_died(self, number: int) -> None:
        """Give back all that belonged to a thread that has ended."""
        self._loose.append(-number)
        with self._lock:
            self._settle()
            self._line.ring_first()

    def after_fork(self) -> None:
        """In a child that was forked: nobody else is in here, and nobody waits."""
        self._lock = threading.Lock()
        self._line = Line()


class _Presence:
    """Stands in a thread's own storage, and so dies with the thread.

    A child that was forked has only one of them left, and lets go of the others' storage before anything else is run:
    nobody died then who could give something back, and whoever held the lock is not there to release it.
    """

    __slots__ = ("_claims", "_pid", "number")

    def __init__(self, claims: Claims, number: int) -> None:
        self._claims = weakref.ref(claims)
        self._pid = os.getpid()
        self.number = number

    def __del__(self) -> None:
        claims = self._claims()
        if claims is not None and os.getpid() == self._pid:
            claims.thread_died(self.number)
