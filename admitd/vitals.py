"""vitals: the daemon's sign of life on the disk, and what is found of the last run's: its boot and its last round."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from admitd.boot import boot_id, since_boot_s
from admitd.core import reboot
from admitd.core.events import Entry
from admitd.core.reboot import Alive, Finding, Past

PANICS: Final = Path("/Library/Logs/DiagnosticReports")
_READ_MAX: Final = 256


class Vitals:
    """One daemon's sign of life. It is there from the start to a clean end; a crash leaves it behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def judge(self, history: Sequence[Entry]) -> Finding:
        """What the last run's end was; asked once, before `beat`."""
        past = [Past(e.since_boot_s, e.at, e.boot, e.event.kind, e.event.service) for e in history]
        return reboot.judge(self._found(), boot_id(), past, _panics(), time.time())

    def beat(self) -> None:
        """Say: still alive. A disk that is full is no reason to stop looking."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(fd, f"{boot_id()} {since_boot_s():.3f}\n".encode(), 0)
            finally:
                os.close(fd)

    def end(self) -> None:
        """Take the sign away: this is a clean end."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _found(self) -> Alive | None:
        try:
            with self._path.open("rb") as file:
                boot, _, since = file.read(_READ_MAX).decode("ascii").strip().partition(" ")
                return Alive(boot, float(since), os.fstat(file.fileno()).st_mtime) if boot else None
        except (OSError, ValueError):
            return None


def _panics() -> list[float]:
    """When macOS wrote each of its panic reports, seconds since 1970."""
    found: list[float] = []
    with contextlib.suppress(OSError):
        for path in PANICS.glob("panic-full-*.panic"):
            with contextlib.suppress(OSError):
                found.append(path.stat().st_mtime)
    return found
