"""ps: the process table as `ps` prints it; for macOS, and for any Unix where /proc is not Linux's.

The command, its columns and its traps: docs/macos.md. In short: an absolute path (another `ps` in PATH takes other
flags), the C locale and UTC (lstart is printed in the caller's), every column without a header, `command` last
(elsewhere it is cut), two seconds at most (ps retries for minutes when memory is short), and one at a time. A ps that
hangs in the kernel is never waited for, which would take this process along; nor is another started beside it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Final

from admitd.core.terms import RAM, Process, ProcessId, Unread
from admitd.processes.matching import Judgement, Matcher, Remembered
from admitd.processes.naming import LOOKED_AT
from admitd.processes.rows import COLUMNS, Row, parse
from admitd.processes.table import NOBODY, CannotSee, Details, Hit, Launchers, Look, sight

ALL: Final = ("-axww", *COLUMNS)
PS: Final = "/bin/ps"
BOUND_S: Final = 2.0
ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
_LINE_MAX: Final = LOOKED_AT + 256
_COMPLAINT_MAX: Final = 2000
_KILLED_WITHIN_S: Final = 0.05

Run = Callable[[tuple[str, ...]], bytes]
Identify = Callable[[int], ProcessId | None]


class NotTold(Exception):
    """The system would not say when a process was started."""


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

    def look(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
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

    def glance(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
        return self.look(matcher, launchers)  # ps reads the whole table, or nothing

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


class Ps:
    """One way to run ps. `program` is an absolute path."""

    def __init__(self, program: str = PS, bound_s: float = BOUND_S) -> None:
        self._program = program
        self._bound_s = bound_s
        self._late: subprocess.Popen[bytes] | None = None
        self._one_at_a_time = threading.Lock()

    def run(self, arguments: tuple[str, ...]) -> bytes:
        """What ps prints; nothing where none of the processes asked for is there.

        Raises CannotSee where it cannot be run, fails, or takes longer than the bound.
        """
        with self._one_at_a_time:
            give_up = time.monotonic() + self._bound_s
            self._end_of_the_late(give_up)
            process = self._start(arguments)
            printed, complaint = _Lines(_LINE_MAX), _Lines(_COMPLAINT_MAX)
            in_time = False
            try:
                in_time = _read(process, printed, complaint, give_up)
            finally:
                if not in_time:
                    self._leave(process)
            if not in_time:
                raise CannotSee(f"{self._program} gave no answer in {self._bound_s:g} s")
        said = complaint.text.decode("utf-8", "replace").strip()[:200]
        # 1 is also what it ends with where no process was selected.
        if process.returncode not in (0, 1) or (process.returncode == 1 and (printed.text or said)):
            raise CannotSee(f"{self._program} ended with {process.returncode}: {said or 'it does not say why'}")
        return bytes(printed.text)

    def _start(self, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                (self._program, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
            )
        except OSError as problem:
            raise CannotSee(f"{self._program} cannot be run: {problem.strerror}") from problem

    def _leave(self, process: subprocess.Popen[bytes]) -> None:
        """Kill it, and remember it where that does not end it at once."""
        with contextlib.suppress(PermissionError):
            process.kill()
        for pipe in _pipes(process):
            pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_WITHIN_S)
        if process.returncode is None:
            self._late = process

    def _end_of_the_late(self, give_up: float) -> None:
        if self._late is not None:
            try:
                self._late.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise CannotSee(f"an earlier {self._program} hangs and cannot be killed") from None
            self._late = None


class _Lines:
    """Output as it comes in, each line of it cut."""

    def __init__(self, line_max: int) -> None:
        self.text = bytearray()
        self._line_max = line_max
        self._room = line_max

    def take(self, chunk: bytes) -> None:
        for number, piece in enumerate(chunk.split(b"\n")):
            if number:
                self.text += b"\n"
                self._room = self._line_max
            self.text += piece[: self._room]
            self._room -= min(len(piece), self._room)


def _pipes(process: subprocess.Popen[bytes]) -> list[IO[bytes]]:
    return [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]


def _read(process: subprocess.Popen[bytes], printed: _Lines, complaint: _Lines, give_up: float) -> bool:
    """Read until it has ended; False where it has not by `give_up`."""
    with selectors.DefaultSelector() as selector:
        for pipe, lines in zip(_pipes(process), (printed, complaint), strict=True):
            selector.register(pipe, selectors.EVENT_READ, lines)
        while selector.get_map():
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 65_536)
                if chunk:
                    key.data.take(chunk)
                else:
                    selector.unregister(key.fileobj)
    try:
        process.wait(max(0.0, give_up - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    for pipe in _pipes(process):
        pipe.close()
    return True
