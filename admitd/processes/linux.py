"""linux: the process table from /proc, through one kept descriptor per process.

What is remembered and what is not: a kept descriptor of /proc/PID/cmdline shows the new argv after exec and gives
ESRCH once the process is reaped, so every look reads every command line afresh, and a reused pid is noticed. Only the
*judgement* is remembered, by the bytes of the line.

A command line cannot be read while its owner holds its memory map (a server that mlocks its weights does, for hundreds
of milliseconds), and that read cannot be interrupted. So reading has a thread of its own: when it hangs in the kernel,
it is left behind with that one process, another goes on with the rest, and the process that could not be read is
reported as `Unread`, never dropped.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from admitd.core.terms import RAM, Process, ProcessId, Unread
from admitd.processes.matching import LOOKED_AT, Judgement, Matcher
from admitd.processes.table import CannotSee, Details, Hit, Look, sight

FIRST_READ: Final = 4096
"""Nearly every command line fits; a longer one is read on up to LOOKED_AT."""
STALL_SLICE_S: Final = 0.01
"""How often a sweep is looked at; one that hangs in the kernel on the same process for two slices is left behind."""
LOOK_BOUND_S: Final = 2.0
STUCK_READERS_MAX: Final = 16
REMEMBERED_MAX: Final = 65_536
_PF_KTHREAD: Final = 0x00200000  # include/linux/sched.h


class LinuxTable:
    """ProcessTable over /proc. `keep` bounds how many descriptors stay open; the rest are opened for each look."""

    def __init__(self, keep: int = 0, root: str = "/proc") -> None:
        self._root = root
        self._keep = keep
        self._kept: dict[str, int] = {}
        self._kernel: set[str] = set()
        self._claimed: dict[str, Hit] = {}
        self._stuck: dict[str, _Sweep] = {}
        self._matcher: Matcher | None = None
        self._known: dict[bytes, Judgement | None] = {}
        self._reader: _ReaderThread | None = None
        self._lock = threading.Lock()
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._page = os.sysconf("SC_PAGE_SIZE")

    def look(self, matcher: Matcher, launchers: Iterable[int] = ()) -> Look:
        with self._lock:
            if matcher is not self._matcher or len(self._known) > REMEMBERED_MAX:
                self._matcher, self._known = matcher, {}
            names = self._names()
            hits, unread = self._sweep(names, matcher)
            if len(self._kept) > len(names):
                self._let_go(set(names))
            self._claimed = {str(hit.pid): hit for hit in hits}
            sightings, passed_over = sight(hits, self._details, launchers, os.getpid())
            lines = {hit.pid: hit.line for hit in hits}
            return Look(len(names), sightings, passed_over, tuple(self._unread(unread)), lines)

    def identify(self, pid: int) -> ProcessId | None:
        found = self._details(pid)
        return None if found is None or found.zombie else found.process.id

    def again(self, process: Process, matcher: Matcher) -> Judgement | None:
        if self.identify(process.id.pid) != process.id:
            return None
        try:
            line = self._read_fresh(str(process.id.pid))
        except OSError:
            return None
        return matcher.judge(line) if self.identify(process.id.pid) == process.id else None

    def close(self) -> None:
        """Give back the descriptors and the reading thread."""
        with self._lock:
            self._let_go(set())
            if self._reader is not None:
                self._reader.jobs.put(None)
                self._reader = None

    def _names(self) -> list[str]:
        try:
            names = [name for name in os.listdir(self._root) if "0" <= name[0] <= "9"]
        except OSError as problem:
            raise CannotSee(f"{self._root} cannot be read: {problem.strerror}") from problem
        if not names:
            raise CannotSee(f"{self._root} shows no processes; is it mounted?")
        return names

    # The sweep: one pass over all command lines, in the reading thread.

    def _sweep(self, names: list[str], matcher: Matcher) -> tuple[list[Hit], list[str]]:
        """Read every command line; returns the hits and the names of those that could not be read in time."""
        unread = [name for name in self._stuck if not self._stuck[name].finished]
        self._stuck = {name: self._stuck[name] for name in unread}
        if len(unread) > STUCK_READERS_MAX:
            raise CannotSee(f"{len(unread)} processes do not show their command lines")
        hits: list[Hit] = []
        todo = [name for name in names if name not in self._stuck] if unread else names
        give_up = time.monotonic() + LOOK_BOUND_S
        while todo:
            sweep = _Sweep(self, todo, matcher)
            reader = self._reader or _ReaderThread()
            self._reader = reader
            reader.jobs.put(sweep)
            stalled_at = sweep.wait(reader, give_up)
            hits += sweep.hits
            if stalled_at is None:
                break
            # The thread hangs in the kernel: leave it behind with this process and go on with another.
            name = todo[stalled_at]
            self._stuck[name] = sweep
            self._reader = None
            reader.jobs.put(None)
            unread.append(name)
            todo = todo[stalled_at + 1 :]
            if len(self._stuck) > STUCK_READERS_MAX or time.monotonic() > give_up:
                raise CannotSee(f"{len(self._stuck)} processes do not show their command lines")
        read = {str(hit.pid) for hit in hits}
        for name in unread:
            if name in self._claimed and name not in read:
                hits.append(self._claimed[name])
        return hits, unread

    def read(self, name: str) -> bytes | None:
        """The command line of one process, through its kept descriptor; None where it is gone. Reading thread only."""
        fd = self._kept.get(name)
        if fd is None:
            return self._open_and_read(name)
        try:
            line = os.pread(fd, FIRST_READ, 0)
            return line if len(line) < FIRST_READ else _read_on(fd, line)
        except ProcessLookupError:
            del self._kept[name]
            os.close(fd)
            self._kernel.discard(name)
            return self._open_and_read(name)
        except OSError:
            return None

    def _open_and_read(self, name: str) -> bytes | None:
        try:
            fd = os.open(f"{self._root}/{name}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        keep = False
        try:
            line = os.pread(fd, FIRST_READ, 0)
            line = line if len(line) < FIRST_READ else _read_on(fd, line)
            keep = len(self._kept) < self._keep
            return line
        except OSError:
            return None
        finally:
            if keep:
                self._kept[name] = fd
            else:
                os.close(fd)

    def read_empty(self, name: str) -> bytes:
        """An empty command line is a kernel thread, a zombie, or a process whose first thread has exited while others
        live and hold its memory: only those show it, under task/."""
        if name in self._kernel:
            return b""
        stat = self._stat(int(name))
        if stat is None:
            return b""
        if int(stat[6]) & _PF_KTHREAD:
            self._kernel.add(name)
            return b""
        try:
            threads = os.listdir(f"{self._root}/{name}/task")
        except OSError:
            return b""
        for thread in threads:
            if thread != name:
                with contextlib.suppress(OSError):
                    return Path(f"{self._root}/{name}/task/{thread}/cmdline").read_bytes()[:LOOKED_AT]
        return b""

    def judge(self, line: bytes, matcher: Matcher) -> Judgement | None:
        judgement = matcher.judge(line)
        self._known[line] = judgement
        return judgement

    def known(self) -> dict[bytes, Judgement | None]:
        return self._known

    def _read_fresh(self, name: str) -> bytes:
        fd = os.open(f"{self._root}/{name}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, LOOKED_AT, 0)
        finally:
            os.close(fd)

    def _let_go(self, alive: set[str]) -> None:
        for name in list(self._kept):
            # A descriptor that a left-behind reader still hangs on is its own to close.
            if name not in alive and name not in self._stuck:
                os.close(self._kept.pop(name))
                self._kernel.discard(name)

    # Details of the few that matched.

    def _stat(self, pid: int) -> list[bytes] | None:
        """Fields of /proc/PID/stat from the third on (proc_pid_stat(5)): the name before may hold anything."""
        try:
            fd = os.open(f"{self._root}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.read(fd, 4096).rsplit(b")", 1)[1].split()
        except (OSError, IndexError):
            return None
        finally:
            os.close(fd)

    def _details(self, pid: int) -> Details | None:
        stat = self._stat(pid)
        if stat is None:
            return None
        state, parent, started = stat[0], int(stat[1]), int(stat[19])
        try:
            uid = os.stat(f"{self._root}/{pid}").st_uid
            # A dead first thread shows as Z while the others live and hold the memory.
            zombie = state in b"ZX" and int(stat[17]) <= 1
        except OSError:
            return None
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / self._ticks
        process = Process(
            ProcessId(pid, started), uid, stopped=state == b"T", traced=state == b"t", age_s=max(0.0, age)
        )
        return Details(process, parent, zombie)

    def _unread(self, names: Iterable[str]) -> Iterable[Unread]:
        for name in names:
            if name in self._claimed:
                continue
            found = self._details(int(name))
            if found is not None and not found.zombie:
                ours = found.process.uid == os.getuid()
                yield Unread(found.process.id, {RAM: self._resident(name)}, could_be_ours=ours)

    def _resident(self, name: str) -> int:
        try:
            fields = Path(f"{self._root}/{name}/statm").read_bytes().split()
            return int(fields[1]) * self._page
        except (OSError, IndexError, ValueError):
            return 0


class _Sweep:
    """One pass over `names`; written by the reading thread, watched by the one that asked."""

    __slots__ = ("_matcher", "_names", "_table", "abandoned", "at", "done", "finished", "hits", "problem")

    def __init__(self, table: LinuxTable, names: list[str], matcher: Matcher) -> None:
        self._table = table
        self._names = names
        self._matcher = matcher
        self.at = 0
        self.hits: list[Hit] = []
        self.abandoned = False
        self.finished = False
        self.problem: BaseException | None = None
        self.done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            self._run()
        except BaseException as problem:  # handed to the thread that asked, which raises it
            self.problem = problem
        self.finished = True
        self.done.put(None)

    def _run(self) -> None:
        table, matcher, hits = self._table, self._matcher, self.hits
        read, known = table.read, table.known()
        for at, name in enumerate(self._names):
            self.at = at
            line = read(name)
            if self.abandoned:
                return
            if line is None:
                continue
            if not line:
                line = table.read_empty(name)
                if not line:
                    continue
            judgement = known[line] if line in known else table.judge(line, matcher)
            if judgement is not None:
                hits.append(Hit(int(name), judgement, line))

    def wait(self, reader: _ReaderThread, give_up: float) -> int | None:
        """Wait for the end; the index of the process that the thread hangs on, where it hangs."""
        before = -1
        while True:
            try:
                self.done.get(timeout=STALL_SLICE_S)
            except queue.Empty:
                at = self.at
                if (at == before and reader.hangs()) or time.monotonic() > give_up:
                    self.abandoned = True
                    return at
                before = at
                continue
            if self.problem is not None:
                raise self.problem
            return None


class _ReaderThread:
    """The thread that reads. It ends when it is given None."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Sweep | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="admit-read", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (sweep := self.jobs.get()) is not None:
            sweep.run()

    def hangs(self) -> bool:
        """Whether it sleeps uninterruptibly in the kernel, rather than waiting for a processor."""
        try:
            stat = Path(f"/proc/self/task/{self._thread.native_id}/stat").read_bytes()
        except OSError:
            return False
        return stat.rsplit(b")", 1)[1].split()[0] == b"D"


def _read_on(fd: int, line: bytes) -> bytes:
    return line + os.pread(fd, LOOKED_AT - len(line), len(line))
