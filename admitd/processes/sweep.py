"""sweep: one pass over the command lines of /proc, in a thread that may be left behind.

A command line cannot be read while its owner holds its memory map (a server that mlocks its weights does, for hundreds
of milliseconds), and that read cannot be interrupted. So reading has a thread of its own: when it hangs in the kernel,
it is left behind with that one process, and another goes on with the rest.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Sequence
from typing import Final

from admitd.processes import proc
from admitd.processes.matching import Judgement, Remembered, Role
from admitd.processes.naming import LOOKED_AT
from admitd.processes.table import Hit

FIRST_READ: Final = 4096
"""Nearly every command line fits; a longer one is read on up to LOOKED_AT."""
STALL_SLICE_S: Final = 0.01
"""How often a sweep is looked at. One that hangs in the kernel on the same process is told to stop, and left behind if
it still hangs there a slice later: 30 ms in all."""
_THREADS_ASKED: Final = 8
_NEW: Final = Judgement(Role.FOREIGN, ())
"""Stands for a line that was not judged yet."""
_BLANK_READS: Final = 20
"""How often a blank command line is read again. It is blank for some microseconds in the middle of an exec."""


class Blank(Exception):
    """A live process shows no command line: it is in the middle of an exec, or has none."""


class CommandLines:
    """Reads command lines, through one kept descriptor per process as far as `keep` reaches.

    A kept descriptor of /proc/PID/cmdline shows the new argv after exec and gives ESRCH once the process is reaped, so
    that a reused pid is noticed. Nothing that was read is remembered here.
    """

    def __init__(self, root: str, keep: int) -> None:
        self._root = root
        self._keep = keep
        # Read in the quick loop of Sweep, written here only.
        self.kept_open: dict[str, int] = {}
        self.kernel: set[str] = set()
        self._closed = False

    @property
    def kept(self) -> int:
        """How many descriptors stay open."""
        return len(self.kept_open)

    def names(self) -> list[str]:
        """The processes there are now. Raises OSError, or NoDescriptors."""
        self._closed = False
        return [name for name in proc.listed(self._root) if name < ":"]  # the digits come first in ASCII

    def read(self, name: str) -> bytes | None:
        """A command line, empty for a kernel thread or a zombie; None where the process is gone.

        Raises Blank; OSError where the process is there and cannot be read, NoDescriptors where nothing can.
        """
        fd = self.kept_open.get(name)
        try:
            if fd is not None:
                try:
                    line = os.pread(fd, FIRST_READ, 0)
                    if line:
                        return line if len(line) < FIRST_READ else _read_on(fd, line)
                    return b"" if name in self.kernel else self._other_than_blank(name)
                except ProcessLookupError:
                    self._drop(name)
            return self._open_and_read(name) or self._other_than_blank(name)
        except (ProcessLookupError, FileNotFoundError):
            return None

    def _open_and_read(self, name: str) -> bytes:
        fd = proc.open_to_read(f"{self._root}/{name}/cmdline")
        keep = False
        try:
            line = os.pread(fd, FIRST_READ, 0)
            line = line if len(line) < FIRST_READ else _read_on(fd, line)
            keep = len(self.kept_open) < self._keep and name not in self.kept_open
            return line
        finally:
            if keep:
                self.kept_open[name] = fd
            else:
                os.close(fd)

    def _other_than_blank(self, name: str) -> bytes:
        """A blank line is a kernel thread, a zombie, a process in the middle of an exec, or one whose first thread has
        exited while others live and hold its memory: only those show it, under task/."""
        for _ in range(_BLANK_READS):
            stat = proc.stat(name, self._root)
            if stat is None or stat.zombie:
                return b""
            if stat.kernel_thread:
                if name in self.kept_open:
                    self.kernel.add(name)
                return b""
            if stat.first_thread_dead:
                return self._of_another_thread(name)
            os.sched_yield()
            line = self._open_and_read(name)
            if line:
                return line
        raise Blank

    def _of_another_thread(self, name: str) -> bytes:
        for thread in proc.other_threads(name, self._root)[:_THREADS_ASKED]:
            try:
                fd = proc.open_to_read(f"{self._root}/{name}/task/{thread}/cmdline")
            except OSError:
                continue
            try:
                line = os.pread(fd, LOOKED_AT, 0)
            except OSError:
                continue
            finally:
                os.close(fd)
            if line:
                return line
        return b""

    def let_go(self, names: Sequence[str], held: frozenset[str] = frozenset()) -> None:
        """Close the descriptors of those that are not among `names`, once they are too many. `held` are in use."""
        if self.kept_open and (len(self.kept_open) > len(names) or len(self.kept_open) >= self._keep):
            alive = held.union(names)
            for name in [name for name in self.kept_open if name not in alive]:
                self._drop(name)

    def keep_fewer(self, held: frozenset[str] = frozenset()) -> bool:
        """Close them all and keep at most half as many from now on; whether there were any."""
        closing = [name for name in self.kept_open if name not in held]
        self._keep = min(self._keep, len(self.kept_open)) // 2
        for name in closing:
            self._drop(name)
        return bool(closing)

    def close(self, held: frozenset[str] = frozenset()) -> None:
        """Give the descriptors back. A thread that still hangs on one gives it back itself: see `left`."""
        self._closed = True
        for name in [name for name in self.kept_open if name not in held]:
            self._drop(name)

    def left(self, name: str) -> None:
        """A thread that was left behind with `name` has ended its read."""
        if self._closed:
            self._drop(name)

    def _drop(self, name: str) -> None:
        fd = self.kept_open.pop(name, None)
        if fd is not None:
            os.close(fd)
        self.kernel.discard(name)


class Sweep:
    """One pass over `names`; written by the reading thread, watched by the one that asked.

    `at` is how many of the names were dealt with, and so the index of the one being read. `unreadable` are there and
    would not be read, `blank` showed nothing, `gone` had ended
    (as a kernel thread seems to that is not known for one yet).
    """

    __slots__ = (
        *("_done", "_lines", "_names", "_remembered", "_told_to_stop"),
        *("at", "blank", "finished", "gone", "hits", "unreadable"),
    )

    def __init__(self, lines: CommandLines, names: Sequence[str], remembered: Remembered) -> None:
        self._lines = lines
        self._names = names
        self._remembered = remembered
        self._told_to_stop = False
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.at = 0
        self.finished = False
        self.hits: list[Hit] = []
        self.unreadable: list[str] = []
        self.blank: list[str] = []
        self.gone: list[str] = []

    def run(self) -> None:
        """Read and judge. In the reading thread."""
        problem: BaseException | None = None
        try:
            self._run()
        except BaseException as raised:  # handed to the thread that asked, which raises it
            problem = raised
        self.finished = True
        if self._told_to_stop and self.at:
            self._lines.left(self._names[self.at - 1])
        self._done.put(problem)

    def _run(self) -> None:
        """The quick way for what is nearly always so: a kept descriptor, a short line, judged before."""
        pread, kept, kernel, known = os.pread, self._lines.kept_open, self._lines.kernel, self._remembered.known
        judge, hits = self._remembered.judge, self.hits
        for at, name in enumerate(self._names):
            self.at = at
            if self._told_to_stop:
                return
            try:
                line = pread(kept[name], FIRST_READ, 0)
            except (KeyError, OSError):
                self._read_and_judge(name)
                continue
            if not 0 < len(line) < FIRST_READ:
                if line or name not in kernel:
                    self._read_and_judge(name)
                continue
            judgement = known.get(line, _NEW)
            if judgement is _NEW:
                judgement = judge(line)
            if judgement is not None:
                hits.append(Hit(int(name), judgement, line))
        self.at = len(self._names)

    def _read_and_judge(self, name: str) -> None:
        try:
            line = self._lines.read(name)
        except OSError:
            self.unreadable.append(name)
            return
        except Blank:
            self.blank.append(name)
            return
        if line:
            judgement = self._remembered.judge(line)
            if judgement is not None:
                self.hits.append(Hit(int(name), judgement, line))
        elif name not in self._lines.kernel:
            self.gone.append(name)

    def wait(self, reader: Reader, give_up: float) -> int | None:
        """Wait until it has stopped, at its end or before; or the index of what the thread hangs on and is left with.

        A thread that is left was told to stop a slice before, so that it does nothing more than end its one read.
        """
        before = -1
        try:
            while not self._has_stopped():
                late = time.monotonic() > give_up
                at = self.at
                if late or (at == before and reader.hangs()):
                    if self._told_to_stop:
                        return at
                    self._told_to_stop = True
                before = at
        except BaseException:
            self._told_to_stop = True
            raise
        return None

    def _has_stopped(self) -> bool:
        try:
            problem = self._done.get(timeout=STALL_SLICE_S)
        except queue.Empty:
            return False
        if problem is not None:
            raise problem
        return True


class Reader:
    """The thread that reads. It ends when it is given None."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[Sweep | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="admit-read", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (sweep := self.jobs.get()) is not None:
            sweep.run()

    def hangs(self) -> bool:
        """Whether it sleeps uninterruptibly in the kernel, rather than waiting for a processor."""
        stat = proc.stat(f"self/task/{self._thread.native_id}")
        return stat is not None and stat.state == "D"


def _read_on(fd: int, line: bytes) -> bytes:
    return line + os.pread(fd, LOOKED_AT - len(line), len(line))
