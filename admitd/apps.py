"""apps: what is kept for apps that govern their own memory: a reservation each, which ends with the app.

Nothing of capacity.yaml names them. An app asks for a budget, and asks again when it wants another one: the new
reservation stands before the old one goes, under one lock, so that its room is never anyone else's in between.

What was kept is kept anew without a decision; of more than that, only what the app has not in use yet is new to the
system.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from admitd.core import admission, chronicle, headroom
from admitd.core.events import Event
from admitd.core.terms import RAM, ProcessId, Request, Reservation, Service
from admitd.core.verdict import Admitted, Refused, Verdict, Wait
from admitd.gate import TRIES, Answer, Ask, Gate, overtaken
from admitd.record import LONGEST_S
from admitd.reservations import Busy


class Declared(Exception):
    """An app of this name is a service of capacity.yaml, with less than it asks for."""

    def __init__(self, name: str, budget: int) -> None:
        super().__init__(name)
        self.name = name
        self.budget = budget


@dataclass(frozen=True, slots=True)
class Kept:
    """One app: what is kept for it, what it said that it holds, and what it was seen to hold; bytes, None: unknown."""

    name: str
    process: ProcessId
    budget: int
    held: int | None = None
    measured: int | None = None


class AppGate(Gate):
    """The gate, for services and for apps."""

    _said: dict[tuple[ProcessId, str], int] | None = None

    def keep(self, name: str, app: ProcessId, budget: int, held: int) -> Kept | Refused:
        """Keep `budget` bytes for `app` in place of what was kept for it; 0 gives that back.

        Raises Declared, CannotSee, Busy, NotRecorded.
        """
        with self._one_at_a_time:
            said = self._said = self._said or {}
            said[app, name] = held
            if not budget:
                del said[app, name]
        if name in self.capacity().services:
            return self._keep_declared(name, app, budget, held)
        told, happened = self._keep(Service(name, {RAM: budget or 1}, load_timeout_s=LONGEST_S), app, budget, held)
        if happened is not None:  # without the machine-wide lock, which no disk may hold up
            self.record(happened)
        return told if isinstance(told, Refused) else Kept(name, app, budget, held)

    def _keep(self, service: Service, app: ProcessId, budget: int, held: int) -> tuple[Refused | None, Event | None]:
        """Under the machine-wide lock: the refusal, if it is one, and what is to be remembered, if anything is new."""
        for _ in range(TRIES):
            with self._one_at_a_time:
                capacity, warnings = self._source()
                before = self.records.standing(capacity)
            checked = self._checks(capacity)
            with self._one_at_a_time, self.records.lock() as lock:
                standing = self.records.standing(capacity)
                if checked and overtaken(before, standing, capacity):
                    continue
                mine = [each for each in standing.reservations if _is_for(each, service.name, app)]
                if not budget:
                    self._give_back(mine)
                    return None, chronicle.given_back(service.name, mine[0].id) if mine else None
                others = tuple(each for each in standing.reservations if each not in mine)
                scene = self._scene((capacity, warnings), checked, replace(standing, reservations=others))
                kept = headroom.total(each.budget for each in mine)
                verdict: Verdict = Admitted(service.name, service.budget, scene.ledger.free)
                if not headroom.fits(service.budget, kept):
                    in_use = self._in_use(app, max(held, kept.get(RAM, 0)))
                    request = Request(service, time.monotonic(), app, in_use={RAM: in_use})
                    ahead = [each for each in scene.ledger.waiters if each.order < request.order]
                    verdict = admission.decide(scene.ledger, scene.reading, request, ahead)
                if isinstance(verdict, Refused):
                    return _for_an_app(verdict), None
                made = self.records.reserve(lock, service, app)
                self._give_back(mine)
                if isinstance(verdict, Admitted) and [each.budget for each in mine] != [service.budget]:
                    verdict = replace(verdict, reservation=made)
                    return None, chronicle.admitted(verdict, scene.ledger, scene.reading)
                return None, None
        raise Busy(f"loads came and went through {TRIES} looks; ask again")

    def _in_use(self, app: ProcessId, most: int) -> int:
        """Bytes that it has, by its word or because they were kept for it (`most`), and that it was seen to hold."""
        seen = self._memory.footprint([app], most)
        return most if seen is None else min(seen, most)

    def apps(self) -> list[Kept]:
        """The apps that something is kept for now. Raises NotRecorded."""
        with self._one_at_a_time:
            capacity, _ = self._source()
            said = self._said or {}
            found = []
            for each in self.records.standing(capacity).reservations:
                if each.holder is not None and each.service not in capacity.services:
                    budget = each.budget.get(RAM, 0)
                    measured = self._memory.footprint([each.holder], budget)
                    held = said.get((each.holder, each.service))
                    found.append(Kept(each.service, each.holder, budget, held, measured))
            living = {(each.process, each.name) for each in found}
            self._said = {key: held for key, held in said.items() if key in living or key[1] in capacity.services}
        return found

    def _keep_declared(self, name: str, app: ProcessId, budget: int, held: int) -> Kept | Refused:
        """An app that capacity.yaml declares is a service like any other, with the budget that stands there."""
        declared = self.capacity().services[name].budget.get(RAM, 0)
        if budget > declared:
            raise Declared(name, declared)
        if budget == 0:
            self._give_back([each for each in self.standing().reservations if _is_for(each, name, app)])
            return Kept(name, app, 0, held)
        (answer,), _ = self.decide([Ask(name, app)])
        verdict = answer.verdict if isinstance(answer, Answer) else None
        if isinstance(verdict, Refused):
            return verdict
        return Kept(name, app, 0 if verdict is None else declared, held)  # None: the file was changed just now

    def _give_back(self, reservations: Sequence[Reservation]) -> None:
        for each in reservations:
            self.records.give_back(each.id)


def _for_an_app(refused: Refused) -> Refused:
    """Without the commands that wait in the queue: `admit load` loads services, and an app asks again by itself."""
    return replace(
        refused,
        remedy=None if isinstance(refused.remedy, Wait) else refused.remedy,
        blockers=tuple(replace(b, remedy=None if isinstance(b.remedy, Wait) else b.remedy) for b in refused.blockers),
    )


def _is_for(reservation: Reservation, name: str, app: ProcessId) -> bool:
    return reservation.service == name and reservation.holder == app
