"""A host that lives: it admits, loads, crashes, forgets, and is meddled with. The model keeps its own books, in MB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from admitd.core.admission import decide, settle
from admitd.core.ledger import Ledger, derive
from admitd.core.terms import Request, Reservation, Waiter
from admitd.core.verdict import Admitted, AlreadyLoaded, Reason, Refused, Unload
from tests.core.worlds import (
    MB,
    QUIET,
    Seen,
    capacity,
    footprint,
    holder,
    loaded,
    mentioned,
    reserved,
    service,
    view,
    waiting,
)

MAKES_ROOM = (Reason.NO_HEADROOM, Reason.EXCLUSIVE)
VETOES = (Reason.PRESSURE, Reason.NO_AVAILABLE_MEMORY)


BUDGETS = {"a": 10, "b": 20, "c": 30, "d": 45, "vm": 15, "e": 5}
POOL = 80
LIVING = capacity(
    service("a", 10, priority=2),
    service("b", 20, priority=1, exclusive_with=["c"], unload_cmd="unload"),
    service("c", 30, priority=3, unload_cmd="unload"),
    service("d", 45, exclusive_with=["e"], unload_cmd="unload"),
    service("vm", 15, pinned=True),
    service("e", 5, priority=2, evictable=False),
    pool_mb=POOL,
    live_veto=False,
)
FOES = [{"b", "c"}, {"d", "e"}]
ANYONE = st.sampled_from(sorted(BUDGETS))
SOMEONE = st.integers(1, 6)


@dataclass
class Promise:
    """A reservation as its holder knows it: the load has begun, and nothing is seen of it yet."""

    record: Reservation
    holder_pid: int


class LivingHost(RuleBasedStateMachine):
    """Whoever was admitted is in `admitted`, from the verdict until its promise or its process is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.promises: dict[str, Promise] = {}
        self.running: dict[str, int] = {}
        self.stopped: set[str] = set()
        self.mentions: set[str] = set()
        self.queue: dict[str, Waiter] = {}
        self.admitted: set[str] = set()
        self.clock = 0.0

    # What one look sees, and what the model itself says is charged.

    def look(self) -> Ledger:
        self.clock += 1
        seen: list[Seen] = [loaded(name, stopped=name in self.stopped) for name in self.running]
        seen += [footprint(name, held) for name, held in self.running.items()]
        seen += [mentioned(name) for name in self.mentions]
        seen += [promise.record for promise in self.promises.values()]
        return derive(LIVING, view(*seen, *self.queue.values()))

    def charged(self, name: str) -> int:
        visible = name in self.running or name in self.mentions
        if visible:
            return max(BUDGETS[name], self.running.get(name, 0))
        return BUDGETS[name] if name in self.promises or name == "vm" else 0

    def free(self) -> int:
        return POOL - sum(self.charged(name) for name in BUDGETS)

    def busy(self, name: str) -> bool:
        return name in self.running or name in self.mentions or name in self.promises

    # What clients do.

    @rule(name=ANYONE, pid=SOMEONE)
    def ask_alone(self, name: str, pid: int) -> None:
        self.answer([Request(LIVING.services[name], self.clock, holder(pid))])

    @rule(wishes=st.lists(st.tuples(ANYONE, SOMEONE, st.booleans()), min_size=2, max_size=5))
    def ask_at_once(self, wishes: list[tuple[str, int, bool]]) -> None:
        requests = [
            Request(LIVING.services[name], self.clock + i / 10, holder(pid), dry_run=dry)
            for i, (name, pid, dry) in enumerate(wishes)
        ]
        self.answer(requests)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        waiters = data.draw(st.lists(st.sampled_from(sorted(self.queue)), min_size=1, unique=True))
        turns = [self.queue[each] for each in waiters]
        self.answer([Request(LIVING.services[w.service], w.arrived_s, w.holder, waiter=w.id) for w in turns])

    def answer(self, requests: Sequence[Request]) -> None:
        derived = self.look()
        assert derived.free == {"ram": self.free() * MB}
        verdicts = settle(derived, QUIET, requests)
        room = self.free()
        in_order = sorted(zip(requests, verdicts, strict=True), key=lambda pair: pair[0].order)
        for request, verdict in in_order:
            name = request.service.name
            own = self.charged(name)
            if isinstance(verdict, Refused):
                if verdict.reason is Reason.NO_HEADROOM:
                    assert BUDGETS[name] > room + own, "refused for want of room that there was"
                continue
            if request.waiter is not None:
                self.queue.pop(request.waiter, None)
            if isinstance(verdict, AlreadyLoaded):
                assert name in self.running or name in self.mentions
            elif not self.busy(name):
                assert BUDGETS[name] <= room + own, "admitted beyond the pool"
                assert not any(self.busy(foe) for pair in FOES if name in pair for foe in pair - {name})
                if not request.dry_run:
                    assert request.holder is not None
                    record = reserved(name, BUDGETS[name], request.holder.pid, id=f"r{self.clock}-{name}")
                    self.promises[name] = Promise(record, request.holder.pid)
                    self.admitted.add(name)
                    room = self.free()

    @rule(name=ANYONE, pid=SOMEONE)
    def wait_in_the_queue(self, name: str, pid: int) -> None:
        turn = waiting(name, LIVING.services[name].priority, self.clock, f"w{pid}")
        self.queue[turn.id] = turn

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def leave_the_queue(self, data: st.DataObject) -> None:
        del self.queue[data.draw(st.sampled_from(sorted(self.queue)))]

    @rule(name=ANYONE)
    def unload_as_the_refusal_says(self, name: str) -> None:
        self.the_gate_forgets_what_has_ended()
        derived = self.look()
        request = Request(LIVING.services[name], holder=holder(9))
        refused = decide(derived, QUIET, request)
        if isinstance(refused, Refused) and isinstance(refused.remedy, Unload):
            for victim in refused.remedy.services:
                if victim not in self.running:
                    assert LIVING.services[victim].unload_cmd is not None, "a mention was to be signalled"
                self.gone(victim)
                self.mentions.discard(victim)
            after = decide(self.look(), QUIET, request)
            assert isinstance(after, Admitted), "the remedy was run, and it still does not fit"

    # What happens to loads.

    @precondition(lambda self: self.promises)
    @rule(data=st.data())
    def a_load_becomes_visible(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.promises)))
        self.running.setdefault(name, data.draw(st.integers(0, BUDGETS[name])))

    @precondition(lambda self: self.promises)
    @rule(data=st.data())
    def a_promise_ends(self, data: st.DataObject) -> None:
        """It is given back, its time runs out, or its holder dies: the load never comes to anything."""
        name = data.draw(st.sampled_from(sorted(self.promises)))
        pid = self.promises[name].holder_pid
        for other in [other for other, promise in self.promises.items() if promise.holder_pid == pid]:
            del self.promises[other]
            if other not in self.running:
                self.admitted.discard(other)

    @rule()
    def the_gate_forgets_what_has_ended(self) -> None:
        standing = {record.id for record in self.look().reservations}
        for name, promise in tuple(self.promises.items()):
            if promise.record.id not in standing:
                assert name in self.running, "a promise was ended while nothing of its service was seen"
                del self.promises[name]

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def a_service_crashes(self, data: st.DataObject) -> None:
        self.gone(data.draw(st.sampled_from(sorted(self.running))))

    def gone(self, name: str) -> None:
        self.running.pop(name, None)
        self.stopped.discard(name)
        if name not in self.promises:
            self.admitted.discard(name)

    # What others do, past the daemon: not often, or nothing would ever be admitted.

    @precondition(lambda self: self.running)
    @rule(data=st.data(), more=st.none() | st.integers(1, 40))
    def a_service_is_stopped_or_grows(self, data: st.DataObject, more: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        if more is None:
            self.stopped.add(name)
        else:
            self.running[name] += more

    @rule(data=st.data(), only_mentions=st.booleans())
    def someone_starts_or_mentions_it(self, data: st.DataObject, only_mentions: bool) -> None:
        name = data.draw(ANYONE | st.sampled_from(sorted(self.promises or BUDGETS)))
        if only_mentions:
            self.mentions ^= {name}
        else:
            self.running.setdefault(name, BUDGETS[name])

    @precondition(lambda self: self.running or self.mentions)
    @rule()
    def someone_clears_up(self) -> None:
        self.mentions.clear()
        for name in tuple(self.running):
            self.gone(name)

    # What never happens.

    @invariant()
    def no_more_was_admitted_than_the_pool_holds(self) -> None:
        assert sum(BUDGETS[name] for name in self.admitted | {"vm"}) <= POOL

    @invariant()
    def no_two_exclusive_services_were_admitted_together(self) -> None:
        assert not any(pair <= self.admitted for pair in FOES)

    @invariant()
    def over_committed_admits_no_one_who_needs_room(self) -> None:
        if self.free() < 0:
            derived = self.look()
            for each in LIVING.services.values():
                if not self.busy(each.name) and not each.pinned:
                    assert isinstance(decide(derived, QUIET, Request(each, holder=holder(9))), Refused)


LivingHostTest = LivingHost.TestCase
LivingHostTest.settings = settings(max_examples=400, stateful_step_count=40)
