"""journal: the only file that writes the event log; survives a panic.

JSON lines in the user's state folder. Each entry is written in one piece and is on the disk before `write` returns,
so that a power cut loses at most the last line; a torn line is passed over by readers, and the next entry begins on a
line of its own. Several processes write at once: flock on a file beside it keeps ids and rotation in order.

Remembering never stands in the way of acting: `write` raises nothing, and waits for a disk that hangs no longer than
PATIENCE_S; its own thread goes on waiting.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from admitd import __version__, trail
from admitd.boot import boot_id, since_boot_s
from admitd.core.events import FORMAT, Entry, Event, entry_json

NAME: Final = "journal.jsonl"
PATIENCE_S: Final = 1.0
"""How long a write is waited for. A disk takes milliseconds; one that takes longer must not hold up an admission."""
LOCK_WAIT_S: Final = 30.0
QUEUE_MAX: Final = 1_000
_LOOK_BACK: Final = 8 * 1024

Record = Callable[[Event], None]
"""What is handed to those who have something to remember."""


def forget(event: Event) -> None:
    """The Record of those who have no journal."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    event: Event
    at: float
    since_boot_s: float
    done: threading.Event = field(default_factory=threading.Event)


class Journal:
    """One journal. `complain` is told once when writing begins to fail, and once more when it works again."""

    def __init__(
        self,
        path: Path,
        *,
        file_max: int = trail.FILE_MAX,
        complain: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        self.path = path
        self.failures = 0
        self._file_max = file_max
        self._complain = complain
        self._last = 0
        self._failing = False
        self._stuck = False
        self._queue: queue.Queue[_Waiting] = queue.Queue(QUEUE_MAX)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._listeners: list[Record] = []

    def write(self, event: Event, at: float | None = None) -> None:
        """Write an entry; it is on the disk when this returns, unless the disk hangs. `at`: seconds since 1970, now if
        left out. Raises nothing."""
        now = time.time()
        waiting = _Waiting(event, now if at is None else at, since_boot_s() + (0.0 if at is None else at - now))
        try:
            self._start()
            self._queue.put_nowait(waiting)
            if not self._stuck and not waiting.done.wait(PATIENCE_S):
                self._stuck = True
                self._say(f"{self.path} is slow to write: entries follow when the disk lets them")
        except (queue.Full, RuntimeError) as problem:  # RuntimeError: no thread can be started
            self._failed(str(problem) or "too many entries wait for the disk")
        for listener in tuple(self._listeners):
            # Whoever listens answers for itself: remembering goes on.
            with contextlib.suppress(Exception):
                listener(event)

    def read(self, *, since: float | None = None, service: str | None = None, limit: int = 100) -> list[Entry]:
        """The last `limit` entries, oldest first. OSError where the journal is there and cannot be read."""
        return trail.read(self.path, since, service, limit)

    def follow(self, after: int | None = None) -> trail.Tail:
        """What is new, whoever writes it; `after` is the last id that was read, None begins now. Raises OSError."""
        return trail.Tail(self.path, after)

    def listen(self, listener: Record) -> Callable[[], None]:
        """Call `listener` after each entry that this process writes, on the thread that does; answers with the end."""
        self._listeners.append(listener)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return end

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="admit-journal", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < QUEUE_MAX:
                    batch.append(self._queue.get_nowait())
            try:
                self._write(batch)
                self._worked()
            except Exception as problem:  # this thread must not end: whoever writes waits for it
                why = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
                self._failed(why, len(batch))
            self._stuck = False
            for waiting in batch:
                waiting.done.set()

    def _write(self, batch: list[_Waiting]) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock():
            for waiting in batch:
                self._append(waiting)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        beside = self.path.with_suffix(".lock")
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            give_up = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise OSError(errno.EAGAIN, f"another process has held {beside} too long") from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(fd)

    def _append(self, waiting: _Waiting) -> None:
        """Append one entry, under the lock."""
        fd = self._open()
        try:
            size = os.fstat(fd).st_size
            end = os.pread(fd, _LOOK_BACK, max(0, size - _LOOK_BACK))
            self._last = max(self._last, self._last_id(end)) if size else max(self._last, self._newest())
            entry = Entry(
                self._last + 1, waiting.at, boot_id(), waiting.since_boot_s, waiting.event, os.getpid(), __version__
            )
            line = (
                json.dumps({"v": FORMAT, **entry_json(entry)}, separators=(",", ":"), allow_nan=False).encode() + b"\n"
            )
            if size and size + len(line) > self._file_max:
                os.close(fd)
                fd = -1
                self._rotate()
                fd = self._open()
                size, end = 0, b""
            torn = size > 0 and not end.endswith(b"\n")
            self._put(fd, b"\n" + line if torn else line, size)
            self._last = entry.id
        finally:
            if fd >= 0:
                os.close(fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(self.path, flags, 0o600)

    def _put(self, fd: int, data: bytes, size: int) -> None:
        written = os.write(fd, data)
        if written != len(data):
            # The disk filled up in the middle: what is there of the line is taken back.
            os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _to_disk(fd)
        if size == 0:
            with contextlib.suppress(OSError):
                _folder_to_disk(self.path.parent)

    def _last_id(self, end: bytes) -> int:
        """The greatest id at the end of the file, a torn line that holds all but its newline included."""
        ids = [entry.id for line in end.split(b"\n") if (entry := trail.parse(line)) is not None]
        return max(ids) if ids else self._newest()

    def _newest(self) -> int:
        newest = next(trail.latest(self.path), None)
        return newest.id if newest is not None else 0

    def _rotate(self) -> None:
        for number in range(trail.KEPT, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                trail.older(self.path, number - 1).replace(trail.older(self.path, number))

    def _failed(self, why: str, entries: int = 1) -> None:
        self.failures += entries
        if not self._failing:
            self._failing = True
            self._say(f"{self.path} cannot be written ({why}): what happens is not remembered until it can be")

    def _worked(self) -> None:
        if self._failing:
            self._failing = False
            self._say(f"{self.path} can be written again; {self.failures} entries were lost so far")

    def _say(self, text: str) -> None:
        with contextlib.suppress(Exception):
            self._complain(f"admit: {text}")


def _to_disk(fd: int) -> None:
    # macOS: fsync leaves it in the drive's cache (fsync(2)), so F_FULLFSYNC, where the file system has it.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, full)
            return
    getattr(os, "fdatasync", os.fsync)(fd)


def _folder_to_disk(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
