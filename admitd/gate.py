"""gate: look, derive, decide, reserve. The one path to a verdict; whoever asks, by whatever door, comes through here.

Order matters. Reservations are read before the processes are looked at, so that a load that becomes visible in between
is seen one way or the other. Checks are commands and run before the lock is taken; if anything was admitted meanwhile,
or a reservation for a service with a check went, their answers may have been overtaken, and they run again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from admitd import checks, footprints, hands, safelist
from admitd.asks import Answer, Ask, Unknown, alike, as_written, may_wait, position, promised, request, waiter_of
from admitd.core import admission, chronicle, ledger
from admitd.core.ledger import Ledger
from admitd.core.terms import (
    RAM,
    Amounts,
    Capacity,
    Check,
    Command,
    Reading,
    Reservation,
    Sighting,
    View,
    Waiter,
)
from admitd.core.verdict import Admitted, Reason, Refused, Verdict
from admitd.families import Families, Kin
from admitd.journal import Record, forget
from admitd.memory import Memory
from admitd.processes.matching import Matcher
from admitd.processes.table import CannotSee, Launchers, Look, ProcessTable
from admitd.reservations import Busy, NotRecorded, Reservations, Standing
from admitd.tally import Tally

__all__ = ["Answer", "Ask", "Gate", "Scene", "Unknown", "overtaken"]

TRIES: Final = 10
_UNDECIDED: Final[Mapping[type[Exception], tuple[Reason, str]]] = {
    CannotSee: (Reason.UNSEEN, "the process table cannot be seen"),
    Busy: (Reason.BUSY, "no decision could be made"),
    NotRecorded: (Reason.NOT_RECORDED, "nothing can be promised"),
}
UNDECIDED: Final = tuple(_UNDECIDED)
"""What keeps a decision from being made. The next one may do."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What one look saw and what follows from it. `at` is wall-clock time, `took_s` what the look took. `safelisted`:
    the processes that patterns of the safelist match; their `service` is the claim that safelist.NAME names."""

    ledger: Ledger
    reading: Reading
    look: Look
    at: float
    took_s: float
    warnings: tuple[str, ...]
    safelisted: tuple[Sighting, ...] = ()

    @property
    def capacity(self) -> Capacity:
        return self.ledger.capacity


Sourced = tuple[Capacity, tuple[str, ...]]
Source = Callable[[], Sourced]
See = Callable[[Matcher, Launchers], Look]
RunChecks = Callable[[Mapping[str, Command]], Mapping[str, Check]]


class Gate:
    """Decides for one host. `source` gives the capacity in force and warnings about its file; `record` remembers what
    was done, here and by those who load and unload."""

    def __init__(
        self,
        source: Source,
        table: ProcessTable,
        memory: Memory,
        records: Reservations,
        run_checks: RunChecks | None = None,
        record: Record = forget,
    ) -> None:
        self._source = source
        self.table = table
        self._memory = memory
        self._kin = Kin()
        self.records = records
        self._run_checks = run_checks or checks.Together().run
        self.record = record
        self.tally = Tally()
        self._matcher: tuple[Capacity, Matcher] | None = None
        self._one_at_a_time = threading.RLock()

    def matcher(self, capacity: Capacity) -> Matcher:
        """The compiled patterns of `capacity`; made once for each file that comes into force."""
        if self._matcher is None or self._matcher[0] is not capacity:
            self._matcher = (capacity, Matcher([*capacity.services.values(), *safelist.services_of(capacity).values()]))
        return self._matcher[1]

    def capacity(self) -> Capacity:
        """The capacity in force."""
        return self._source()[0]

    def look(self, checked: Mapping[str, Check] | None = None) -> Scene:
        """Look and derive; nothing is changed. `checked`: what the checks said a while ago; without it they run.

        Raises CannotSee or NotRecorded.
        """
        with self._one_at_a_time:
            source = self._source()
            standing = self.records.standing(source[0])
        checked_now = checked is None
        checked = self._checks(source[0]) if checked is None else checked
        with self._one_at_a_time:
            return self._scene(source, checked, standing, peaks=footprints.peaks, checked_now=checked_now)

    def glance(self, checked: Mapping[str, Check]) -> Scene:
        """As `look`, by a glance at the processes, which is cheaper and may be late (see ProcessTable); and without the
        reservations where they can't be read: what keeps services alive does not depend on them."""
        with self._one_at_a_time:
            source = self._source()
            try:
                standing = self.records.standing(source[0])
            except NotRecorded as problem:
                standing = Standing(warnings=(str(problem),))
            return self._scene(source, checked, standing, self.table.glance, checked_now=False)

    def reading(self) -> Reading:
        """What the system says of its memory now."""
        return self._memory.reading()

    def decide(self, asks: Sequence[Ask]) -> tuple[list[Answer | Unknown], Scene | None]:
        """Verdicts for all of `asks` from one look, in their order; each admission is written down before it is told.

        The scene is the one they were decided on, None where nothing could be seen.
        """
        try:
            answers, scene = self._decide(asks)
        except UNDECIDED as problem:
            return self.all_refused(asks, problem), None
        # Without the machine-wide lock, which no disk may hold up; but before anyone is told.
        self._remember(answers, scene)
        return answers, scene

    def give_back(self, record_id: str) -> bool:
        """End a reservation, or a place in the queue; whether there was one."""
        with self._one_at_a_time:
            service = self.records.service_of(record_id)
            given = self.records.give_back(record_id)
        if given and service is not None:
            self.record(chronicle.given_back(service, record_id))
        return given

    def standing(self) -> Standing:
        """What is reserved now, and who waits. Raises NotRecorded."""
        with self._one_at_a_time:
            return self.records.standing(self.capacity())

    def hand_over(self, record_id: str) -> bool:
        """The load command of a reservation has ended well, and another program loads: it stands without its holder
        from now on. Whether it stood still. Raises NotRecorded."""
        with self._one_at_a_time, self.records.lock() as lock:
            return self.records.hand_over(lock, record_id)

    def _remember(self, answers: Sequence[Answer | Unknown], scene: Scene) -> None:
        """Have every reservation that was made just now remembered, with what it was decided on."""
        known = {held.id for held in scene.ledger.reservations}
        for answer in answers:
            verdict = answer.verdict if isinstance(answer, Answer) else None
            if isinstance(verdict, Admitted) and verdict.reservation and verdict.reservation.id not in known:
                self.record(chronicle.admitted(verdict, scene.ledger, scene.reading))

    def _decide(self, asks: Sequence[Ask]) -> tuple[list[Answer | Unknown], Scene]:
        for _ in range(TRIES):
            with self._one_at_a_time:
                capacity, warnings = self._source()
                before = self.records.standing(capacity)
            checked = self._checks(capacity)
            with self._one_at_a_time, self.records.lock() as lock:
                standing = self.records.standing(capacity)
                if checked and overtaken(before, standing, capacity):
                    continue
                scene = self._scene((capacity, warnings), checked, standing)
                answers = self._settle(asks, scene, standing, lock)
                keep = replace(standing, reservations=scene.ledger.reservations)
                self.records.prune(lock, keep, promised(answers))
                return answers, scene
        raise Busy(f"loads came and went through {TRIES} looks; ask again")

    def _settle(self, asks: Sequence[Ask], scene: Scene, standing: Standing, lock: int) -> list[Answer | Unknown]:
        services = scene.capacity.services
        # Looking for names that look alike costs more than a decision, so only a name that is unknown pays for it.
        out: list[Answer | Unknown] = [
            Unknown(a.service, () if a.service in services else alike(a.service, services)) for a in asks
        ]
        known = [index for index, ask in enumerate(asks) if ask.service in services]
        places = self._places([asks[index] for index in known], scene, standing.waiters)
        queue = {waiter.id: waiter for waiter in (*standing.waiters, *(p for p in places if p is not None))}
        requests = [request(asks[i], scene.capacity, place) for i, place in zip(known, places, strict=True)]
        ledger = replace(scene.ledger, waiters=tuple(queue.values()))
        verdicts = admission.settle(ledger, scene.reading, requests)
        verdicts = self._reserve([asks[index] for index in known], verdicts, scene, lock)
        for verdict, place in zip(verdicts, places, strict=True):
            if place is not None and not isinstance(verdict, Refused):
                queue.pop(place.id, None)
        for index, verdict, place in zip(known, verdicts, places, strict=True):
            out[index] = self._queue(asks[index], verdict, place, queue, standing)
        return out

    def _places(self, asks: Sequence[Ask], scene: Scene, waiters: Sequence[Waiter]) -> list[Waiter | None]:
        """The place of each in the queue: the one it has, or the one that it gets if it is refused. None: none.

        Known before anything is decided, so that nobody in the same look takes what one ahead of him will wait for.
        """
        places: list[Waiter | None] = []
        for ask in asks:
            place = waiter_of(ask, [*waiters, *(place for place in places if place is not None)])
            if place is None and ask.wait_s > 0 and not ask.dry_run:
                alone = admission.decide(scene.ledger, scene.reading, request(ask, scene.capacity, None))
                if not isinstance(alone, Refused) or alone.reason is not Reason.TOO_LARGE:
                    service = scene.capacity.services[ask.service]
                    place = self.records.place(service, ask.holder, ask.wait_s, ask.arrived_s)
            places.append(place)
        return places

    def _reserve(self, asks: Sequence[Ask], verdicts: Sequence[Verdict], scene: Scene, lock: int) -> list[Verdict]:
        """The verdicts, each admission among them written down; one that cannot be is a refusal."""
        made: dict[str, Reservation | Refused] = {}
        for ask, verdict in zip(asks, verdicts, strict=True):
            if isinstance(verdict, Admitted) and not ask.dry_run:
                service = scene.capacity.services[ask.service]
                try:
                    if verdict.reservation is None:
                        made[ask.service] = self.records.reserve(lock, service, ask.holder)
                        hands.admitted(self.records.where, service.name)
                    elif verdict.reservation.id:
                        self.records.renew(lock)
                except NotRecorded as problem:
                    made[ask.service] = Refused(
                        service.name, Reason.NOT_RECORDED, f"{problem}.", service.budget, scene.ledger.free_for(service)
                    )
        return [
            as_written(verdict, made.get(ask.service), ask.dry_run) for ask, verdict in zip(asks, verdicts, strict=True)
        ]

    def _queue(
        self, ask: Ask, verdict: Verdict, place: Waiter | None, queue: Mapping[str, Waiter], standing: Standing
    ) -> Answer:
        """The answer; who is refused and may wait is in the queue by then, and who need not wait is out of it."""
        if place is None or ask.dry_run:
            return Answer(verdict)
        is_new = place not in standing.waiters
        if not isinstance(verdict, Refused) or not may_wait(verdict):
            if not is_new:
                self.records.give_back(place.id)
            return Answer(verdict)
        if ask.wait_s <= 0:
            return Answer(verdict)
        try:
            if is_new:
                self.records.wait(place)
        except (CannotSee, NotRecorded):
            return Answer(verdict)  # refused all the same, and without a place until it asks again
        return Answer(replace(verdict, queue_position=position(place, queue.values())), place.id)

    def all_refused(self, asks: Sequence[Ask], problem: Exception) -> list[Answer | Unknown]:
        """The answers where nothing was decided, because of `problem`, one of UNDECIDED. Who waits keeps his place."""
        reason, said = next(told for kind, told in _UNDECIDED.items() if isinstance(problem, kind))
        services = self.capacity().services
        out: list[Answer | Unknown] = []
        for ask in asks:
            service = services.get(ask.service)
            if service is None:
                out.append(Unknown(ask.service, alike(ask.service, services)))
                continue
            nothing: Amounts = {RAM: 0}
            # A disk that is full or a folder that is not ours is mended by someone, not by time.
            later = None if reason is Reason.NOT_RECORDED else 5.0
            message = f"{said}: {problem}."
            refused = Refused(service.name, reason, message, service.budget, nothing, retry_after_s=later)
            out.append(Answer(refused, ask.waiter))
        return out

    def _checks(self, capacity: Capacity) -> Mapping[str, Check]:
        commands = capacity.check_commands
        return self._run_checks(commands) if commands else {}

    def _scene(
        self,
        source: Sourced,
        checked: Mapping[str, Check],
        standing: Standing,
        see: See | None = None,
        peaks: Callable[[Memory, Families], Mapping[str, Amounts]] = footprints.unasked,
        checked_now: bool = True,
    ) -> Scene:
        capacity, warnings = source
        began = time.perf_counter()
        look = (see or self.table.look)(self.matcher(capacity), standing.launchers)
        took_s = time.perf_counter() - began
        self.tally.looked(took_s)
        safelisted = tuple(seen for seen in look.sightings if seen.service not in capacity.services)
        if safelisted:
            look = replace(look, sightings=tuple(s for s in look.sightings if s.service in capacity.services))
        families = self._kin.of(look)
        reading = self._memory.reading()
        if capacity.live_veto and reading.problem is not None:
            warnings = (*warnings, f"live_veto has nothing to go by: {reading.problem}")
        view = View(
            look.sightings,
            checked,
            standing.reservations,
            standing.waiters,
            footprints.held(self._memory, capacity, families),
            peaks(self._memory, families),
            look.unread,
            (*warnings, *standing.warnings, *look.warnings),
            footprints.holdings(self._memory, capacity, standing.reservations),
        )
        derived = ledger.derive(capacity, view)
        for each in standing.reservations:
            account = derived.accounts.get(each.service)
            is_there = account is not None and (checked_now or account.processes)
            if each.handed_over and each not in derived.reservations and is_there:
                # What it was for is there: once that has gone again, nobody loads it any more. What a check said a
                # while ago may be of what was there before.
                self.records.give_back(each.id)
        return Scene(derived, reading, look, time.time(), took_s, derived.warnings, safelisted)


def overtaken(before: Standing, now: Standing, capacity: Capacity) -> bool:
    """Whether anything was admitted, or a reservation for a service with a check went, between the two moments."""

    def checked(standing: Standing) -> set[str]:
        return {r.id for r in standing.reservations if r.service in capacity.check_commands}

    return before.mark != now.mark or checked(before) != checked(now)
