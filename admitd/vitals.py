"""vitals: the daemon's sign of life on the disk, what is found of the last run's: its boot and its last round; and whom
no daemon of this boot loads again by itself, because the machine went down with it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from admitd.boot import boot_id, since_boot_s
from admitd.core import reboot
from admitd.core.events import Entry
from admitd.core.reboot import Alive, Finding, Past

PANICS: Final = Path("/Library/Logs/DiagnosticReports")
_READ_MAX: Final = 65_536


class Vitals:
    """One daemon's sign of life. It is there from the start to a clean end; a crash leaves it behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held_path = path.with_suffix(".held")

    def judge(self, history: Sequence[Entry]) -> Finding:
        """What the last run's end was; asked once, before `beat`. Whom an earlier daemon of this boot held back is held
        back still."""
        past = [Past(e.since_boot_s, e.at, e.boot, e.event.kind, e.event.service) for e in history]
        found = reboot.judge(self._found(), boot_id(), past, _panics(), time.time())
        since_s, names = self._held()
        held = found.held_back | names
        since_s = time.monotonic() if found.held_back else since_s
        self.hold_back(held, since_s)
        return replace(found, held_back=held, held_since_s=since_s)

    def hold_back(self, names: Iterable[str], since_s: float) -> None:
        """Write down whom the next daemon of this boot must not load by itself either, and since when."""
        with contextlib.suppress(OSError):
            if names := sorted(names):
                _write(self._held_path, f"{boot_id()} {since_s:.6f} {' '.join(names)}\n", os.O_TRUNC)
            else:
                self._held_path.unlink()

    def beat(self) -> None:
        """Say: still alive. A disk that is full is no reason to stop looking."""
        with contextlib.suppress(OSError):
            _write(self._path, f"{boot_id()} {since_boot_s():.3f}\n")

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

    def _held(self) -> tuple[float, frozenset[str]]:
        try:
            with self._held_path.open("rb") as file:
                boot, since, *names = file.read(_READ_MAX).decode("ascii").split()
            if boot == boot_id() and float(since) <= time.monotonic():
                return float(since), frozenset(names)
        except (OSError, ValueError):
            pass
        return 0.0, frozenset()


def _write(path: Path, text: str, flags: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        os.pwrite(fd, text.encode(), 0)
    finally:
        os.close(fd)


def _panics() -> list[float]:
    """When macOS wrote each of its panic reports, seconds since 1970."""
    found: list[float] = []
    with contextlib.suppress(OSError):
        for path in PANICS.glob("panic-full-*.panic"):
            with contextlib.suppress(OSError):
                found.append(path.stat().st_mtime)
    return found
