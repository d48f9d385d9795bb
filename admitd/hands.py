"""hands: who is unloading which service at this moment, when that was asked for and done last, and when a load of it
was followed until it answered; across processes.

One file for each service beside the reservations, locked while the unload goes on and holding its time; the kernel
lets the lock go when its holder dies. It keeps nobody from unloading: what a user wants goes on at any time. It keeps
the sentinel from recovering what somebody has his hands on, or has unloaded on purpose.

A file is of one boot: its times are of the monotonic clock, and a folder may outlive the boot (macOS's does).
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from admitd.boot import boot_id
from admitd.machinelock import Busy, NotRecorded, take

ON_WAIT_S: Final = 0.1
"""Whoever looks holds the lock for microseconds; whoever holds it longer has his hands on it too."""
_KIND: Final = "hands~"
_BOOT: Final = 8
"""As much of the boot's id as two boots hardly share; a name has a bound."""
_FIELD: Final = 32
_UNLOADED, _ADMITTED, _ANSWERED, _ASKED = (_FIELD * place for place in range(4))


@contextlib.contextmanager
def on(folder: Path, service: str, *, asked: bool = True) -> Iterator[None]:
    """Have one's hands on a service. Where that cannot be written down, the work goes on all the same.

    `asked`: it is asked to stay away. That is noted first: another may have his hands on it, who would load it again.
    """
    if asked:
        _note(folder, service, os.O_CREAT, _ASKED)
    fd = None
    with contextlib.suppress(OSError, Busy, NotRecorded):
        fd = os.open(_path(folder, service), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        take(fd, time.monotonic() + ON_WAIT_S, lambda: Busy(service))
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


def let_go(folder: Path, service: str) -> None:
    """Write down that a service has just been unloaded."""
    _note(folder, service, os.O_CREAT, _UNLOADED)


def admitted(folder: Path, service: str) -> None:
    """Write down that a load was admitted just now: what is there next was no supervisor's doing, and wanted. Only of
    one that was ever unloaded, or is heeded; of others nobody asks."""
    _note(folder, service, 0, _ADMITTED)


def heed(folder: Path, service: str) -> None:
    """Have it written down from now on when a load of a service is admitted."""
    with contextlib.suppress(OSError):
        os.close(os.open(_path(folder, service), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def answered(folder: Path, service: str) -> None:
    """Write down that a load was followed until the service answered its probe, just now."""
    _note(folder, service, os.O_CREAT, _ANSWERED)


def _note(folder: Path, service: str, flags: int, offset: int) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(_path(folder, service), os.O_WRONLY | flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(fd, b"%020.6f" % time.monotonic(), offset)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Hand:
    """`on`: somebody is unloading it now. Times are of the machine's monotonic clock, None for never in this boot."""

    on: bool = False
    unloaded_at: float | None = None
    admitted_at: float | None = None
    answered_at: float | None = None
    asked_at: float | None = None

    @property
    def admitted_since(self) -> bool:
        """Whether a load of it was admitted after it was unloaded."""
        return self.unloaded_at is not None and self.admitted_at is not None and self.admitted_at >= self.unloaded_at

    def was_loaded_since(self, at_s: float) -> bool:
        """Whether a load of it was admitted since, or one that was followed ended in an answer."""
        return any(at is not None and at >= at_s for at in (self.admitted_at, self.answered_at))

    def is_asked_since(self, at_s: float) -> bool:
        """Whether somebody unloads it, or has asked for that since."""
        return self.on or (self.asked_at is not None and self.asked_at >= at_s)

    def is_or_was_on_since(self, at_s: float) -> bool:
        """Whether an unload of it is under way, was asked for since, or has ended since."""
        return self.is_asked_since(at_s) or (self.unloaded_at is not None and self.unloaded_at >= at_s)

    def has_answered(self, ages_s: Iterable[float | None]) -> bool:
        """Whether what is there now, with processes of these ages, answered when a load of it was followed."""
        since_s = math.inf if self.answered_at is None else time.monotonic() - self.answered_at
        return any(age_s is not None and age_s >= since_s for age_s in ages_s)


def is_of_another_boot(name: str) -> bool:
    """Whether a file of this name says nothing any more."""
    parts = name.split("~")  # once they were three, and a daemon of then may still read them
    return name.startswith(_KIND) and len(parts) == 4 and bool(_boot()) and parts[2] not in (_boot(), "")


def seen(folder: Path) -> dict[str, Hand]:
    """Every service that this user ever had his hands on."""
    start = _path(folder, "").name
    try:
        names = [name for name in os.listdir(folder) if name.startswith(start)]
    except OSError:
        return {}
    return {name.removeprefix(start): look(folder, name.removeprefix(start)) for name in names}


def look(folder: Path, service: str) -> Hand:
    """Whose hands are on one service, and since when nobody's."""
    try:
        fd = os.open(_path(folder, service), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return Hand()
    try:
        said = os.read(fd, _FIELD * 4)
        times = (_time(said[at : at + _FIELD]) for at in (_UNLOADED, _ADMITTED, _ANSWERED, _ASKED))
        return Hand(_is_locked(fd), *times)
    except OSError:
        return Hand()
    finally:
        os.close(fd)


def _time(said: bytes) -> float | None:
    try:
        at = float(said.strip(b"\0"))
    except ValueError:
        return None
    return at if at <= time.monotonic() else None


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _path(folder: Path, service: str) -> Path:
    # By user: in a folder that users share, nobody can then hold up another's sentinel.
    return folder / f"{_KIND}{os.getuid()}~{_boot()}~{service}"


def _boot() -> str:
    return boot_id()[:_BOOT]
