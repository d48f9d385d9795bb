"""activity: whether a service is working, and when it last was, from what two looks saw of it. Pure.

What a look means, in order; the first that applies decides:
1. its own metrics say that a request is under way, or its own counts grew: busy;
2. it is seen for the first time, or all of its processes are others than before: unknown;
3. the processor time of one of its processes can't be read: unknown;
4. its processes took more than IDLE_SHARE of a core since the look before: busy;
5. its own metrics say that nothing is under way: idle;
6. its metrics, which it had before, did not come: unknown;
7. somebody is connected to it: unknown, and idle after KEPT_OPEN_S without work;
8. who is connected can't be seen: unknown, and idle after QUIET_S without work;
9. idle.
Unknown counts as busy. What our own probes made a service do is no activity. What came since the look before was
started for somebody: it counts as active when it is first seen, whatever those that were there before it did, or its
load took. Of what was there at the first look of all, nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from admitd.core.terms import ProcessId

IDLE_SHARE: Final = 0.01
"""Of one core. An idle mlx_lm.server wakes for itself and takes 0.2 % here, an idle llama-server 0.0 %; generating,
both take more than 50 % on a processor, and the thread that feeds a GPU takes some percent."""
TICKS_LEAST_S: Final = 0.03
"""Linux counts processor time in 10 ms: over a short time up to three of them say nothing."""
WINDOW_LEAST_S: Final = 1.0
"""Looks that follow each other sooner are too close together to compare."""
QUIET_S: Final = 60.0
"""A GPU may work through one batch of a long prompt for half a minute, while the processor waits for it."""
KEPT_OPEN_S: Final = 600.0
"""So long may a client that is connected wait for an answer while the processor does nothing. Servers close what
nobody uses sooner (uvicorn and llama-server after 5 s), so a longer one is a client that keeps its connection."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Whether a service works. `busy` None: unknown, which counts as busy. `last_active_s`: when it was last seen busy,
    or seen to have come, by the clock of `now`; None for never. `cpu_s`: processor time of its processes, all told."""

    busy: bool | None
    last_active_s: float | None
    cpu_s: float
    connections: int | None
    detail: str

    @property
    def idle(self) -> bool:
        """Known to be idle."""
        return self.busy is False


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look saw of one service's work. `ids`: its own processes. `cpu` is in seconds by process, children too,
    None where it can't be read.

    `working` and `work` are its own word and its own count of what it did; both None where it has none. `silent`: it
    has such metrics, and they did not come. `ours_s` and `ours`: processor time and count of our own probes since the
    look before.
    """

    at_s: float
    ids: frozenset[ProcessId]
    cpu: Mapping[ProcessId, float] | None
    connections: int | None = None
    working: bool | None = None
    work: int | None = None
    silent: bool = False
    ours_s: float = 0.0
    ours: int = 0

    @property
    def cpu_s(self) -> float:
        return sum((self.cpu or {}).values())


@dataclass(frozen=True, slots=True)
class Course:
    """What is remembered of one service: the glance that the next one is compared with, and since when it is quiet.

    `ids`: the processes that it had when any were seen last; None before the first look. `last_active_s` is theirs.
    """

    ids: frozenset[ProcessId] | None = None
    before: Glance | None = None
    last_active_s: float | None = None
    quiet_since_s: float | None = None
    said: Activity = field(default_factory=lambda: Activity(None, None, 0.0, None, "not looked at yet"))


