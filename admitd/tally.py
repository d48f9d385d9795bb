"""tally: what this process has counted since it began: looks, decisions, verdicts, probes, events. For `GET /metrics`.

Counting costs a lock and an addition, whether anybody ever asks or not; nothing is imported for it. Events of this
process are heard as they happen; those of others (`admit load` writes what it did) are read from the journal, from the
first time that somebody asks.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from admitd.core.events import KINDS, Event
from admitd.core.probing import Heard, Meant
from admitd.core.verdict import Admitted, AlreadyLoaded, Reason, Refused, Verdict
from admitd.journal import Journal
from admitd.trail import Tail

LOOK_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""A look takes milliseconds; a decision may run checks, which have two seconds."""
PROBE_BOUNDS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
OTHER: Final = "other"
"""The kind of an event that a newer version wrote."""

Told = tuple[str, str]
"""A verdict in a word, and the reason of a refusal, empty for the others."""
VERDICTS: Final[tuple[Told, ...]] = (
    ("admitted", ""),
    ("already_loaded", ""),
    *(("refused", reason.value) for reason in Reason),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram: for each bound, how many took no longer; the last bound is infinite. `sum_s`: all together."""

    up_to: tuple[tuple[float, int], ...]
    sum_s: float


@dataclass(frozen=True, slots=True)
class Counted:
    """All that was counted, at one moment. Events that concern no service have an empty name for it."""

    looks: Spread
    decisions: Spread
    probe_times: Spread
    verdicts: dict[Told, int]
    probes: dict[tuple[str, Meant], int]
    events: dict[tuple[str, str], int]


class _Durations:
    """Seconds, sorted into buckets as they come."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self._bounds_s = bounds_s
        self._in_bucket = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._in_bucket[bisect.bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    def spread(self) -> Spread:
        so_far = 0
        up_to = []
        for bound, count in zip((*self._bounds_s, float("inf")), self._in_bucket, strict=True):
            so_far += count
            up_to.append((bound, so_far))
        return Spread(tuple(up_to), self._sum_s)


class Tally:
    """The counts of one process. Whatever thread it is told from, it is told at once and raises nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._looks = _Durations(LOOK_BOUNDS_S)
        self._decisions = _Durations(LOOK_BOUNDS_S)
        self._probe_times = _Durations(PROBE_BOUNDS_S)
        self._verdicts: Counter[Told] = Counter()
        self._probes: Counter[tuple[str, Meant]] = Counter()
        self._events: Counter[tuple[str, str]] = Counter()
        self._others: Tail | None = None

    def looked(self, took_s: float) -> None:
        """The process table was looked at."""
        with self._lock:
            self._looks.add(took_s)

    def decided(self, took_s: float, told: Iterable[Verdict]) -> None:
        """A decision was made, for one or for many at once, and these verdicts are the answers."""
        with self._lock:
            self._decisions.add(took_s)
            self._verdicts.update(_in_words(verdict) for verdict in told)

    def probed(self, heard: Iterable[tuple[Heard, Meant]]) -> None:
        """Probes ended."""
        with self._lock:
            for each, meant in heard:
                self._probes[each.service, meant] += 1
                self._probe_times.add(each.took_s)

    def happened(self, event: Event) -> None:
        """This process wrote an event down."""
        with self._lock:
            self._count(event)

    def counted(self, journal: Journal) -> Counted:
        """All counts; what other processes wrote down since the last time included, one batch of the journal a time."""
        others = self._by_others(journal)
        with self._lock:
            for event in others:
                self._count(event)
            return Counted(
                self._looks.spread(),
                self._decisions.spread(),
                self._probe_times.spread(),
                dict(self._verdicts),
                dict(self._probes),
                dict(self._events),
            )

    def _by_others(self, journal: Journal) -> list[Event]:
        """What others wrote since the last time. A disk that hangs holds up who asks for metrics, and nobody else."""
        with self._reading, contextlib.suppress(OSError):
            if self._others is None:
                self._others = journal.follow()
            return [entry.event for entry in self._others.more() if entry.pid != os.getpid()]
        return []

    def _count(self, event: Event) -> None:
        self._events[event.kind if event.kind in KINDS else OTHER, event.service or ""] += 1


def _in_words(verdict: Verdict) -> Told:
    match verdict:
        case Admitted():
            return "admitted", ""
        case AlreadyLoaded():
            return "already_loaded", ""
        case Refused():
            return "refused", verdict.reason.value
