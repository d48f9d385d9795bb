"""machinelock: the one lock of the machine: flock on one file, which the kernel lets go when its holder dies.

It is held for one decision only, and never while a command runs. The file also carries a mark that is new after each
reservation, so that who looked twice can tell whether any was made in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

LOCK_WAIT_S: Final = 5.0
"""A decision takes milliseconds and is bounded by two seconds; whoever holds the lock longer is stuck or hostile."""
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MARK_BYTES: Final = 32


class NotRecorded(Exception):
    """The record could not be written; so nothing may be admitted. The text says why."""


class Busy(Exception):
    """The machine-wide lock could not be had in time."""


class MachineLock:
    """The lock at `path`. `prepare` makes its folder, or raises NotRecorded."""

    def __init__(self, path: Path, prepare: Callable[[], None]) -> None:
        self._path = path
        self._prepare = prepare

    @contextlib.contextmanager
    def hold(self, wait_s: float = LOCK_WAIT_S) -> Iterator[int]:
        """Hold the lock; yields its descriptor. Raises Busy or NotRecorded."""
        give_up = time.monotonic() + wait_s
        while True:
            fd = self._open()
            try:
                take(fd, give_up, lambda: self._busy(wait_s))
                if not self.is_current(fd):
                    if time.monotonic() > give_up:
                        raise self._busy(wait_s)
                    continue
                try:
                    yield fd
                finally:
                    # Not by closing alone: a child that is being forked at this moment has a copy until its exec.
                    fcntl.flock(fd, fcntl.LOCK_UN)
                return
            finally:
                os.close(fd)

    def is_current(self, fd: int) -> bool:
        """Whether the locked file is still the one that others would lock: a cleaner may have removed it."""
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self._path))
        except OSError:
            return False

    def mark(self) -> bytes:
        """The mark as it is now. Raises NotRecorded where it cannot be read: nothing could be told from it."""
        try:
            fd = os.open(self._path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return b""
        except OSError as problem:
            raise NotRecorded(f"{self._path} cannot be opened: {problem.strerror}") from problem
        try:
            return os.read(fd, _MARK_BYTES)
        except OSError as problem:
            raise NotRecorded(f"{self._path} cannot be read: {problem.strerror}") from problem
        finally:
            os.close(fd)

    def renew_mark(self, fd: int) -> None:
        """Under the lock: a mark that never was before. Not a count: the file may be removed, and begin anew."""
        mark = secrets.token_hex(_MARK_BYTES // 2).encode()
        try:
            if os.pwrite(fd, mark, 0) != len(mark):
                raise NotRecorded(f"{self._path} cannot be written: no room")
        except OSError as problem:
            raise NotRecorded(f"{self._path} cannot be written: {problem.strerror}") from problem

    def _open(self) -> int:
        try:
            # Without O_CREAT: fs.protected_regular denies that on another user's file in a sticky folder.
            while True:
                try:
                    fd = os.open(self._path, os.O_RDWR | _FLAGS)
                except FileNotFoundError:
                    self._prepare()
                    self._make()
                    continue
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    return fd
                os.close(fd)
                raise NotRecorded(f"{self._path} is not a plain file; remove it")
        except OSError as problem:
            raise NotRecorded(f"{self._path} cannot be opened: {problem.strerror}") from problem

    def _make(self) -> None:
        """Make it whole, for every user of this machine, and only then give it its name: a crash leaves no half."""
        making = self._path.with_name(f".lock-{secrets.token_hex(8)}")
        fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
        try:
            os.fchmod(fd, 0o666)
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.link(making, self._path)
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(making)

    def _busy(self, wait_s: float) -> Busy:
        holders = _holders(self._path)
        who = f"process {holders[0]} holds" if holders else "other decisions hold"
        look = f"ps -o pid,stat,command -p {holders[0]}" if holders else f"lsof {self._path}"
        return Busy(f"{who} {self._path}, and it could not be had within {wait_s:g} s; see: {look}")


def take(fd: int, give_up: float, late: Callable[[], Exception]) -> None:
    """Take flock on `fd` alone. Raises what `late` makes after `give_up`, and NotRecorded where it can't be locked."""
    pause = 0.0005
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise late() from None
        except OSError as problem:
            raise NotRecorded(f"the record cannot be locked: {problem.strerror}") from problem
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def _holders(path: Path) -> list[int]:
    """Which processes hold the lock, as /proc/locks says (proc_locks(5)); where there is none, nobody is named."""
    try:
        found = os.stat(path)
        file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        rows = [row.split() for row in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
        return [int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == file]
    except (OSError, ValueError, IndexError):
        return []
