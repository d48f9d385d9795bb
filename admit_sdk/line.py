"""line: those who wait for memory, by priority, then by arrival. Its owner's lock is held wherever it changes.

Places are held weakly: one whose waiting was broken off, by whatever, leaves the line by itself and blocks nobody.
"""

from __future__ import annotations

import threading
import weakref
from bisect import insort


class Place:
    """One who waits, and the bell that wakes him; a bare lock, since it may be rung from a finalizer."""

    __slots__ = ("__weakref__", "_bell", "priority")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self._bell = threading.Lock()
        self._bell.acquire()

    def wait(self, timeout_s: float) -> None:
        """Until it is rung, or so many seconds."""
        self._bell.acquire(timeout=timeout_s)

    def ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            return  # rung already


class Line:
    """The places, the first one first. True where anyone may be waiting."""

    __slots__ = ("_arrivals", "_places")

    def __init__(self) -> None:
        self._places: list[tuple[int, int, weakref.ref[Place]]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(1 for each in tuple(self._places) if each[2]() is not None)

    def __bool__(self) -> bool:
        return bool(self._places)

    def join(self, place: Place) -> None:
        self._arrivals += 1
        insort(self._places, (-place.priority, self._arrivals, weakref.ref(place)))

    def leave(self, place: Place) -> None:
        """Take a place out; and those of whom nothing is left."""
        self._places[:] = [each for each in self._places if each[2]() not in (None, place)]

    def is_first(self, place: Place) -> bool:
        return self._first() is place

    def anyone_before(self, priority: int) -> bool:
        """Whether anyone waits whose turn comes before that of a newcomer of this priority."""
        first = self._first()
        return first is not None and first.priority >= priority

    def ring_first(self) -> None:
        """Wake the one whose turn it is. Changes nothing, so it needs no lock."""
        for _, _, reference in tuple(self._places):
            place = reference()
            if place is not None:
                place.ring()
                return

    def _first(self) -> Place | None:
        while self._places:
            place = self._places[0][2]()
            if place is not None:
                return place
            del self._places[0]
        return None