def step(course: Course, seen: Glance) -> tuple[Course, Activity]:
    """What `seen` says, and what is remembered for the next look."""
    if course.ids is not None and course.ids.isdisjoint(seen.ids):
        course = Course(last_active_s=seen.at_s)
    course = replace(course, ids=seen.ids)
    before = course.before
    asked = _own_word(before, seen)
    if asked:
        return _busy(course, seen, asked)
    if before is None:
        return _unknown(course, seen, "looked at for the first time")
    window_s = seen.at_s - before.at_s
    if window_s < WINDOW_LEAST_S:
        kept = replace(before, ours_s=before.ours_s + seen.ours_s, ours=before.ours + seen.ours)
        said = replace(course.said, connections=seen.connections, cpu_s=seen.cpu_s)
        return replace(course, before=kept, said=said), said
    took_s = _took(before, seen)
    if took_s is None:
        return _unknown(replace(course, quiet_since_s=None), seen, "its processor time can't be read")
    if took_s > max(IDLE_SHARE * window_s, TICKS_LEAST_S):
        return _busy(course, seen, f"took {took_s:.2f} s of processor time in {window_s:.1f} s")
    since_s = before.at_s if course.quiet_since_s is None else course.quiet_since_s
    return _quiet(replace(course, quiet_since_s=since_s), seen, since_s)


def gone(course: Course) -> tuple[Course, Activity]:
    """It is not loaded, and does nothing. Who comes next is another, unless one look has only missed it."""
    said = Activity(False, None, 0.0, None, "not loaded")
    return Course(course.ids or frozenset(), last_active_s=course.last_active_s, said=said), said


def unseen(course: Course, detail: str) -> tuple[Course, Activity]:
    """It is loaded, and no process of it can be seen."""
    said = Activity(None, course.last_active_s, 0.0, None, detail)
    return Course(course.ids, last_active_s=course.last_active_s, said=said), said


def _own_word(before: Glance | None, seen: Glance) -> str:
    """What its own metrics say that it does; empty where they say nothing of the kind."""
    if seen.working:
        return "its own metrics say that a request is under way"
    if before is None or before.work is None or seen.work is None:
        return ""
    did = seen.work - before.work - seen.ours - before.ours
    return f"its own metrics count {did} more since the last look" if did > 0 else ""


def _quiet(course: Course, seen: Glance, since_s: float) -> tuple[Course, Activity]:
    quiet_s = seen.at_s - since_s
    if seen.working is False:
        return _idle(course, seen, "its own metrics say that nothing is under way")
    if seen.silent:
        return _unknown(course, seen, "its own metrics did not come")
    if seen.connections:
        clients = f"{seen.connections} connected"
        if quiet_s < KEPT_OPEN_S:
            return _unknown(course, seen, f"{clients}, and no work seen for {quiet_s:.0f} s")
        return _idle(course, seen, f"{clients}, and no work for {quiet_s:.0f} s")
    if seen.connections is None and quiet_s < QUIET_S:
        return _unknown(course, seen, f"no work seen for {quiet_s:.0f} s; who is connected can't be seen")
    return _idle(course, seen, f"no work for {quiet_s:.0f} s")


def _took(before: Glance, seen: Glance) -> float | None:
    """Seconds of processor time between two looks; of a process that is new, all it ever took."""
    if before.cpu is None or seen.cpu is None:
        return None
    took = sum(max(0.0, now_s - before.cpu.get(process, 0.0)) for process, now_s in seen.cpu.items())
    return max(0.0, took - seen.ours_s - before.ours_s)


def _busy(course: Course, seen: Glance, detail: str) -> tuple[Course, Activity]:
    said = Activity(True, seen.at_s, seen.cpu_s, seen.connections, detail)
    return Course(seen.ids, _plain(seen), seen.at_s, None, said), said


def _idle(course: Course, seen: Glance, detail: str) -> tuple[Course, Activity]:
    said = Activity(False, course.last_active_s, seen.cpu_s, seen.connections, detail)
    return replace(course, before=_plain(seen), said=said), said


def _unknown(course: Course, seen: Glance, detail: str) -> tuple[Course, Activity]:
    said = Activity(None, course.last_active_s, seen.cpu_s, seen.connections, detail)
    return replace(course, before=_plain(seen), said=said), said


def _plain(seen: Glance) -> Glance:
    """As the next look compares with it: our own probes up to now are accounted for."""
    return replace(seen, ours_s=0.0, ours=0)
