"""table: what one look at the process table found, however it was read; and who is left out of it, and why."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from admitd.core.terms import Process, ProcessId, Sighting, Unread
from admitd.processes.matching import Judgement, Matcher, Role

ANCESTORS_LOOKED_AT: Final = 64
_RUNS_ADMIT: Final = re.compile(rb"(?:\A|[\0\s/'\"(;&|])admit[\0\s]")
"""`sh -c 'admit run a -- ... & admit run b -- ...'`: the shell starts both, and is neither."""

Launchers = Mapping[int, Collection[str]]
"""Who holds reservations, by pid, and for which services: until one is there, its holder merely starts it."""
NOBODY: Final[Launchers] = MappingProxyType({})


class CannotSee(Exception):
    """The process table could not be read; the text says why and is fit for users."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A process whose command line means something to us."""

    pid: int
    judgement: Judgement
    line: bytes


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A process that a pattern matches and that is not counted."""

    pid: int
    service: str
    program: str
    why: str


@dataclass(frozen=True, slots=True)
class Look:
    """One look: `count` processes were seen; `lines` holds the command lines of those that matched; `warnings` say, for
    users, what it could not see."""

    count: int = 0
    sightings: tuple[Sighting, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    unread: tuple[Unread, ...] = ()
    lines: Mapping[int, bytes] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class ProcessTable(Protocol):
    """One way of reading the process table."""

    def look(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
        """Look now. Raises CannotSee."""

    def glance(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
        """As `look`, for who looks all the time and may be late: where no process was started since the last glance,
        only those that mattered then are looked at, and who became one of them since without a fork is seen within a
        minute. Nothing is admitted by it."""

    def identify(self, pid: int) -> ProcessId | None:
        """The process that has this pid now; None where there is none, or only a zombie."""

    def again(self, process: Process, matcher: Matcher) -> Judgement | None:
        """Look at one process once more; None where it is gone, is nothing to us any more, or its pid belongs to
        another now. Raises CannotSee where it is there and does not show itself."""


@dataclass(frozen=True, slots=True)
class Details:
    """What is needed of a process that matched."""

    process: Process
    parent: int
    zombie: bool = False


def sight(
    hits: Iterable[Hit],
    details: Callable[[int], Details | None],
    launchers: Launchers,
    own_pid: int,
) -> tuple[tuple[Sighting, ...], tuple[PassedOver, ...]]:
    """Hits -> sightings. Left out, always: admit's own processes and the commands it runs; and, of mere mentions,
    whoever starts the load of what it mentions (the shell around an `admit run`, say), or stands above what it mentions
    (`timeout`, `uv run`, `sudo`: the service itself is charged)."""
    me, hits = os.geteuid(), list(hits)
    parents = _Parents(details)
    helpers = {hit.pid for hit in hits if hit.judgement.role is Role.HELPER}
    live = {hit.pid: found for hit in hits if hit.judgement.claims and (found := parents.live(hit.pid)) is not None}
    claiming = [hit for hit in hits if hit.pid in live]
    ours = {hit.pid: _ours(hit, own_pid, helpers, parents) for hit in claiming}
    mentioned = any(claim.mention for hit in claiming for claim in hit.judgement.claims)
    starting = _starters(hits, parents) if mentioned else {}
    started = _started([hit for hit in claiming if ours[hit.pid] is None], parents) if mentioned else {}
    seen: list[Sighting] = []
    passed_over: list[PassedOver] = []
    for hit in claiming:
        for claim in hit.judgement.claims:
            why = ours[hit.pid]
            if claim.other_program:
                why = why or f"its program is {claim.program}, and `program:` names another"
            elif claim.mention and _is_starting(hit, claim.service, launchers, starting):
                why = why or "it only starts a load"
            elif claim.mention and claim.service in started.get(hit.pid, ()):
                why = why or "it only waits for what it started"
            if why:
                passed_over.append(PassedOver(hit.pid, claim.service, claim.program, why))
            else:
                process = live[hit.pid].process
                seen.append(Sighting(claim.service, process, claim.mention, claim.program, me in (0, process.uid)))
    return tuple(seen), tuple(passed_over)


def _starters(hits: Iterable[Hit], parents: _Parents) -> dict[int, set[str]]:
    """Those above one of admit's processes, and the words of its command line: the service it loads is among them."""
    starting: dict[int, set[str]] = {}
    for hit in hits:
        if hit.judgement.role is Role.OWN:
            words = set(re.split(r"[\0 ]", hit.line.decode("utf-8", "replace")))
            for pid in parents.above(hit.pid):
                starting.setdefault(pid, set()).update(words)
    return starting


def _started(claiming: Iterable[Hit], parents: _Parents) -> dict[int, set[str]]:
    """Those above a process that is counted as a service, and which: `timeout 9 CMD` stays there until CMD ends, and
    would keep x from being unloaded for others, as what only mentions x can't be unloaded."""
    started: dict[int, set[str]] = {}
    for hit in claiming:
        real = {claim.service for claim in hit.judgement.claims if not claim.mention and not claim.other_program}
        for pid in parents.above(hit.pid) if real else ():
            started.setdefault(pid, set()).update(real)
    return started


def _is_starting(hit: Hit, service: str, launchers: Launchers, starting: Mapping[int, set[str]]) -> bool:
    """Whether a mention is of what it holds a reservation for, or of what is being loaded below it. A service that
    happens to load another one is not: it keeps its own charge, even where its pattern matches its arguments only."""
    if service in launchers.get(hit.pid, ()):
        return True
    words = starting.get(hit.pid)
    return words is not None and (service in words or _RUNS_ADMIT.search(hit.line) is not None)


def _ours(hit: Hit, own_pid: int, helpers: set[int], parents: _Parents) -> str | None:
    if hit.pid == own_pid:
        return f"it is {Role.OWN.value}"
    if hit.judgement.role is not Role.FOREIGN:
        return f"it is {hit.judgement.role.value}"
    if helpers and not helpers.isdisjoint(parents.above(hit.pid)):
        return f"it belongs to {Role.HELPER.value}"
    return None


class _Parents:
    """Details, asked once per process and look."""

    def __init__(self, details: Callable[[int], Details | None]) -> None:
        self._details = details
        self._known: dict[int, Details | None] = {}

    def of(self, pid: int) -> Details | None:
        if pid not in self._known:
            self._known[pid] = self._details(pid)
        return self._known[pid]

    def live(self, pid: int) -> Details | None:
        found = self.of(pid)
        return None if found is None or found.zombie else found

    def above(self, pid: int) -> list[int]:
        chain: list[int] = []
        while len(chain) < ANCESTORS_LOOKED_AT:
            found = self.of(pid)
            if found is None or found.parent <= 1 or found.parent in chain:
                break
            pid = found.parent
            chain.append(pid)
        return chain
