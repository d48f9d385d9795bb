"""activity: looks at what services do, without being in their traffic; core/activity.py says what it means.

Three sources: processor time of their processes and children, connections to their ports, and their own metrics where
they have a probe on this machine that says where to ask. `progress` goes by the answers that they send, too. Nothing
here raises, and a look is bounded in time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from admitd import ownmetrics
from admitd.core import activity
from admitd.core.activity import Activity, Course, Glance
from admitd.core.ledger import Account
from admitd.core.terms import ProcessId, Service
from admitd.gate import Scene
from admitd.ownmetrics import NoAnswer, NotTold, Said
from admitd.processes import cputime, traffic
from admitd.processes.cputime import CpuTimes
from admitd.processes.sockets import Sockets
from admitd.processes.traffic import Moved

TICKS_PER_S: Final = 100
"""`progress` counts processor time in 10 ms, as Linux does."""
BYTES_A_TICK: Final = 8
"""So many bytes of an answer count as one tick: two words a second are work; a comment every 15 s that only keeps a
connection open is none."""
ASK_AGAIN_S: Final = 60.0
"""How long a service is left in peace that never yet said anything of its work when it was asked."""
OWN_PROBE_S: Final = 2.0
"""A probe that takes longer waits for work of others; what is done meanwhile is not put down to the probe."""
ASKED_AT_ONCE: Final = 8

Ask = Callable[[str, int], Said]


@dataclass(slots=True)
class _Watch:
    """What is remembered of one service between looks. `work` only ever grows, whatever its own count does.
    `streamed`: bytes of answers that it was seen to send."""

    ids: frozenset[ProcessId] = frozenset()
    others: frozenset[int] = frozenset()
    course: Course = field(default_factory=Course)
    where: tuple[str, int] | None = None
    tells: bool | None = None
    ask_at_s: float = 0.0
    count: int | None = None
    work: int = 0
    ports: frozenset[int] = frozenset()
    moved: Mapping[int, Moved] = field(default_factory=dict)
    streamed: int = 0
    probed_at_s: float | None = None
    ours_s: float = 0.0
    ours: int = 0


class ActivityWatch:
    """What services do, from look to look. One thread looks; `progress` and `own_probe` may be called from others."""

    def __init__(
        self,
        times: CpuTimes | None = None,
        sockets: Sockets | None = None,
        ask: Ask = ownmetrics.ask,
        clock: Callable[[], float] = time.monotonic,
        moved: Callable[[Collection[int]], Mapping[int, Moved]] = traffic.moved,
    ) -> None:
        self._times = cputime.for_this_system() if times is None else times
        self._sockets = Sockets() if sockets is None else sockets
        self._ask = ask
        self._moved = moved
        self._clock = clock
        self._watches: dict[str, _Watch] = {}
        self._lock = threading.RLock()

    def look(self, scene: Scene, now: float) -> Mapping[str, Activity]:
        """What each service of the capacity in force does. `now` is of the monotonic clock."""
        services = scene.capacity.services
        with self._lock:
            self._watches = {name: self._watches.get(name, _Watch()) for name in services}
            for service in services.values():
                self._renew(self._watches[service.name], service, scene)
        self._sockets.begin(now)
        said = self._said([name for name, watch in self._watches.items() if self._is_asked(scene, name, watch)])
        with self._lock:
            return {name: self._judge(services[name], scene, said.get(name, (None, False)), now) for name in services}

    def progress(self, service: str) -> int | None:
        """A number that grows while the service works: its ticks of processor time, what it counts itself, and what it
        sends.

        It asks anew, of the processes that the last look saw. None where there are none, or they can't be read.
        """
        watch = self._watches.get(service)
        if watch is None or not watch.ids:
            return None
        told = self._times.of(watch.ids, watch.others)
        if not told:
            return None
        if watch.tells:
            self._ask_one(watch)
        return round(TICKS_PER_S * sum(told.values())) + watch.work + self._streamed(watch) // BYTES_A_TICK

    def _streamed(self, watch: _Watch) -> int:
        """Bytes of answers so far: what went out on connections on which nothing came in meanwhile.

        Whoever asks for /health or /metrics again and again gets his answer from a server whose engine is dead, too.
        """
        with self._lock:
            before, watch.moved = watch.moved, self._moved(watch.ports) if watch.ports else {}
            for name, now in watch.moved.items():
                was = before.get(name)
                if was is not None and was.received == now.received:
                    watch.streamed += now.sent - was.sent
            return watch.streamed

    @contextlib.contextmanager
    def own_probe(self, service: str) -> Iterator[None]:
        """Around a probe of ours: what it makes the service do is no activity of the service's users."""
        watch = self._watches.get(service)
        if watch is None:
            yield
            return
        if watch.tells:
            self._ask_one(watch)
        before_s, work = self._taken(watch), watch.work
        began = watch.probed_at_s = self._clock()
        try:
            yield
        finally:
            after_s = self._taken(watch)
            if watch.tells:
                self._ask_one(watch)
            with self._lock:
                watch.probed_at_s = None
                if self._clock() - began <= OWN_PROBE_S and before_s is not None and after_s is not None:
                    watch.ours_s += max(0.0, after_s - before_s)
                    watch.ours += watch.work - work

    def _renew(self, watch: _Watch, service: Service, scene: Scene) -> None:
        account = scene.ledger.account(service)
        ids = frozenset(process.id for process in account.processes)
        if ids != watch.ids:
            watch.tells, watch.ask_at_s, watch.ports = None, 0.0, frozenset()
        watch.ids = ids
        watch.where = ownmetrics.origin(service.probe.url) if service.probe is not None else None
        watch.others = frozenset(
            {seen.process.id.pid for seen in scene.look.sightings if seen.service != service.name} | {os.getpid()}
        )

    def _judge(self, service: Service, scene: Scene, asked: tuple[Said | None, bool], now: float) -> Activity:
        watch = self._watches[service.name]
        account = scene.ledger.account(service)
        if not account.state.is_loaded or account.mention_only:
            watch.course, told = activity.gone(watch.course)
        elif not watch.ids:
            watch.course, told = activity.unseen(watch.course, "loaded, and no process of it is known")
        elif self._is_being_probed(watch):
            # What is seen now would be our own doing; the next look compares with the one before.
            course = watch.course
            told = Activity(None, course.last_active_s, course.said.cpu_s, None, "our own probe is under way")
        else:
            watch.course, told = activity.step(watch.course, self._glance(watch, account, asked, now))
            watch.ours_s, watch.ours = 0.0, 0
        return told

    def _glance(self, watch: _Watch, account: Account, asked: tuple[Said | None, bool], now: float) -> Glance:
        said, silent = asked
        ids = tuple(process.id for process in account.processes)
        connections = self._sockets.connections(ids)
        watch.ports = self._sockets.ports(ids)
        return Glance(
            now,
            watch.ids,
            self._times.of(ids, watch.others),
            connections,
            None if said is None else said.working,
            watch.work if watch.tells else None,
            silent,
            watch.ours_s,
            watch.ours,
        )

    def _is_being_probed(self, watch: _Watch) -> bool:
        return watch.probed_at_s is not None and self._clock() - watch.probed_at_s <= OWN_PROBE_S

    def _is_asked(self, scene: Scene, name: str, watch: _Watch) -> bool:
        """A stopped one would only let us wait; one that has no such pages is not asked for them again."""
        account = scene.ledger.account(scene.capacity.services[name])
        if watch.where is None or not watch.ids or watch.tells is False or self._is_being_probed(watch):
            return False
        return self._clock() >= watch.ask_at_s and not any(process.stopped for process in account.processes)

    def _said(self, names: list[str]) -> dict[str, tuple[Said | None, bool]]:
        """What services say of themselves, and whether one that did so before is silent now; all asked at once."""
        watches = [self._watches[name] for name in names]
        if len(watches) < 2:
            return dict(zip(names, map(self._ask_one, watches), strict=True))
        with ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="admit-metrics") as pool:
            return dict(zip(names, pool.map(self._ask_one, watches), strict=True))

    def _ask_one(self, watch: _Watch) -> tuple[Said | None, bool]:
        if watch.where is None:
            return None, False
        try:
            said = self._ask(*watch.where)
        except NoAnswer:
            if not watch.tells:
                watch.ask_at_s = self._clock() + ASK_AGAIN_S
            return None, bool(watch.tells)
        except NotTold:
            watch.tells = False
            return None, False
        with self._lock:
            if watch.tells and watch.count is not None:
                watch.work += said.count - watch.count if said.count >= watch.count else said.count
            watch.tells, watch.count = True, said.count
        return said, False

    def _taken(self, watch: _Watch) -> float | None:
        told = self._times.of(watch.ids, watch.others)
        return None if told is None else sum(told.values())
