"""halfway: a service whose process is there, and which is not there yet; and when that has gone on for too long.

Half loaded means: its check says no, or it has a probe and has never answered it. For a while that is just loading.

1. Beyond load_timeout_s it is told, whatever it does; but not while it is handled by somebody, nor for STALL_S after
   that (for its load_timeout_s, where that is shorter). It counts as hung only where it neither grows nor works, and
   has not for as long: who computes answers late, and is not down; who spins at its start does as well, and is told.
   Of a service that was there before anyone watched, nobody can say that it never answered.
2. Before that, where its memory has not grown and it has made no progress for STALL_S, and it holds less than HALF of
   its budget, the stall is told: a load that stays at 99 % looks like this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from admitd.core import headroom
from admitd.core.acts import Act, Tell, ago, mb
from admitd.core.events import Event, Number, Severity
from admitd.core.ledger import Account
from admitd.core.probing import made_progress
from admitd.core.terms import NOTHING, Amounts, ProcessId, State

STALL_S: Final = 60.0
HALF: Final = 0.5
GROWN: Final = 0.01
"""Of the budget: less growth than this is the noise of a process that waits."""
WINDOW_LEAST_S: Final = 1.0
"""Looks that follow each other sooner are too close together to compare."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One service as a look saw it. `answered`: whether it ever answered its probe, or a load that waited for that;
    None where it has none. `busy`: it is known to work, whatever its `progress` says."""

    account: Account
    answered: bool | None
    progress: int | None = None
    handled: bool = False
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Course:
    """What is remembered of one service that is half loaded. `moved`: it was seen to grow, to work or to be
    handled, and last so at `moved_at_s`; `handled_at_s`: last handled then. `progress` is what it was at
    `looked_at_s`."""

    ids: frozenset[ProcessId]
    measured: Amounts
    progress: int | None
    looked_at_s: float
    moved_at_s: float
    first_age_s: float
    why: str
    moved: bool = False
    handled_at_s: float | None = None
    late: bool = False
    told_stall: bool = False
    told_late: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    courses: Mapping[str, Course] = field(default_factory=dict)

    def late(self) -> frozenset[str]:
        """Who has been half loaded for longer than its load_timeout_s, and stands still: it is recovered."""
        return frozenset(name for name, course in self.courses.items() if course.late)

    def told(self) -> Mapping[str, str]:
        """Who was told to be half loaded, late or stalled, and why it is."""
        return {name: each.why for name, each in self.courses.items() if each.told_late or each.told_stall}


def step(memory: Memory, now: float, seen: Iterable[Standing]) -> tuple[Memory, tuple[Act, ...]]:
    """What there is to tell. Who is late is in the memory, and probing.py recovers it."""
    courses: dict[str, Course] = {}
    acts: list[Act] = []
    for each in seen:
        name = each.account.service.name
        why = why_half(each)
        if not why:
            continue
        course, told = _judge(memory.courses.get(name), now, each, why)
        courses[name] = course
        acts += told
    return Memory(courses), tuple(acts)


def why_half(seen: Standing) -> str:
    """Why it counts as half loaded; empty where it does not."""
    account = seen.account
    if not account.processes or not account.state.is_loaded or account.state is State.SUSPENDED:
        return ""
    if account.check is not None and account.check.loaded is False:
        return "its check says that it is not loaded"
    return "it has never answered its probe" if seen.answered is False else ""


def _judge(course: Course | None, now: float, seen: Standing, why: str) -> tuple[Course, tuple[Act, ...]]:
    account = seen.account
    timeout_s = account.service.load_timeout_s
    measured = account.measured or NOTHING
    ids = frozenset(process.id for process in account.processes)
    ages = [process.age_s for process in account.processes if process.age_s is not None]
    age_s = min(ages) if ages else 0.0
    if course is None or not ids & course.ids:
        course = Course(ids, measured, seen.progress, now, now, age_s, why)
    course = _moved(replace(course, ids=ids, why=why), now, seen, measured)
    while_s = min(STALL_S, timeout_s)
    stands = not course.moved or now - course.moved_at_s >= while_s
    let_go = course.handled_at_s is None or now - course.handled_at_s >= while_s
    course = replace(course, late=course.told_late and stands)
    was_seen_loading = course.first_age_s < timeout_s or seen.answered is not False
    if seen.handled or course.told_late or not was_seen_loading:
        return course, ()
    if age_s >= timeout_s and let_go:
        text = f"{account.service.name} is half loaded: its process is there for {ago(age_s)}, and {why}."
        if not stands:
            text += " It works or grows meanwhile, and is left alone as long as it does."
        return replace(course, told_late=True, late=stands), (_tell(account, text, age_s),)
    if course.told_stall or now - course.moved_at_s < STALL_S or not _is_far_below(measured, account.service.budget):
        return course, ()
    text = (
        f"{account.service.name} stalls while it loads: it has stood at {mb(measured)} MB of its budget of "
        f"{mb(account.service.budget)} MB for {ago(now - course.moved_at_s)}, and {why}."
    )
    return replace(course, told_stall=True), (_tell(account, text, age_s),)


def _has_grown(course: Course, measured: Amounts, budget: Amounts) -> bool:
    grown = headroom.less(measured, course.measured)
    return any(amount > GROWN * budget.get(resource, 0) for resource, amount in grown.items())


def _moved(course: Course, now: float, seen: Standing, measured: Amounts) -> Course:
    """The course, with what it did since the look before taken in."""
    since_s = now - course.looked_at_s
    worked = (
        seen.busy
        or seen.handled
        or (since_s >= WINDOW_LEAST_S and made_progress(course.progress, seen.progress, since_s))
    )
    if worked or _has_grown(course, measured, seen.account.service.budget):
        handled_at_s = now if seen.handled else course.handled_at_s
        course = replace(
            course, measured=measured, moved_at_s=now, moved=True, handled_at_s=handled_at_s, told_stall=False
        )
    return replace(course, progress=seen.progress, looked_at_s=now) if since_s >= WINDOW_LEAST_S else course


def _is_far_below(measured: Amounts, budget: Amounts) -> bool:
    return headroom.fits(measured, {resource: int(amount * HALF) for resource, amount in budget.items()})


def _tell(account: Account, text: str, age_s: float) -> Tell:
    service = account.service
    numbers: dict[str, Number] = {
        "measured_mb": mb(account.measured),
        "budget_mb": mb(service.budget),
        "age_s": round(age_s, 1),
        "load_timeout_s": service.load_timeout_s,
    }
    command = f"admit explain {service.name}"
    return Tell(Event("half_loaded", text, Severity.WARNING, service.name, command, numbers))
