"""references: which apps use a file of the cache. A reference is a small file that its app holds locked.

The kernel lets a lock go when the process that holds it ends, however it ends. So a reference stands exactly as long as
its process lives: the lock is the process's identity, and unlike a pid and a start time it is also seen from within
other containers. The pid and the app's name are in the file's name, for people. References are taken, looked at and
cleared away under the cache's lock, so that looking never disturbs taking.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import Final

from admit_sdk.cache.folder import Folder
from admit_sdk.cache.terms import Reference

_NAME: Final = re.compile(r"([0-9a-f]{64})~([A-Za-z0-9][A-Za-z0-9._-]{0,62})~(\d{1,10})~[0-9a-f]{16}\Z")


class Held:
    """A file of the cache that stays there for as long as this is held. Thread-safe; given back once, whoever asks.

    Use it as a context manager, or call `release`. One that is merely forgotten is given back when it is collected,
    with a ResourceWarning; one whose process ends, however it ends, is given back by the kernel.
    """

    def __init__(self, folder: Folder, sha256: str, app: str) -> None:
        """Under the cache's lock."""
        self._released = True
        self.sha256 = sha256
        self.path: Path = folder.file(sha256)
        self._folder = folder
        self._once = threading.Lock()
        self._pid = os.getpid()
        self._reference = folder.references / f"{sha256}~{app}~{self._pid}~{secrets.token_hex(8)}"
        self._fd = os.open(self._reference, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._fd)
            self._reference.unlink(missing_ok=True)
            raise
        self._released = False
        folder.used_now(sha256)

    @property
    def size_bytes(self) -> int:
        """How large the file is."""
        return self.path.stat().st_size

    def release(self) -> None:
        """Give it back: from now on the file may go. Calling it again does nothing."""
        with self._once:
            if self._released:
                return
            self._released = True
        # A forked child has a copy of the descriptor: closing that gives nothing back, and the file is its parent's.
        if os.getpid() == self._pid:
            self._folder.used_now(self.sha256)
            with contextlib.suppress(OSError):
                self._reference.unlink(missing_ok=True)
        os.close(self._fd)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def __del__(self) -> None:
        if not self._released:
            if os.getpid() == self._pid:
                warnings.warn(f"{self.path} was never released", ResourceWarning, stacklevel=2, source=self)
            self.release()

    def __repr__(self) -> str:
        return f"Held({str(self.path)!r}{', released' if self._released else ''})"


def living(folder: Folder) -> dict[str, tuple[Reference, ...]]:
    """Under the cache's lock: the references that stand, by hash. Those whose process has ended are cleared away; their
    file counts as used until now, because nobody knows when it ended."""
    found: dict[str, tuple[Reference, ...]] = {}
    for entry in sorted(os.listdir(folder.references)):
        matched = _NAME.match(entry)
        if matched is None:
            continue
        path = folder.references / entry
        since = _since(path)
        if since is not None:
            reference = Reference(matched[2], int(matched[3]), since)
            found[matched[1]] = (*found.get(matched[1], ()), reference)
        else:
            path.unlink(missing_ok=True)
            folder.used_now(matched[1])
    return found


def _since(path: Path) -> float | None:
    """Since when a reference stands; None where its process has ended."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.fstat(fd).st_mtime
    else:
        return None
    finally:
        os.close(fd)
