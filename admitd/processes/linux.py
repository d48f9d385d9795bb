"""linux: the process table from /proc. Every look reads every command line afresh; only the *judgement* is remembered,
by the bytes of the line.

A process that cannot be read in time is reported as `Unread`, or keeps the claim it had; it is never dropped.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from admitd.core.terms import RAM, Process, ProcessId, Unread
from admitd.processes import proc
from admitd.processes.matching import Judgement, Matcher, Remembered
from admitd.processes.proc import NoDescriptors
from admitd.processes.sweep import CommandLines, Reader, Sweep
from admitd.processes.table import NOBODY, CannotSee, Details, Hit, Launchers, Look, sight

LOOK_BOUND_S: Final = 2.0
STUCK_READERS_MAX: Final = 16
WHOLE_EVERY_S: Final = 60.0
"""How long a glance may go by who is known, at most: an exec, or a title that is set, starts no process."""

HIDES: Final = (
    "/proc hides the processes of other users (mount option hidepid): what runs as another user is not seen, and not "
    "charged; let admit see it (mount option gid=), or run it as that user"
)


@dataclass(frozen=True, slots=True)
class _Swept:
    """What the sweeps of one look gave. `stuck` hang in the kernel, `unreadable` answer with an error, `blank` with
    nothing, `gone` were listed and had ended when their turn came."""

    hits: list[Hit]
    stuck: list[str]
    unreadable: list[str]
    blank: list[str]
    gone: list[str]


@dataclass(frozen=True, slots=True)
class _Calm:
    """A whole look, and the pid that had been given out last when it began."""

    last_pid: int
    matcher: Matcher
    until_s: float
    count: int


class LinuxTable:
    """ProcessTable over /proc. `keep` bounds how many descriptors stay open; the rest are opened for each look."""

    def __init__(self, keep: int = 0, root: str = "/proc") -> None:
        self._root = root
        self._lines = CommandLines(root, keep)
        self._claimed: dict[str, Hit] = {}
        self._stuck: dict[str, Sweep] = {}
        self._remembered: Remembered | None = None
        self._reader: Reader | None = None
        self._calm: _Calm | None = None
        self._lock = threading.Lock()

    def look(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
        with self._lock:
            return self._whole(matcher, launchers)

    def glance(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
        with self._lock:
            last_pid = proc.last_pid(self._root)
            look = self._glanced(matcher, launchers, last_pid)
            if look is None:
                look = self._whole(matcher, launchers)
                self._calm = None
                if last_pid is not None and not look.unread and not self._stuck:
                    self._calm = _Calm(last_pid, matcher, time.monotonic() + WHOLE_EVERY_S, look.count)
            return look

    def _glanced(self, matcher: Matcher, launchers: Launchers, last_pid: int | None) -> Look | None:
        """The look that those known from the last one give; None where any of them changed, or others may have come."""
        calm = self._calm
        if calm is None or (calm.last_pid, calm.matcher) != (last_pid, matcher) or time.monotonic() >= calm.until_s:
            return None
        try:
            swept = self._sweep(list(self._claimed), self._memory_of(matcher))
            if {str(hit.pid): hit for hit in swept.hits} != self._claimed:
                return None
            sightings, passed_over = sight(swept.hits, self._details, launchers, os.getpid())
        except CannotSee:
            return None
        seen = {each.process.id.pid for each in sightings} | {each.pid for each in passed_over}
        if any(hit.judgement.claims and hit.pid not in seen for hit in swept.hits):
            return None
        lines = {hit.pid: hit.line for hit in swept.hits}
        return Look(calm.count, sightings, passed_over, (), lines, self._warnings())

    def _whole(self, matcher: Matcher, launchers: Launchers) -> Look:
        while True:
            try:
                return self._look(matcher, launchers)
            except NoDescriptors:
                if not self._lines.keep_fewer(self._held()):
                    raise

    def identify(self, pid: int) -> ProcessId | None:
        return proc.identify(pid, self._root)

    def again(self, process: Process, matcher: Matcher) -> Judgement | None:
        if self.identify(process.id.pid) != process.id:
            return None
        name = str(process.id.pid)
        with self._lock:
            swept = self._sweep([name], self._memory_of(matcher))
        if name in (*swept.stuck, *swept.unreadable):
            raise CannotSee(f"process {name} does not show its command line")
        judged = swept.hits[0].judgement if swept.hits else None
        return judged if self.identify(process.id.pid) == process.id else None

    def close(self) -> None:
        """Give back the descriptors and the reading thread."""
        with self._lock:
            self._lines.close(self._held())
            if self._reader is not None:
                self._reader.jobs.put(None)
                self._reader = None

    def _look(self, matcher: Matcher, launchers: Launchers) -> Look:
        names = self._names()
        swept = self._sweep(names, self._memory_of(matcher))
        if swept.gone or any(hit not in swept.hits for hit in self._claimed.values()):
            self._sweep_successors(names, swept, matcher)
        look = self._seen(names, swept, launchers)
        seen = {each.process.id.pid for each in look.sightings} | {each.pid for each in look.passed_over}
        if any(hit.judgement.claims and hit.pid not in seen for hit in swept.hits):
            self._sweep_successors(names, swept, matcher)  # it was read, and ended before the rest of it was
            look = self._seen(names, swept, launchers)
        return look

    def _seen(self, names: list[str], swept: _Swept, launchers: Launchers) -> Look:
        self._lines.let_go(names, self._held())
        read = {hit.pid for hit in swept.hits}  # what a thread that was left behind still read counts as well
        stuck = [name for name in swept.stuck if int(name) not in read]
        unread = tuple(self._unread(stuck, swept.unreadable))
        unseen = (*stuck, *swept.unreadable, *swept.blank)
        hits = [*swept.hits, *(self._claimed[name] for name in unseen if name in self._claimed)]
        self._claimed = {str(hit.pid): hit for hit in hits}
        sightings, passed_over = sight(hits, self._details, launchers, os.getpid())
        lines = {hit.pid: hit.line for hit in hits}
        return Look(len(names), sightings, passed_over, unread, lines, self._warnings())

    def _warnings(self) -> tuple[str, ...]:
        return (HIDES,) if proc.hides_others(self._root) else ()

    def _sweep_successors(self, names: list[str], swept: _Swept, matcher: Matcher) -> None:
        """Whoever ended while the table was read may have left a child behind that was not listed yet: a server that
        goes into the background does. So those who came since are read as well."""
        listed = set(names)
        came = [name for name in self._names() if name not in listed]
        names += came
        more = self._sweep(came, self._memory_of(matcher))
        for kind in ("hits", "stuck", "unreadable", "blank"):
            getattr(swept, kind).extend(getattr(more, kind))

    def _names(self) -> list[str]:
        try:
            names = self._lines.names()
        except OSError as problem:
            raise CannotSee(f"{self._root} cannot be read: {problem.strerror}") from problem
        if not names:
            raise CannotSee(f"{self._root} shows no processes; is it mounted?")
        return names

    def _memory_of(self, matcher: Matcher) -> Remembered:
        if self._remembered is None or self._remembered.matcher is not matcher:
            self._remembered = Remembered(matcher)
        return self._remembered

    def _held(self) -> frozenset[str]:
        """Those whose descriptors a left-behind thread may be using."""
        return frozenset(name for name, sweep in self._stuck.items() if not sweep.finished)

    def _sweep(self, names: Sequence[str], remembered: Remembered) -> _Swept:
        """Read the command lines of `names`, those aside that a left-behind thread still hangs on."""
        self._stuck = {name: sweep for name, sweep in self._stuck.items() if not sweep.finished}
        swept = _Swept([], [name for name in names if name in self._stuck] if self._stuck else [], [], [], [])
        todo = [name for name in names if name not in self._stuck] if self._stuck else names
        give_up = time.monotonic() + LOOK_BOUND_S
        while todo:
            if len(self._stuck) > STUCK_READERS_MAX or time.monotonic() > give_up:
                raise CannotSee(self._why_not())
            sweep = Sweep(self._lines, todo, remembered)
            reader = self._reader = self._reader or Reader()
            reader.jobs.put(sweep)
            hung = sweep.wait(reader, give_up)
            swept.hits.extend(sweep.hits)
            swept.unreadable.extend(sweep.unreadable)
            swept.blank.extend(sweep.blank)
            swept.gone.extend(sweep.gone)
            if hung is None:
                todo = todo[sweep.at :]
                continue
            # The thread hangs in the kernel: leave it behind with this process and go on with another.
            self._stuck[todo[hung]] = sweep
            swept.stuck.append(todo[hung])
            self._reader = None
            reader.jobs.put(None)
            todo = todo[hung + 1 :]
        return swept

    def _why_not(self) -> str:
        if self._stuck:
            return f"processes that do not show their command lines: {len(self._stuck)}"
        return f"reading the command lines took more than {LOOK_BOUND_S:g} s"

    def _details(self, pid: int) -> Details | None:
        return proc.details(pid, self._root)

    def _unread(self, stuck: Sequence[str], unreadable: Sequence[str]) -> Iterable[Unread]:
        me = os.geteuid()
        for name in (*stuck, *unreadable):
            found = None if name in self._claimed else self._details(int(name))
            if found is None or found.zombie:
                continue
            # What other users' processes keep to themselves (hidepid, a security module) is not held against anyone.
            # Whose line merely takes its time may be a service, whoever started it.
            if me in (0, found.process.uid) or name in stuck:
                resident = proc.resident_bytes(int(name), self._root)
                yield Unread(found.process.id, {RAM: resident}, could_be_ours=True)
