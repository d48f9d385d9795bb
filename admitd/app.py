"""app: the only wiring. Everything that is made once is made here, for the daemon and for the command line alike."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from admitd import capacity, hands, memory, places, processes, reservations
from admitd.apps import AppGate
from admitd.core import wire
from admitd.core.events import Event, Number, Severity
from admitd.core.terms import Capacity
from admitd.eventstream import Streams
from admitd.journal import NAME, Journal

if TYPE_CHECKING:
    from admitd.doorkeeper import App
    from admitd.sentinel import Sentinel

DESCRIPTORS_SPARED: Final = 512
"""Descriptors that are not used for keeping command lines open: sockets, checks, reservations."""
HISTORY: Final = 500
"""How many entries of the journal the sentinel reads at its start, to see how the last run ended."""


@dataclass(frozen=True, slots=True)
class House:
    """The gate and what stands behind it. `named`: the file that remedies must name, empty where it is the default."""

    gate: AppGate
    watched: capacity.Watched
    named: str
    environ: Mapping[str, str]
    journal: Journal
    streams: Streams

    def application(self, port: int, sentinel: Sentinel | None = None, token: str | None = None) -> App:
        """The ASGI application, doorkeeper outermost. `port`: the one that Host and Origin may name. `token`: of who
        may act on processes; without one nobody may."""
        from admitd import api, appdoor
        from admitd.acting import Acting
        from admitd.doorkeeper import Doorkeeper
        from admitd.flight import Flight

        flight = Flight(self.gate)
        acting = Acting(flight, self.environ)
        offered = api.build(flight, acting, self.streams, token, self.named, sentinel)
        appdoor.offer(offered, self.gate, self.named)
        return Doorkeeper(offered, port)

    def sentinel(self, port: int) -> Sentinel:
        """The sentinel, not started yet. `port`: whose daemon it belongs to."""
        from admitd.activity import ActivityWatch
        from admitd.mending import Mending
        from admitd.sentinel import Sentinel
        from admitd.vitals import Vitals

        def log_path(service: str) -> Path:
            return Path(places.log_path(self.environ, service))

        tell = self.journal.write
        vitals = Vitals(Path(places.alive_path(self.environ, port)))
        try:
            found = vitals.judge(self.journal.read(limit=HISTORY))
        except OSError:
            found = vitals.judge([])
        for name in found.held_back:
            hands.heed(self.gate.records.where, name)
        mending = Mending(self.gate, log_path, tell, self.named)
        return Sentinel(self.gate, ActivityWatch(), mending, tell, vitals, found, alarm=_alarm())


def _alarm() -> memory.Alarm | str:
    """What tells of memory pressure, or why nothing does."""
    try:
        return memory.alarm_for_this_system()
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        return f"{where}{problem.strerror or problem}"


def furnish(
    environ: Mapping[str, str],
    config: str | None = None,
    *,
    keep: int = 0,
    on_problem: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> House:
    """Make everything. `keep`: how many descriptors of /proc stay open between looks; a short life wants none.

    Raises capacity.NotFound, capacity.ConfigError, reservations.NotRecorded, ValueError (a setting that is wrong).
    """
    path = capacity.find(config, environ, Path(places.home(environ)))
    named = str(path) if config else ""
    system = memory.for_this_system()

    def load(path: Path) -> Capacity:
        return capacity.load(path, detect_physical=system.physical)

    journal = Journal(Path(places.user_folder(environ), NAME), complain=on_problem)

    def broken(text: str) -> None:
        on_problem(text)
        said = f"{path} was changed and cannot be used; the last good one stays in force"
        journal.write(Event("config_broken", said, Severity.WARNING, next=wire.pasted(named, "config", "check")))

    def reloaded(now: Capacity) -> None:
        numbers: dict[str, Number] = {"services": len(now.services), "host": now.host.name}
        journal.write(Event("config_reloaded", f"{path} was changed and is in force", numbers=numbers))

    watched = capacity.Watched(path, load, on_problem=broken, on_reloaded=reloaded)
    table = processes.for_this_system(environ, keep)
    folder = reservations.folder(environ)
    records = reservations.Reservations(folder, table.identify, shared="ADMIT_STATE_DIR" not in environ)
    records.prepare()

    def source() -> tuple[Capacity, tuple[str, ...]]:
        return watched.current(), watched.warnings

    gate = AppGate(source, table, system, records, record=journal.write)
    gate.matcher(watched.current())
    return House(gate, watched, named, environ, journal, Streams(journal))


def descriptors_to_keep() -> int:
    """Raise this process's limit of open files as far as it may be, and say how many command lines may stay open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if hard == resource.RLIM_INFINITY else min(hard, 16_384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return max(0, soft - DESCRIPTORS_SPARED)
