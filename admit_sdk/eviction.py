"""eviction: who could be unloaded to make room, and the queue that a maintenance thread works off.

Chosen, queued and unloaded are three steps: whoever chooses never unloads, and who has become busy since is spared.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from admit_sdk.rounds import Rounds
from admit_sdk.told import tell_fault, warn
from admitd.core import governing


class Candidate(Protocol):
    """Something that holds memory and could be unloaded: a worker with its model, say.

    The properties are read often and from any thread: they must be cheap and may not block.
    """

    @property
    def name(self) -> str: ...

    @property
    def size_bytes(self) -> int:
        """What unloading it gives back."""

    @property
    def last_used_s(self) -> float:
        """When it was last used, by time.monotonic()."""

    @property
    def eager(self) -> bool:
        """It was loaded ahead of need, because the app asked for that; it goes last, and with a warning."""

    @property
    def busy(self) -> bool:
        """It is in use at this moment: it is never chosen, and never unloaded."""

    def evict(self) -> bool:
        """Unload it, and give its guard back; whether it went. May take long: only the maintenance thread calls it.

        It looks once more whether it is busy, under its own lock, and then returns False.
        """


class EvictionQueue:
    """The candidates of one governor, and those among them that are to go."""

    def __init__(self, name: str = "app", *, by_itself: bool = True) -> None:
        """`by_itself`: a thread of its own works it off, from the first that is put in; else `work_off` does."""
        self._by_itself = by_itself
        self._lock = threading.Lock()
        self._candidates: dict[int, Candidate] = {}
        self._waiting: deque[tuple[Candidate, str]] = deque()
        self._queued: set[int] = set()
        self._arrived = threading.Condition(self._lock)
        self._maintenance = Rounds(f"admit-evict-{name}", self, _work_off)

    def register(self, candidate: Candidate) -> None:
        """From now on it may be chosen. Registering it again changes nothing."""
        with self._lock:
            self._candidates[id(candidate)] = candidate

    def unregister(self, candidate: Candidate) -> None:
        """It is gone, or may not be chosen any more; what is being unloaded at this moment is not called back."""
        with self._lock:
            self._candidates.pop(id(candidate), None)
            self._queued.discard(id(candidate))

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that are registered."""
        with self._lock:
            return tuple(self._candidates.values())

    @property
    def pending(self) -> int:
        """How many are to go and have not gone yet; the one that is being unloaded is among them."""
        with self._lock:
            return len(self._queued)

    def plan(self, needed_bytes: int) -> tuple[Candidate, ...] | None:
        """Who would have to go, in order, for so many bytes; None where no allowed set is enough. Nothing is changed.

        Least recently used first, the eager ones last, busy ones never (admitd/core/governing.py).
        """
        with self._lock:
            found = [each for key, each in self._candidates.items() if key not in self._queued]
        chosen = governing.choose(_seen(found), needed_bytes)
        return None if chosen is None else tuple(found[each.index] for each in chosen)

    def plan_what_there_is(self, needed_bytes: int) -> tuple[Candidate, ...]:
        """As `plan`; where no set is enough, all that may go: under pressure less than enough is better than none."""
        found = self.plan(needed_bytes)
        if found is not None:
            return found
        with self._lock:
            waiting = [each for key, each in self._candidates.items() if key not in self._queued]
        idle = sorted(_seen(waiting), key=lambda each: each.leaves_before)
        return tuple(waiting[each.index] for each in idle if not each.busy)

    def put(self, candidates: Iterable[Candidate], why: str) -> int:
        """Have these go; returns how many were not on their way already. `why` is for the log. Never blocks."""
        added = 0
        with self._arrived:
            for each in candidates:
                if id(each) in self._candidates and id(each) not in self._queued:
                    self._queued.add(id(each))
                    self._waiting.append((each, why))
                    added += 1
            if added:
                self._arrived.notify_all()
        if added and self._by_itself:
            self._maintenance.start()
            self._maintenance.ring()
        return added

    def work_off(self, timeout_s: float = 0.0) -> int:
        """Unload what is queued, waiting up to `timeout_s` for something to come; returns how many went.

        What the maintenance thread does; anyone else may, too: nothing is unloaded twice.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._arrived:
            while not self._waiting and (left_s := deadline_s - time.monotonic()) > 0:
                self._arrived.wait(left_s)
        gone = 0
        while True:
            with self._lock:
                if not self._waiting:
                    return gone
                candidate, why = self._waiting.popleft()
                still = id(candidate) in self._queued
            if still:
                gone += self._unload(candidate, why)

    def stop(self, wait_s: float = 1.0) -> bool:
        """End the maintenance thread; whether it has ended within `wait_s`."""
        return self._maintenance.stop(wait_s)

    def after_fork(self) -> None:
        """In a child that was forked: nobody else is in here."""
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._maintenance.after_fork()

    def _unload(self, candidate: Candidate, why: str) -> bool:
        gone = False
        try:
            if not candidate.busy:
                if candidate.eager:
                    warn(f"{candidate.name} was loaded eagerly and is unloaded all the same: {why}")
                gone = candidate.evict()
        except Exception:  # one that cannot be unloaded stays, is told, and may be chosen again
            tell_fault(f"{candidate.name} could not be unloaded")
        finally:
            with self._lock:
                self._queued.discard(id(candidate))
        return gone


_PAUSE_S: Final = None
"""The maintenance thread sleeps until it is rung."""


def _work_off(queue: EvictionQueue) -> float | None:
    queue.work_off()
    return _PAUSE_S


def _seen(candidates: Sequence[Candidate]) -> list[governing.Idle]:
    """What the rules go by, read off each; one that cannot be read is not chosen."""
    out = []
    for index, each in enumerate(candidates):
        try:
            out.append(
                governing.Idle(index, each.name, each.size_bytes, each.last_used_s, eager=each.eager, busy=each.busy)
            )
        except Exception:  # it belongs to the app, and its fault must not refuse others their memory
            tell_fault(f"candidate {index} could not be read, and is not chosen")
    return out
