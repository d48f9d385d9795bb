"""hands: who is unloading which service at this moment, and when it was unloaded last; across processes.

One file for each service beside the reservations, locked while the unload goes on and holding its time; the kernel
lets the lock go when its holder dies. It keeps nobody from unloading: what a user wants goes on at any time. It keeps
the sentinel from recovering what somebody has his hands on, or has unloaded on purpose.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_READ_MAX: Final = 64


@contextlib.contextmanager
def on(folder: Path, service: str) -> Iterator[None]:
    """Have one's hands on a service. Where that cannot be written down, the work goes on all the same."""
    fd = None
    with contextlib.suppress(OSError):
        fd = os.open(_path(folder, service), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


def let_go(folder: Path, service: str) -> None:
    """Write down that a service has just been unloaded, by the machine's monotonic clock."""
    with contextlib.suppress(OSError):
        fd = os.open(_path(folder, service), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(fd, b"%020.6f" % time.monotonic(), 0)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Hand:
    """`on`: somebody is unloading it now. `unloaded_at`: when it was last, None where that was never in this boot."""

    on: bool = False
    unloaded_at: float | None = None


def seen(folder: Path) -> dict[str, Hand]:
    """Every service that this user ever had his hands on."""
    start = _path(folder, "").name
    try:
        names = [name for name in os.listdir(folder) if name.startswith(start)]
    except OSError:
        return {}
    return {name.removeprefix(start): look(folder, name.removeprefix(start)) for name in names}


def look(folder: Path, service: str) -> Hand:
    """Whose hands are on one service, and when it was unloaded, by the machine's monotonic clock."""
    try:
        fd = os.open(_path(folder, service), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return Hand()
    try:
        at = float(os.read(fd, _READ_MAX) or b"nan")
        return Hand(_is_locked(fd), at if at <= time.monotonic() else None)
    except (OSError, ValueError):
        return Hand()
    finally:
        os.close(fd)


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _path(folder: Path, service: str) -> Path:
    # By user: in a folder that users share, nobody can then hold up another's sentinel.
    return folder / f".hands-{os.getuid()}-{service}"
