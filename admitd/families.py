"""families: the processes that are each service, with their children: workers hold what the parent's name answers for.

A child that is a service of its own counts there, and so do its children. Finding them takes a read for each thread of
each process; so what was found stands as long as no process was started on the machine, and for a second where one was,
or where that can't be told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from admitd.core.terms import ProcessId
from admitd.processes import cputime, proc
from admitd.processes.cputime import CpuTimes
from admitd.processes.table import Look

FOUND_AGAIN_S: Final = 1.0

Families = Mapping[str, tuple[ProcessId, ...]]


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found, for whom, when, and which pid had been given out last by then."""

    asked: Families
    found: Families
    at_s: float
    last_pid: int | None


def alone(look: Look) -> Families:
    """The processes that really are each service; mentions left out."""
    processes: dict[str, tuple[ProcessId, ...]] = {}
    for sighting in look.sightings:
        if not sighting.mention:
            processes[sighting.service] = (*processes.get(sighting.service, ()), sighting.process.id)
    return processes


class Kin:
    """Finds the children. For one thread at a time."""

    def __init__(
        self,
        times: Callable[[], CpuTimes] = cputime.for_this_system,
        last_pid: Callable[[], int | None] = proc.last_pid,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._times = times
        self._last_pid = last_pid
        self._clock = clock
        self._known = _Known({}, {}, 0.0, None)

    def of(self, look: Look) -> Families:
        """Each service's processes and their children; without the children where those can't be told."""
        asked = alone(look)
        if not asked:
            return asked
        known, now, last_pid = self._known, self._clock(), self._last_pid()
        nobody_came = last_pid is not None and last_pid == known.last_pid
        if known.asked == asked and (nobody_came or now - known.at_s < FOUND_AGAIN_S):
            return known.found
        owners = {each.pid: name for name, ids in asked.items() for each in ids}
        found = {name: self._with_children(name, ids, owners) for name, ids in asked.items()}
        self._known = _Known(asked, found, now, last_pid)
        return found

    def others(self, process: ProcessId, those: Sequence[ProcessId]) -> tuple[ProcessId, ...]:
        """Those that are not of one tree with `process`: not above it, and not below it or one of those above it. Who
        won't tell his children has none."""
        below = {each: {each, *(self._times().of((each,)) or ())} for each in (process, *those)}
        tree = below[process].union(*(below[each] for each in those if process in below[each]))
        return tuple(each for each in those if each not in tree)

    def _with_children(self, name: str, ids: tuple[ProcessId, ...], owners: Mapping[int, str]) -> tuple[ProcessId, ...]:
        others = {pid for pid, owner in owners.items() if owner != name}
        told = self._times().of(ids, others)
        return ids if told is None else (*ids, *(each for each in told if each not in ids))
