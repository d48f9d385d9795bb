"""sentinel: the thread that keeps looking. It looks, asks the core, acts through mending.py, and has it written down.

A full look comes every stopped_interval_s, and at once where the kernel tells of memory pressure; in between, the
processes of the safelist are glimpsed about once a second.
A round that fails is told and counted, and the next one comes. Rounds never overlap: there is one thread for them, and
what takes long (a probe, a recovery) has a thread of its own, is bounded in time, and is never started twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

from admitd import checks, hands, safelist, supervisors
from admitd.core import acts, halfway, probing, relief, respawn, runaway, stopped
from admitd.core.acts import Act, Close, Evict, Recover, Tell, Wake
from admitd.core.condition import Working
from admitd.core.probing import Watched
from admitd.core.reboot import Finding
from admitd.core.stopped import Safelisted
from admitd.core.terms import Level, Reservation, State
from admitd.errands import Errands, News, Progress
from admitd.faults import Faults
from admitd.gate import Gate, Scene
from admitd.insight import Insight
from admitd.journal import Record
from admitd.memory import Alarm
from admitd.mending import Mending, Outcome
from admitd.processes.table import CannotSee
from admitd.reservations import NotRecorded
from admitd.vitals import Vitals

QUICK_S: Final = 1.0
GLIMPSES_PER_S: Final = 25
"""A glimpse takes 20 to 40 microseconds; so many of them a second are 0.1 % of a core."""
STOP_WAIT_S: Final = 0.9


class Watch(Progress, Protocol):
    """Who knows which services work. `progress` and `own_probe` are used from the probes' threads too."""

    def look(self, scene: Scene, now: float) -> Mapping[str, Working]:
        """What each loaded service does."""


@dataclass(frozen=True, slots=True)
class Health:
    """For /healthz. `last_round_s_ago` is None before the first round has ended. `pressure`: how it is noticed."""

    rounds: int
    errors: int
    last_round_s_ago: float | None
    pressure: str = "looked at in each round"


@dataclass(slots=True)
class _Memory:
    stopped: stopped.Memory = field(default_factory=stopped.Memory)
    probing: probing.Memory = field(default_factory=probing.Memory)
    halfway: halfway.Memory = field(default_factory=halfway.Memory)
    runaway: runaway.Memory = field(default_factory=runaway.Memory)
    relief: relief.Memory = field(default_factory=relief.Memory)
    respawn: respawn.Memory = field(default_factory=respawn.Memory)
    idle: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Sight:
    """What one full round goes by."""

    now: float
    scene: Scene
    known: Mapping[str, Working]
    hands: Mapping[str, hands.Hand]
    loading: frozenset[str]
    handled: frozenset[str]
    busy: frozenset[str]


