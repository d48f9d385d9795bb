"""apps: what is kept for apps that govern their own memory: a reservation each, which ends with the app.

Mostly nothing of capacity.yaml names them. An app asks for a budget, and asks again when it wants another one: the new
reservation stands before the old one goes, under one lock, so that its room is never anyone else's in between.

What was kept is kept anew without a decision; of more than that, only what the app has not in use yet is new to the
system.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from admitd import hands
from admitd.core import admission, chronicle, headroom
from admitd.core.events import Event
from admitd.core.ledger import Account
from admitd.core.terms import RAM, ProcessId, Request, Reservation, Service, State
from admitd.core.verdict import Admitted, Refused, Verdict, Wait
from admitd.gate import TRIES, UNDECIDED, Answer, Ask, Gate, Scene, overtaken
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
    _has: dict[str, ProcessId] | None = None
    """Who was granted the budget of each declared app last."""

    def keep(self, name: str, app: ProcessId, budget: int, held: int) -> Kept | Refused:
        """Keep `budget` bytes for `app` in place of what was kept for it; 0 gives that back.

        Raises Declared, CannotSee, Busy, NotRecorded.
        """
        declared = self.capacity().services.get(name)
        if declared is not None:
            return self._keep_declared(declared, app, budget, held)
        with self._one_at_a_time:
            said = self._said = self._said or {}
            said[app, name] = held
            if not budget:
                del said[app, name]
        told, happened = self._keep(Service(name, {RAM: budget or 1}, load_timeout_s=LONGEST_S), app, budget, held)
        if happened is not None:  # without the machine-wide lock, which no disk may hold up
            self.record(happened)
        return told if isinstance(told, Refused) else Kept(name, app, budget, held)

    def _keep_declared(self, service: Service, app: ProcessId, budget: int, held: int) -> Kept | Refused:
        """An app that capacity.yaml declares has the budget that stands there, whatever less it asks for, and has it
        once: of two processes the second is refused. Where it is not seen as its service, what is kept for it ends as
        for any app; where it is, it is charged as any service."""
        declared = service.budget.get(RAM, 0)
        if budget > declared:
            raise Declared(service.name, declared)
        try:
            told, happened = self._keep(replace(service, load_timeout_s=LONGEST_S), app, budget, held)
        except UNDECIDED as problem:
            (answer,) = self.all_refused([Ask(service.name, app)], problem)
            if isinstance(answer, Answer) and isinstance(answer.verdict, Refused):
                return answer.verdict
            raise  # the file was changed just now, and does not declare it any more
        if happened is not None:
            self.record(happened)
        return told if isinstance(told, Refused) else Kept(service.name, app, declared if budget else 0, held)

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
                    self._let_go(service.name, app)
                    self._give_back(mine)
                    return None, chronicle.given_back(service.name, mine[0].id) if mine else None
                others = tuple(each for each in standing.reservations if each not in mine)
                scene = self._scene((capacity, warnings), checked, replace(standing, reservations=others))
                return self._kept(service, app, held, mine, scene, lock)
        raise Busy(f"loads came and went through {TRIES} looks; ask again")

    def _kept(
        self, service: Service, app: ProcessId, held: int, mine: Sequence[Reservation], scene: Scene, lock: int
    ) -> tuple[Refused | None, Event | None]:
        """As `_keep`, on what was seen without `mine`, which is kept for it so far."""
        account = scene.ledger.account(service)
        is_declared = service.name in scene.capacity.services
        first = self._first(account, app) if is_declared else None
        if first is not None:
            return admission.second_copy(scene.ledger, service, first), None
        if account.state.is_loaded and not account.mention_only:
            self._give_back(mine)  # it is charged as the service that it is seen to be
            self._has = {**(self._has or {}), service.name: app}
            return None, None
        verdict = self._decided(service, app, held, mine, scene)
        if isinstance(verdict, Refused):
            return _for_an_app(verdict), None
        made = self.records.reserve(lock, service, app)
        self._give_back(mine)
        if is_declared:
            self._has = {**(self._has or {}), service.name: app}
            if not mine:
                hands.admitted(self.records.where, service.name)
        if isinstance(verdict, Admitted) and [each.budget for each in mine] != [service.budget]:
            verdict = replace(verdict, reservation=made)
            return None, chronicle.admitted(verdict, scene.ledger, scene.reading)
        return None, None

    def _decided(
        self, service: Service, app: ProcessId, held: int, mine: Sequence[Reservation], scene: Scene
    ) -> Verdict:
        ledger = scene.ledger
        kept = headroom.total(each.budget for each in mine)
        if headroom.fits(service.budget, kept):
            return Admitted(service.name, service.budget, ledger.free)
        account = ledger.account(service)
        if account.mention_only:  # somebody's editor, say: what only mentions it is charged, and is not the app
            ledger = replace(ledger, accounts={**ledger.accounts, service.name: replace(account, state=State.STOPPED)})
        in_use = self._in_use(app, max(held, kept.get(RAM, 0)))
        request = Request(service, time.monotonic(), app, in_use={RAM: in_use})
        ahead = [each for each in ledger.waiters if each.order < request.order]
        return admission.decide(ledger, scene.reading, request, ahead)

    def _first(self, account: Account, app: ProcessId) -> ProcessId | None:
        """The other process that has the budget of a declared app: it was granted it and lives, or is seen as the
        service and has nothing to do with `app`. Of two that are seen it is the older one, also after a restart."""
        has = (self._has or {}).get(account.service.name)
        if has == app:
            return None
        if has is not None and self.table.identify(has.pid) == has:
            return has
        seen = [process.id for process in account.processes]
        others = self._kin.others(app, seen)
        first = min(others, key=_age, default=None)
        own = [_age(each) for each in seen if each not in others]
        return None if first is None or (own and min(own) < _age(first)) else first

    def _let_go(self, name: str, app: ProcessId) -> None:
        self._has = {key: each for key, each in (self._has or {}).items() if (key, each) != (name, app)}

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
            self._said = {key: held for key, held in said.items() if key in living}
        return found

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


def _age(process: ProcessId) -> tuple[int, int]:
    return (process.started, process.pid)


def _is_for(reservation: Reservation, name: str, app: ProcessId) -> bool:
    return reservation.service == name and reservation.holder == app
