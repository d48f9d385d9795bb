"""trail: reads the journal: backwards, for what happened last; and again and again, for what is new.

Reading takes no lock, and is bounded whatever the files hold: a line that is no entry is passed over, a line without
an end is not read yet, and no more is read than the journal may be long.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from admitd.boot import boot_id, since_boot_s
from admitd.core.events import Entry, entry_from_json

FILE_MAX: Final = 10 * 1024 * 1024
KEPT: Final = 5
LINE_MAX: Final = 1024 * 1024
BATCH: Final = 500
_BLOCK: Final = 64 * 1024
_READ_MAX: Final = (KEPT + 2) * FILE_MAX
_OLDER_IN_A_ROW: Final = 200
"""Entries of earlier boots carry times that a wrong clock may have given: only so many older ones end the search."""


def older(path: Path, number: int) -> Path:
    """The file that `path` was, `number` rotations ago."""
    return path.with_name(f"{path.name}.{number}") if number else path


def parse(line: bytes) -> Entry | None:
    """The entry that a line holds, if any."""
    try:
        return entry_from_json(json.loads(line))
    except (ValueError, RecursionError):
        return None


def latest(path: Path) -> Iterator[Entry]:
    """Every entry that can be read, the last first. OSError where a file is there and cannot be read."""
    left = _READ_MAX
    with ExitStack() as opened:
        # All are opened before any is read: a rotation meanwhile changes their names and nothing else.
        files = [fd for number in range(KEPT + 1) if (fd := _open(older(path, number), opened)) is not None]
        seen: set[tuple[int, int]] = set()
        for fd in files:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            size = min(found.st_size, left)
            left -= size
            for line in lines_backwards(fd, found.st_size, size):
                entry = parse(line)
                if entry is not None:
                    yield entry


def lines_backwards(fd: int, end: int, most_bytes: int) -> Iterator[bytes]:
    """The lines that end before `end`, the last first; what stands after the last newline is no line yet."""
    tail: bytes | None = None  # None: no newline has been met, or the line is longer than any entry
    at, stop = end, end - most_bytes
    while at > stop:
        step = min(_BLOCK, at - stop)
        at -= step
        head, *ended = os.pread(fd, step, at).split(b"\n")
        if not ended:
            tail = head + tail if tail is not None and len(tail) < LINE_MAX else None
            continue
        if tail is not None:
            yield ended[-1] + tail
        yield from reversed(ended[:-1])
        tail = head
    if tail and at == 0:
        yield tail


def _open(path: Path, opened: ExitStack) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):  # a home such as /dev/null holds nothing
        return None
    opened.callback(os.close, fd)
    return fd if stat.S_ISREG(os.fstat(fd).st_mode) else None


def read(path: Path, since: float | None, service: str | None, limit: int) -> list[Entry]:
    """The last `limit` entries, oldest first, of `service` if named, not older than `since` (seconds since 1970).

    How old an entry of this boot is, the clock that does not jump says.
    """
    out: list[Entry] = []
    before = 0
    offset = time.time() - since_boot_s()
    for entry in latest(path) if limit > 0 else ():
        if since is not None and _when(entry, offset) < since:
            before += 1
            if before >= _OLDER_IN_A_ROW:
                break
            continue
        before = 0
        if service is None or entry.event.service == service:
            out.append(entry)
            if len(out) >= limit:
                break
    out.reverse()
    return out


def _when(entry: Entry, offset: float) -> float:
    """When it was, by today's word of the wall clock."""
    return entry.since_boot_s + offset if entry.boot and entry.boot == boot_id() else entry.at


class Tail:
    """What is new in a journal, whoever writes it. The files are the queue: a slow reader costs nobody memory."""

    def __init__(self, path: Path, after: int | None = None) -> None:
        """`after`: the last id that was read; None begins with what comes from now on. `last` is that id."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        if after is None:
            self._seen = self._look()
            after = next((entry.id for entry in latest(path)), 0)
        self.last = after

    def more(self) -> list[Entry]:
        """Entries that were not read yet, oldest first, BATCH at most; empty at the cost of one stat."""
        look = self._look()
        if look == self._seen:
            return []
        newest = next(latest(self._path), None)
        last = self.last
        if newest is not None and newest.id < last:
            last = 0  # somebody removed the journal, and it began anew
        batch: deque[Entry] = deque(maxlen=BATCH)
        for entry in latest(self._path):
            if entry.id <= last:
                break
            batch.append(entry)
        self._seen = look if len(batch) < BATCH else None
        self.last = batch[0].id if batch else last  # the newest of those that are handed out
        return list(reversed(batch))

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size