class Sentinel:
    """Made by the daemon, started once it serves. `tell` writes an event down; people are told from there."""

    def __init__(
        self,
        gate: Gate,
        watch: Watch,
        mending: Mending,
        tell: Record,
        vitals: Vitals | None = None,
        found: Finding | None = None,
        clock: Callable[[], float] = time.monotonic,
        alarm: Alarm | str = "no alarm was asked for",
    ) -> None:
        """`alarm`: what tells of memory pressure at once, or why there is none."""
        self._gate = gate
        self._watch = watch
        self._mending = mending
        self._tell = tell
        self._vitals = vitals
        self._found = found or Finding()
        self._held_back = self._found.held_back
        self._clock = clock
        self._memory = _Memory()
        self._alarm = alarm
        self._alarmed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="admit-sentinel", daemon=True)
        self._end = threading.Event()
        self._faults = Faults(tell, clock)
        self._errands = Errands(watch, self._faults.note)
        self._left_down: dict[str, float] = {}
        self._safelisted: tuple[Safelisted, ...] = ()
        self._level: Level | None = None
        self._checks = checks.Lately()
        self._next_full_s = 0.0
        self._looked_s = time.monotonic()
        self._rounds = 0
        self._last_round_s: float | None = None
        self.insight = Insight()

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()
        if not isinstance(self._alarm, str):
            threading.Thread(target=self._hear, args=(self._alarm,), name="admit-alarm", daemon=True).start()

    def stop(self) -> None:
        """End within a second. What was begun and takes longer is left behind: the next start finds it."""
        self._end.set()
        self._errands.stir()
        if not isinstance(self._alarm, str):
            self._alarm.end()
        if self._thread.is_alive():
            self._thread.join(STOP_WAIT_S)
        if self._vitals is not None and not self._errands.under_way:
            self._vitals.end()

    def health(self) -> Health:
        """How it goes, for /healthz."""
        last, alarm = self._last_round_s, self._alarm
        pressure = f"looked at in each round: {alarm}" if isinstance(alarm, str) else alarm.how
        return Health(
            self._rounds, self._faults.count, None if last is None else max(0.0, self._clock() - last), pressure
        )

    # The thread.

    def _run(self) -> None:
        self._faults.attempt(lambda: self._perform(self._found.acts))
        while not self._end.is_set():
            pause_s = self._faults.attempt(self._round)
            self._errands.wait(QUICK_S if pause_s is None else pause_s)

    def _hear(self, alarm: Alarm) -> None:
        """Memory is short: a full look is due now."""
        while alarm.wait():
            self._alarmed.set()
            self._errands.stir()
        self._alarm = "it is not told any more"

    def _round(self) -> float:
        """One round; returns the seconds until the next."""
        self._errands.take_in()
        now = self._clock()
        settings = self._gate.capacity().sentinel
        if now >= self._next_full_s or self._errands.urgent or self._alarmed.is_set():
            self._alarmed.clear()
            self._next_full_s = now + settings.stopped_interval_s
            self._full(now)
            self._faults.attempt(self._mending.keep_logs_short)
            self._rounds += 1
            self._last_round_s = self._clock()
        elif self._safelisted and self._quick(now):
            self._next_full_s = 0.0
            return 0.0
        until_full_s = max(0.0, self._next_full_s - self._clock())
        return (
            min(until_full_s, max(QUICK_S, len(self._safelisted) / GLIMPSES_PER_S))
            if self._safelisted
            else until_full_s
        )

    def _quick(self, now: float) -> bool:
        """Glimpse at the safelist; True where a full look should say what to do."""
        seen = safelist.glimpsed(self._safelisted)
        memory, asked = stopped.step(self._memory.stopped, now, seen, self._level)
        if not asked:
            self._memory.stopped = memory
        return bool(asked)

    def _full(self, now: float) -> None:
        looked_s = self._looked_s = time.monotonic()
        try:
            scene = self._gate.glance(self._checks.of(self._gate.capacity(), now))
        except CannotSee:
            self._without_a_look(now)
            raise
        self._level = scene.reading.level
        held = hands.seen(self._gate.records.where)
        loading = self._loading(scene) | self._errands.under_way
        handled = loading | {name for name, hand in held.items() if hand.is_or_was_on_since(looked_s)}
        handled |= {name for name, each in scene.ledger.accounts.items() if any(p.traced for p in each.processes)}
        loading |= {name for name, hand in held.items() if hand.admitted_since}
        known = self._faults.attempt(lambda: self._watch.look(scene, now)) or {}
        busy = frozenset(name for name, each in known.items() if each.busy)
        sight = _Sight(now, scene, known, held, loading, handled, busy)
        self._forget_what_was_unloaded(held)
        self._let_go_of_what_was_loaded(held)
        asked: list[Act] = []
        for step in (self._step_stopped, self._step_respawn, self._step_probing, self._step_memory):
            asked += (
                self._faults.attempt(partial(step, sight)) or ()
            )  # a rule that fails keeps no other from being followed
        if self._vitals is not None and not self._end.is_set():
            self._vitals.beat()
        self._perform(asked)
        memory = self._memory
        self.insight.take(sight.now, scene, sight.known, memory.probing, memory.halfway.told())

    def _without_a_look(self, now: float) -> None:
        """Those of the safelist that are known are woken all the same, and how the memory stands is told."""
        reading = self._gate.reading()
        self._level = reading.level
        seen = safelist.glimpsed(self._safelisted)
        self._memory.stopped, asked = stopped.step(self._memory.stopped, now, seen, self._level)
        if reading.level is not None:
            self._memory.relief, told = relief.believe(self._memory.relief, now, reading.level, reading)
            asked += told
        self._perform(asked)

    def _loading(self, scene: Scene) -> frozenset[str]:
        """Whom somebody loads now; where the reservations can't be read, that may be everyone."""
        try:
            standing = self._gate.standing().reservations
        except NotRecorded as problem:
            self._faults.note(problem)
            return frozenset(scene.capacity.services)
        return frozenset(held.service for held in standing if self._is_followed(held, scene))

    def _is_followed(self, held: Reservation, scene: Scene) -> bool:
        """Whether a load is still under way. What is there already is followed only by a living holder, and never by
        itself (`admit run`): the server keeps the lease as long as it lives, and nobody may wait for it any more."""
        account = scene.ledger.accounts.get(held.service)
        if account is None or not account.state.is_loaded or held.holder is None:
            return True
        if any(process.id == held.holder for process in account.processes):
            return False
        return self._gate.table.identify(held.holder.pid) == held.holder

    def _forget_what_was_unloaded(self, held: Mapping[str, hands.Hand]) -> None:
        """What somebody unloads on purpose while it waits for its next recovery is not recovered."""
        for name, at in list(self._left_down.items()):
            hand = held.get(name)
            if hand is not None and hand.unloaded_at is not None and hand.unloaded_at > at:
                del self._left_down[name]
                self._memory.probing = probing.dropped(self._memory.probing, name)

    def _let_go_of_what_was_loaded(self, held: Mapping[str, hands.Hand]) -> None:
        """Whom somebody loaded since the machine went down, or who answers, is recovered like any other."""
        courses, since_s = self._memory.probing.courses, self._found.held_since_s
        loaded = {name for name, hand in held.items() if hand.was_loaded_since(since_s)}
        still = self._held_back - loaded - {name for name, course in courses.items() if course.answered_once}
        if still != self._held_back and self._vitals is not None:
            self._vitals.hold_back(still, since_s)
        self._held_back = still

    # The rules, each with what it needs to know.

    def _step_stopped(self, sight: _Sight) -> Sequence[Act]:
        scene, level = sight.scene, sight.scene.reading.level
        self._safelisted = tuple(safelist.seen(scene.capacity, scene.safelisted, scene.ledger.accounts))
        self._memory.stopped, asked = stopped.step(self._memory.stopped, sight.now, self._safelisted, level)
        return asked

    def _step_respawn(self, sight: _Sight) -> list[Act]:
        unloaded = {name: hand.unloaded_at for name, hand in sight.hands.items() if hand.unloaded_at is not None}
        self._memory.respawn, back = respawn.step(
            self._memory.respawn, time.monotonic(), sight.scene.ledger, unloaded, sight.loading
        )
        return [respawn.event(each, supervisors.of(each.pid)) for each in back]

    def _step_probing(self, sight: _Sight) -> list[Act]:
        ledger, courses = sight.scene.ledger, self._memory.probing.courses
        half = []
        for name, account in ledger.accounts.items():
            course, hand = courses.get(name, probing.Course()), sight.hands.get(name, hands.Hand())
            has = account.service.probe is not None
            said = course.answered_once or hand.has_answered(p.age_s for p in account.processes) if has else None
            busy = course.busy or name in sight.busy
            standing = halfway.Standing(account, said, handled=name in sight.handled, busy=busy)
            if halfway.why_half(standing):
                half.append(replace(standing, progress=self._watch.progress(name)))
        self._memory.halfway, told = halfway.step(self._memory.halfway, sight.now, half)
        heard = self._errands.heard()
        before = self._memory.probing
        self._memory.probing, asked = probing.step(
            before, sight.now, self._watched(sight), heard, sight.scene.capacity.sentinel
        )
        self._gate.tally.probed((each, probing.meant(each, before, self._memory.probing)) for each in heard)
        return [*told, *asked]

    def _watched(self, sight: _Sight) -> Iterable[Watched]:
        late = self._memory.halfway.late()
        woken = {each.process.id for each in self._safelisted}
        for name, service in sight.scene.capacity.services.items():
            account = sight.scene.ledger.account(service)
            loaded = account.state.is_loaded and not account.mention_only
            if not loaded and name not in self._memory.probing.courses:
                continue
            yield Watched(
                service,
                account.processes,
                loaded,
                name in sight.handled,
                "the machine went down within a minute of its load" if name in self._held_back else "",
                "it is half loaded for longer than its load_timeout_s" if name in late else "",
                account.state is State.SUSPENDED and all(p.id in woken for p in account.processes),
            )

    def _step_memory(self, sight: _Sight) -> list[Act]:
        """What has to do with how much is held: runaways, pressure, idleness."""
        settings = sight.scene.capacity.sentinel
        accounts = list(sight.scene.ledger.accounts.values())
        self._memory.runaway, over = runaway.step(self._memory.runaway, sight.now, accounts, settings.save_grace_s)
        standing = []
        for account in accounts:
            known = sight.known.get(account.service.name)
            idle = known is not None and known.busy is False
            last = None if known is None else known.last_active_s
            standing.append(relief.Standing(account, idle, last, account.service.name in sight.handled))
        self._memory.relief, eased = relief.step(
            self._memory.relief, sight.now, sight.scene.reading, standing, settings
        )
        self._memory.idle, idling = relief.idle_too_long(self._memory.idle, sight.now, standing)
        return [*over, *eased, *idling]

    # What they ask for.

    def _perform(self, asked: Iterable[Act]) -> None:
        for act in asked:
            try:
                self._act(act)
            except Exception as problem:  # the others still have their turn, and this one another
                self._faults.note(problem)
                self._not_done(act)

    def _act(self, act: Act) -> None:
        match act:
            case Tell():
                self._tell(act.event)
            case Wake():
                if not self._mending.wake(act):
                    self._memory.stopped = stopped.refused(self._memory.stopped, act.process.id)
            case acts.Probe():
                service = self._gate.capacity().services.get(act.service)
                if service is not None and service.probe is not None:
                    self._errands.probe(act.service, service.probe)
            case Recover():
                if not self._errands.begin(act.service, partial(self._recover, act, self._looked_s)):
                    self._recovered(act.service, Outcome.DROPPED)
            case Close():
                self._errands.begin(act.service, partial(self._mending.close, act))
            case Evict():
                self._errands.begin(act.service, partial(self._mending.evict, act))

    def _not_done(self, act: Act) -> None:
        """Forget that it was asked for: what is believed to be under way would never be asked for again."""
        match act:
            case Wake():
                self._memory.stopped = stopped.not_woken(self._memory.stopped, act.process.id)
            case acts.Probe():
                self._memory.probing = probing.not_asked(self._memory.probing, act.service)
            case Recover():
                self._recovered(act.service, Outcome.NOT_BACK)

    def _recover(self, act: Recover, since_s: float) -> News:
        outcome = Outcome.NOT_BACK
        try:
            outcome = self._mending.recover(act, self._errands.ask_now, since_s)
        except Exception as problem:
            self._faults.note(problem)
        return partial(self._recovered, act.service, outcome)

    def _recovered(self, service: str, outcome: Outcome) -> None:
        if outcome in (Outcome.ANSWERS, Outcome.WORKS):
            self._memory.probing = probing.spared(self._memory.probing, service, answered=outcome is Outcome.ANSWERS)
            self._left_down.pop(service, None)
            self._checks = checks.Lately()  # what they said a while ago is not so any more
            return
        settings = self._gate.capacity().sentinel
        back = outcome is not Outcome.NOT_BACK
        memory = probing.recovered(self._memory.probing, self._clock(), service, back=back, settings=settings)
        self._memory.probing = probing.dropped(memory, service) if outcome is Outcome.DROPPED else memory
        self._left_down.pop(service, None)
        if not back:
            self._left_down[service] = time.monotonic()
