"""ps: the process table as `ps` prints it; for macOS, and for any Unix where /proc is not Linux's.

The command, its columns and its traps: docs/macos.md. In short: an absolute path (another `ps` in PATH takes other
flags), the C locale and UTC (lstart is printed in the caller's), every column without a header, `command` last
(elsewhere it is cut), two seconds at most (ps retries for minutes when memory is short), and one at a time.
"""

from __future__ import annotations

import calendar
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from admitd.core.terms import RAM, Process, ProcessId, Unread
from admitd.processes.matching import Judgement, Matcher, Remembered
from admitd.processes.naming import LOOKED_AT
from admitd.processes.running import PS, Ps
from admitd.processes.table import CannotSee, Details, Hit, Look, sight

_COLUMNS: Final = ("pid", "ppid", "uid", "stat", "lstart", "rss", "command")
COLUMNS: Final = tuple(word for column in _COLUMNS for word in ("-o", f"{column}="))
ALL: Final = ("-axww", *COLUMNS)
_MONTHS: Final = {month: number for number, month in enumerate(calendar.month_abbr) if month}
_FIELDS: Final = 10  # pid ppid uid stat dow month day time year rss, then the command
_PID_MAX: Final = 1 << 31

Run = Callable[[tuple[str, ...]], bytes]
Identify = Callable[[int], ProcessId | None]


class NotTold(Exception):
    """The system would not say when a process was started."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ps. `started_at` is seconds since 1970, whole; `command` may be empty or `<defunct>`."""

    pid: int
    parent: int
    uid: int
    stat: str
    started_at: int
    rss_kib: int
    command: bytes

    @property
    def first_thread_dead(self) -> bool:
        """Linux: a zombie of several threads (`Zl`). The others live and hold the memory, and ps shows no arguments."""
        return self.stat.startswith("Z") and "l" in self.stat

    @property
    def zombie(self) -> bool:
        return self.stat.startswith("Z") and not self.first_thread_dead

    @property
    def traced(self) -> bool:
        """Stopped by a debugger: Linux prints `t`, macOS adds an X (`TX`)."""
        return self.stat.startswith("t") or "X" in self.stat

    @property
    def stopped(self) -> bool:
        return self.stat.startswith("T") and not self.traced

    @property
    def kernel_thread(self) -> bool:
        """Linux: a child of kthreadd, or itself, without memory; its name is in brackets."""
        return self.rss_kib == 0 and self.parent in (0, 2) and self.command.startswith(b"[")


def parse(output: bytes) -> list[Row]:
    """The rows of ps's output. A line that is not one is passed over: argv may hold anything, and ps may be cut off."""
    rows = []
    for line in output.split(b"\n"):
        fields = line.split(None, _FIELDS)
        if len(fields) < _FIELDS:
            continue
        try:
            pid, parent, uid, rss = int(fields[0]), int(fields[1]), int(fields[2]), int(fields[9])
            started_at = _seconds(fields[5], fields[6], fields[7], fields[8])
        except (ValueError, KeyError):
            continue
        if 0 < pid < _PID_MAX:
            command = fields[10][:LOOKED_AT] if len(fields) > _FIELDS else b""
            rows.append(Row(pid, parent, uid, fields[3].decode("ascii", "replace"), started_at, rss, command))
    return rows


def _seconds(month: bytes, day: bytes, clock: bytes, year: bytes) -> int:
    hour, minute, second = (int(part) for part in clock.split(b":"))
    return calendar.timegm((int(year), _MONTHS[month.decode("ascii")], int(day), hour, minute, second))


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid, by the system's own token for its start: finer than ps's whole seconds, and no
    fork. None where there is none, or only a zombie. Raises NotTold."""
    if sys.platform == "darwin":
        from admitd.processes import darwin

        libc = darwin.load()
        info, token = darwin.short_bsd_info(pid, libc), darwin.start_token(pid, libc)
        if info is None or info.zombie:
            return None
        if token is None:
            raise NotTold
        return ProcessId(pid, token)
    from admitd.processes import proc

    if proc.stat("self") is None:
        raise NotTold
    return proc.identify(pid)


class PsTable:
    """ProcessTable over ps. Where the system cannot tell a process's start, ps's whole seconds must do."""

    def __init__(self, run: Run | None = None, identify: Identify = identify) -> None:
        self._run: Run = run or Ps().run
        self._identify = identify
        self._remembered: Remembered | None = None
        self._lock = threading.Lock()

    def look(self, matcher: Matcher, launchers: Iterable[int] = ()) -> Look:
        with self._lock:
            rows = {row.pid: row for row in parse(self._run(ALL))}
            if not rows:
                raise CannotSee(f"{PS} printed nothing that can be read")
            if self._remembered is None or self._remembered.matcher is not matcher:
                self._remembered = Remembered(matcher)
            judged = ((row, self._remembered.judge(row.command)) for row in rows.values() if not row.kernel_thread)
            hits = [Hit(row.pid, judgement, row.command) for row, judgement in judged if judgement is not None]
            sightings, passed_over = sight(hits, lambda pid: self._details(rows, pid), launchers, os.getpid())
            lines = {hit.pid: hit.line for hit in hits}
            return Look(len(rows), sightings, passed_over, tuple(self._unread(rows)), lines)

    def identify(self, pid: int) -> ProcessId | None:
        try:
            return self._identify(pid)
        except NotTold:
            row = self._one(pid).get(pid)
            return None if row is None or row.zombie else ProcessId(pid, row.started_at)

    def again(self, process: Process, matcher: Matcher) -> Judgement | None:
        pid = process.id.pid
        if self.identify(pid) != process.id:
            return None
        row = self._one(pid).get(pid)
        if row is None or row.zombie or self.identify(pid) != process.id:
            return None
        return matcher.judge(row.command)

    def close(self) -> None:
        """Nothing is kept open between looks."""

    def _one(self, pid: int) -> Mapping[int, Row]:
        """One process's row; none where it is gone."""
        return {row.pid: row for row in parse(self._run(("-ww", "-p", str(pid), *COLUMNS)))}

    def _details(self, rows: Mapping[int, Row], pid: int) -> Details | None:
        row = rows.get(pid)
        if row is None:
            return None
        try:
            identity = self._identify(pid)
        except NotTold:
            identity = ProcessId(pid, row.started_at)
        if identity is None:
            return None
        age = max(0.0, time.time() - row.started_at)
        process = Process(identity, row.uid, row.stopped, row.traced, age)
        return Details(process, row.parent, row.zombie)

    def _unread(self, rows: Mapping[int, Row]) -> Iterable[Unread]:
        me = os.geteuid()
        for row in rows.values():
            found = self._details(rows, row.pid) if row.first_thread_dead else None
            if found is not None:
                yield Unread(found.process.id, {RAM: row.rss_kib * 1024}, could_be_ours=me in (0, row.uid))
