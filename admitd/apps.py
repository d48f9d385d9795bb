"""apps: what is kept for apps that govern their own memory: a reservation each, which ends with the app.

Nothing of capacity.yaml names them. An app asks for a budget, and asks again when it wants another one: the new
reservation stands before the old one goes, under one lock, so that its room is never anyone else's in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from admitd.core import admission
from admitd.core.terms import RAM, ProcessId, Request, Reservation, Service
from admitd.core.verdict import Refused
from admitd.gate import Answer, Ask, Gate
from admitd.record import LONGEST_S


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
            capacity, warnings = self._source()
            if name in capacity.services:
                return self._keep_declared(name, app, budget, held)
            checked = self._checks(capacity)
            with self.records.lock() as lock:
                standing = self.records.standing(capacity)
                mine = [each for each in standing.reservations if _is_for(each, name, app)]
                others = tuple(each for each in standing.reservations if each not in mine)
                if budget:
                    scene = self._scene((capacity, warnings), checked, replace(standing, reservations=others))
                    service = Service(name, {RAM: budget}, load_timeout_s=LONGEST_S)
                    verdict = admission.decide(scene.ledger, scene.reading, Request(service, holder=app))
                    if isinstance(verdict, Refused):
                        return verdict
                    self.records.reserve(lock, service, app)
                self._give_back(mine)
        return Kept(name, app, budget, held)

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
            standing = self.records.standing(self.capacity())
            self._give_back([each for each in standing.reservations if _is_for(each, name, app)])
            return Kept(name, app, 0, held)
        (answer,), _ = self.decide([Ask(name, app)])
        verdict = answer.verdict if isinstance(answer, Answer) else None
        if isinstance(verdict, Refused):
            return verdict
        return Kept(name, app, 0 if verdict is None else declared, held)  # None: the file was changed just now

    def _give_back(self, reservations: Sequence[Reservation]) -> None:
        for each in reservations:
            self.records.give_back(each.id)


def _is_for(reservation: Reservation, name: str, app: ProcessId) -> bool:
    return reservation.service == name and reservation.holder == app
