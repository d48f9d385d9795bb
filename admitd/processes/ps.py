"""ps: the process table as `ps` prints it; for macOS, and for any Unix where /proc is not Linux's.

The command, its columns and its traps: docs/macos.md. In short: an absolute path (another `ps` in PATH takes other
flags), the C locale and UTC (lstart is printed in the caller's), every column without a header, `command` last
(elsewhere it is cut), two seconds at most (ps retries for minutes when memory is short), and one at a time.
"""

from __future__ import annotations

import calendar
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from admitd.core.terms import Process, ProcessId
from admitd.processes.matching import LOOKED_AT, Judgement, Matcher
from admitd.processes.table import CannotSee, Details, Hit, Look, sight

PS: Final = "/bin/ps"
BOUND_S: Final = 2.0
_COLUMNS: Final = ("pid", "ppid", "uid", "stat", "lstart", "rss", "command")
COMMAND: Final = (PS, "-axww", *(word for column in _COLUMNS for word in ("-o", f"{column}=")))
ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
_MONTHS: Final = {month: number for number, month in enumerate(calendar.month_abbr) if month}
_FIELDS: Final = 10  # pid ppid uid stat dow month day time year rss, then the command
REMEMBERED_MAX: Final = 65_536


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
    def zombie(self) -> bool:
        return self.stat.startswith("Z")

    @property
    def traced(self) -> bool:
        """Stopped by a debugger: Linux prints `t`, macOS adds an X (`TX`)."""
        return self.stat.startswith("t") or "X" in self.stat

    @property
    def stopped(self) -> bool:
        return self.stat.startswith("T") and not self.traced


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
        command = fields[10][:LOOKED_AT] if len(fields) > _FIELDS else b""
        rows.append(Row(pid, parent, uid, fields[3].decode("ascii", "replace"), started_at, rss, command))
    return rows


def _seconds(month: bytes, day: bytes, clock: bytes, year: bytes) -> int:
    hour, minute, second = (int(part) for part in clock.split(b":"))
    return calendar.timegm((int(year), _MONTHS[month.decode("ascii")], int(day), hour, minute, second))


def run(command: tuple[str, ...] = COMMAND, bound_s: float = BOUND_S) -> bytes:
    """What ps prints. Raises CannotSee where it cannot be run, fails, or takes longer than `bound_s`."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
    except OSError as problem:
        raise CannotSee(f"{command[0]} cannot be run: {problem.strerror}") from problem
    try:
        printed, complaint = process.communicate(timeout=bound_s)
    except subprocess.TimeoutExpired as late:
        # Not waited for: a ps that hangs in the kernel would take this process along.
        process.kill()
        raise CannotSee(f"{command[0]} gave no answer in {bound_s:g} s") from late
    if process.returncode or not printed:
        said = complaint.decode("utf-8", "replace").strip()[:200]
        raise CannotSee(f"{command[0]} ended with {process.returncode}: {said or 'it printed nothing'}")
    return printed


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid, by the system's own token for its start: finer than ps's whole seconds, and no
    fork. None where there is none, or only a zombie."""
    if sys.platform == "darwin":
        from admitd.processes import darwin

        libc = darwin.load()
        info, token = darwin.short_bsd_info(pid, libc), darwin.start_token(pid, libc)
        return None if info is None or info.zombie or token is None else ProcessId(pid, token)
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rsplit(b")", 1)[1].split()
        return None if fields[0] in b"ZX" else ProcessId(pid, int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


class PsTable:
    """ProcessTable over ps. Where `identify` cannot tell a process's start, ps's whole seconds must do."""

    def __init__(self, run: Callable[[], bytes] = run, identify: Callable[[int], ProcessId | None] = identify) -> None:
        self._run = run
        self._identify = identify
        self._matcher: Matcher | None = None
        self._known: dict[bytes, Judgement | None] = {}
        self._one_at_a_time = threading.Lock()

    def look(self, matcher: Matcher, launchers: Iterable[int] = ()) -> Look:
        with self._one_at_a_time:
            rows = {row.pid: row for row in parse(self._run())}
            if not rows:
                raise CannotSee(f"{PS} printed nothing that can be read")
            if matcher is not self._matcher or len(self._known) > REMEMBERED_MAX:
                self._matcher, self._known = matcher, {}
            hits = [hit for row in rows.values() if (hit := self._hit(row, matcher)) is not None]
            sightings, passed_over = sight(hits, lambda pid: self._details(rows, pid), launchers, os.getpid())
            return Look(len(rows), sightings, passed_over, (), {hit.pid: hit.line for hit in hits})

    def identify(self, pid: int) -> ProcessId | None:
        return self._identify(pid)

    def again(self, process: Process, matcher: Matcher) -> Judgement | None:
        rows = self._one(process.id.pid)
        found = self._details(rows, process.id.pid)
        if found is None or found.process.id != process.id:
            return None
        return matcher.judge(rows[process.id.pid].command)

    def close(self) -> None:
        """Nothing is kept open between looks."""

    def _one(self, pid: int) -> Mapping[int, Row]:
        """One process's row. `-p` ends with 1 where there is none, which is no fault."""
        try:
            return {row.pid: row for row in parse(run((PS, "-ww", "-p", str(pid), *COMMAND[2:])))}
        except CannotSee:
            return {}

    def _hit(self, row: Row, matcher: Matcher) -> Hit | None:
        if row.command not in self._known:
            self._known[row.command] = matcher.judge(row.command)
        judgement = self._known[row.command]
        return None if judgement is None else Hit(row.pid, judgement, row.command)

    def _details(self, rows: Mapping[int, Row], pid: int) -> Details | None:
        row = rows.get(pid)
        if row is None:
            return None
        identity = self._identify(pid) or ProcessId(pid, row.started_at)
        age = max(0.0, time.time() - row.started_at)
        process = Process(identity, row.uid, row.stopped, row.traced, age)
        return Details(process, row.parent, row.zombie)
