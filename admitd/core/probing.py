"""probing: when a service is asked whether it answers, what its silence means, and when it is loaded anew.

What a probe that was not answered means, in order; the first that applies decides:
1. the service is another process than the one that was asked, or none: nothing;
2. somebody is loading or unloading it, a debugger holds it, or it is younger than its startup_grace_s: nothing;
3. it made progress meanwhile (processor time, what its own metrics count, on Linux an answer that it goes on sending):
   busy, told once, and it counts as a sign of life. That its metrics say that a request is under way does not: one that
   is stuck is under way for ever;
4. it counts. After probe_failures of them in a row it is hung.

What becomes of a hung service, in order:
1. it was given up: nothing, until it answers or is another process;
2. recover is false, it has no load_cmd, or it may not be reloaded after an unclean reboot: told once. Nor is one that
   has no process, only a check that says that it is loaded, where nobody listens at its probe's address or it never
   answered there: nothing shows whether it works for somebody, and that it is the probe that is wrong is as likely;
3. it was recovered recoveries_per_hour times within an hour: given up, and told with the count;
4. its cooldown is not over, or another recovery is under way: nothing yet;
5. recovered, where it still does not answer, nor works, when its turn has come: what was heard of it may be old by
   then. A recovery that did not bring it back is tried again, by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from admitd.core import acts
from admitd.core.acts import Act, Recover, Tell, ago
from admitd.core.events import Event, Number, Severity, brief
from admitd.core.terms import Process, ProcessId, Sentinel, Service

HOUR_S: Final = 3600.0
PROGRESS_LEAST: Final = 2
PROGRESS_PER_S: Final = 1.0
"""Ticks of 10 ms, so 1 % of a core, as in activity.py: a server that only waits wakes a few times a second, and takes
0.3 %; one that waits for its GPU, and feeds it, takes one or two."""
LATE_S: Final = 1.0
"""An answer that comes sooner, and is wrong, says what the server did since the last probe, not during this one."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A service with a probe, as one look saw it. `handled`: somebody is loading or unloading it, or has it in a
    debugger, which is told once.

    `held_back`: why it is not recovered, whatever happens. `half`: why it counts as half loaded for too long, which
    halfway.py decides. `woken`: it is stopped, and on the safelist, which is another rule's.
    """

    service: Service
    processes: tuple[Process, ...]
    loaded: bool
    handled: bool = False
    held_back: str = ""
    half: str = ""
    woken: bool = False

    @property
    def ids(self) -> frozenset[ProcessId]:
        return frozenset(process.id for process in self.processes)

    @property
    def traced(self) -> tuple[int, ...]:
        """Which of its processes a debugger holds."""
        return tuple(process.id.pid for process in self.processes if process.traced)

    @property
    def age_s(self) -> float | None:
        """How long its youngest process has been there."""
        ages = [process.age_s for process in self.processes if process.age_s is not None]
        return min(ages) if ages else None


@dataclass(frozen=True, slots=True)
class Heard:
    """What one probe came to. `progress_...`: a number that grows while it works, as it was when the probe was sent and
    when it ended; None where that is not known. `refused`: nobody listened where it was sent."""

    service: str
    answered: bool
    detail: str
    took_s: float
    progress_before: int | None = None
    progress_after: int | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Course:
    """What is remembered of one service."""

    ids: frozenset[ProcessId] = frozenset()
    asked_at_s: float | None = None
    asking: bool = False
    failures: int = 0
    refused: bool = False
    answered_once: bool = False
    silent_since_s: float | None = None
    last_progress: int | None = None
    last_end_s: float = 0.0
    recoveries: tuple[float, ...] = ()
    cool_until_s: float = 0.0
    down: bool = False
    told: str = ""
    told_traced: bool = False
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """`recovering`: whom a recovery is under way for; one at a time."""

    courses: Mapping[str, Course] = field(default_factory=dict)
    recovering: str | None = None


class Meant(StrEnum):
    """What one probe came to. `excused`: no answer, and none was expected: it starts, is handled, or gone."""

    ANSWERED = "answered"
    FAILED = "failed"
    BUSY = "busy"
    EXCUSED = "excused"


@dataclass(frozen=True, slots=True)
class _Facts:
    now: float
    settings: Sentinel
    free: bool


def step(
    memory: Memory, now: float, watched: Iterable[Watched], heard: Iterable[Heard], settings: Sentinel
) -> tuple[Memory, tuple[Act, ...]]:
    """What the probes that ended mean, who is asked next, and who is recovered."""
    results = {each.service: each for each in heard}
    courses: dict[str, Course] = {}
    asked: list[Act] = []
    recovering = memory.recovering
    for each in watched:
        course = _renewed(memory.courses.get(each.service.name, Course()), each)
        if each.traced and not course.told_traced:
            course = replace(course, told_traced=True)
            asked.append(_traced(each))
        result = results.get(each.service.name)
        if result is not None:
            course, told = _heard(course, now, each, result, settings)
            asked += told
        if recovering != each.service.name:
            course, acted = _treat(course, each, _Facts(now, settings, recovering is None))
            asked += acted
            if any(isinstance(act, Recover) for act in acted):
                recovering = each.service.name
        if _is_due(course, now, each, settings) and recovering != each.service.name:
            course = replace(course, asking=True, asked_at_s=now)
            asked.append(acts.Probe(each.service.name))
        courses[each.service.name] = course
    return Memory(courses, recovering), tuple(asked)


def meant(heard: Heard, before: Memory, after: Memory) -> Meant:
    """What the step from `before` to `after` made of a probe that ended."""
    was, course = (memory.courses.get(heard.service, Course()) for memory in (before, after))
    if heard.answered:
        return Meant.ANSWERED
    if course.failures > was.failures:
        return Meant.FAILED
    return Meant.BUSY if course.busy else Meant.EXCUSED


def recovered(memory: Memory, now: float, service: str, *, back: bool, settings: Sentinel) -> Memory:
    """A recovery has ended. The cooldown doubles with each one of the last hour, whether it helped or not."""
    course = memory.courses.get(service, Course())
    recent = _recent(course, now)
    cool_s = settings.probe_interval_s * 2 ** max(0, len(recent) - 1)
    course = replace(course, failures=0, cool_until_s=now + cool_s, down=not back, asking=False, silent_since_s=None)
    return Memory({**memory.courses, service: course}, None)


def spared(memory: Memory, service: str, *, answered: bool) -> Memory:
    """It was to be recovered, and need not be: it answers by now (`answered`), or works. That was no recovery."""
    course = memory.courses.get(service, Course())
    course = replace(course, failures=0, silent_since_s=None, down=False, asking=False, busy=not answered)
    course = replace(course, answered_once=course.answered_once or answered, recoveries=course.recoveries[:-1])
    return Memory({**memory.courses, service: course}, None)


def not_asked(memory: Memory, service: str) -> Memory:
    """Its probe could not be sent just now; it is due again when its interval is over."""
    course = memory.courses.get(service)
    return (
        memory
        if course is None
        else replace(memory, courses={**memory.courses, service: replace(course, asking=False)})
    )


def dropped(memory: Memory, service: str) -> Memory:
    """Someone unloaded it on purpose while it was to be recovered: it is not hung any more."""
    course = replace(memory.courses.get(service, Course()), failures=0, down=False, asking=False)
    return Memory({**memory.courses, service: course}, None if memory.recovering == service else memory.recovering)


def _renewed(course: Course, seen: Watched) -> Course:
    """The course, begun anew where other processes are the service now; the recoveries of the last hour stay."""
    if not seen.loaded:
        return replace(course, ids=frozenset(), failures=0, asking=course.asking, busy=False)
    if seen.ids == course.ids:
        return course
    if course.ids and seen.ids & course.ids:
        return replace(course, ids=seen.ids)  # a worker came or went
    return Course(seen.ids, asking=course.asking, recoveries=course.recoveries, cool_until_s=course.cool_until_s)


def _is_due(course: Course, now: float, seen: Watched, settings: Sentinel) -> bool:
    if not seen.loaded or seen.service.probe is None or course.asking or seen.handled or seen.woken:
        return False
    return course.asked_at_s is None or now - course.asked_at_s >= settings.probe_interval_s


def _heard(
    course: Course, now: float, seen: Watched, heard: Heard, settings: Sentinel
) -> tuple[Course, tuple[Act, ...]]:
    before = _began_with(course, heard)
    quick = heard.took_s < LATE_S and course.last_progress is not None
    window_s = max(heard.took_s, now - course.last_end_s) if quick else heard.took_s
    is_another = course.asked_at_s is None
    course = replace(course, asking=False, last_progress=heard.progress_after, last_end_s=now)
    if heard.answered:
        back = _answers_again(course, now, seen.service) if course.failures or course.told else ()
        fine = replace(course, failures=0, answered_once=True, silent_since_s=None, told="", busy=False, down=False)
        return fine, back
    if not seen.loaded or is_another or seen.handled or seen.woken or _is_young(seen):
        return course, ()
    if made_progress(before, heard.progress_after, window_s):
        alive = replace(course, failures=0, silent_since_s=None, busy=True)
        return alive, () if course.busy else (_busy(seen.service, heard),)
    failures = course.failures + 1
    since = course.silent_since_s if course.silent_since_s is not None else now - heard.took_s
    text = f"{seen.service.name} did not answer its probe ({failures} of {settings.probe_failures}): "
    text += brief(heard.detail)
    numbers: dict[str, Number] = {
        "failures": failures,
        "of": settings.probe_failures,
        "took_s": round(heard.took_s, 2),
        "progress_before": before,
        "progress_after": heard.progress_after,
    }
    told = Tell(Event("probe_failed", text, Severity.INFO, seen.service.name, None, numbers))
    return replace(course, failures=failures, refused=heard.refused, silent_since_s=since, busy=False), (told,)


def made_progress(before: int | None, after: int | None, within_s: float) -> bool:
    """Whether the counter grew by more than idling would have it grow in `within_s`. Unknown is no progress."""
    if before is None or after is None:
        return False
    return after - before > PROGRESS_LEAST + PROGRESS_PER_S * within_s


def _began_with(course: Course, heard: Heard) -> int | None:
    if heard.took_s >= LATE_S or course.last_progress is None:
        return heard.progress_before
    return course.last_progress


def _is_young(seen: Watched) -> bool:
    grace_s = seen.service.probe.startup_grace_s if seen.service.probe else 0.0
    return seen.age_s is not None and seen.age_s < grace_s


def _treat(course: Course, seen: Watched, facts: _Facts) -> tuple[Course, tuple[Act, ...]]:
    service, settings, now = seen.service, facts.settings, facts.now
    half = "" if course.busy else seen.half
    hung = seen.loaded and (course.failures >= settings.probe_failures or bool(half))
    if seen.loaded and course.down and not hung:
        course = replace(course, down=False)  # someone brought it back
    if not (hung or course.down) or course.told or seen.handled:
        return course, ()
    silent = f"it has not answered {course.failures} probes in a row"
    why = (half or silent) if hung else "it is still not loaded"
    instead = _left_alone(seen, course)
    recent = _recent(course, now)
    if instead:
        return replace(course, told="left alone"), (_leave(seen, course, why, instead),)
    if len(recent) >= settings.recoveries_per_hour:
        return replace(course, told="gave up"), (_give_up(service, why, recent, now),)
    if now < course.cool_until_s or not facts.free:
        return course, ()
    course = replace(course, recoveries=(*recent, now))
    return course, (Recover(service.name, why, len(recent) + 1),)


def _recent(course: Course, now: float) -> tuple[float, ...]:
    return tuple(at for at in course.recoveries if now - at < HOUR_S)


def _left_alone(seen: Watched, course: Course) -> str:
    service = seen.service
    if seen.held_back:
        return seen.held_back
    if not service.recover:
        return "its recover is false"
    if service.load_cmd is None:
        return "it has no load_cmd"
    if not seen.loaded or seen.processes:
        return ""
    # Told by its check alone: nothing shows whether it works for somebody meanwhile.
    if course.refused:
        return "only its check says that it is loaded, and nobody listens where its probe asks; switch that server on"
    if not course.answered_once:
        return (
            "only its check says that it is loaded, and it never answered; see whether its probe asks the right place"
        )
    return ""


def _leave(seen: Watched, course: Course, why: str, instead: str) -> Tell:
    service = seen.service
    text = f"{service.name} is hung: {why}. It is left alone, because {instead}."
    numbers: dict[str, Number] = {"failures": course.failures}
    command = f"admit {'unload' if seen.processes else 'explain'} {service.name}"
    return Tell(Event("gave_up", text, Severity.CRITICAL, service.name, command, numbers))


def _give_up(service: Service, why: str, recent: tuple[float, ...], now: float) -> Tell:
    times = "once" if len(recent) == 1 else f"{len(recent)} times"
    text = (
        f"{service.name} was recovered {times} in {ago(now - recent[0])}, and {why}: gave up. "
        "It is left as it is until it answers again or someone loads it."
    )
    numbers: dict[str, Number] = {"recoveries": len(recent), "within_s": round(now - recent[0], 1)}
    command = f"admit explain {service.name}"
    return Tell(Event("gave_up", text, Severity.CRITICAL, service.name, command, numbers))


def _answers_again(course: Course, now: float, service: Service) -> tuple[Act, ...]:
    for_s = None if course.silent_since_s is None else now - course.silent_since_s
    after = f" after {ago(for_s)}" if for_s is not None else ""
    numbers: dict[str, Number] = {"failures": course.failures, "silent_s": None if for_s is None else round(for_s, 1)}
    text = f"{service.name} answers its probe again{after}."
    return (Tell(Event("probe_answered", text, Severity.INFO, service.name, None, numbers)),)


def _traced(seen: Watched) -> Tell:
    name, pids = seen.service.name, ", ".join(map(str, seen.traced))
    text = f"{name} (process {pids}) is held by a debugger: it is not probed, and left alone until it runs again."
    return Tell(Event("stopped", text, Severity.INFO, name, None, {"pid": seen.traced[0]}))


def _busy(service: Service, heard: Heard) -> Tell:
    text = (
        f"{service.name} did not answer its probe in {ago(heard.took_s)}, and is working: busy is not down, "
        "it is left alone."
    )
    numbers: dict[str, Number] = {
        "took_s": round(heard.took_s, 2),
        "progress_before": heard.progress_before,
        "progress_after": heard.progress_after,
    }
    return Tell(Event("busy", text, Severity.INFO, service.name, None, numbers))
