"""shared: what processes hold together when they share pages: the dear reading, kept where it can't delay a look.

PSS (smaps_rollup) takes the lock of the owner's memory map and walks its page tables: 5 to 17 ms a GiB, and hundreds of
ms where the owner holds the lock (a model server that loads with mlock does). So a thread reads it; who asks waits a
little, and what comes late is there for the next look.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from admitd.core.terms import ProcessId

PATIENCE_S: Final = 0.05
"""How long one look waits; a set of processes that made one look wait makes no other wait while it is being read."""

FRESH_S: Final = 10.0
SHARE: Final = 0.01
"""A result is fresh for ten seconds, or so long that reading takes at most this share of the owner's time."""

STALE_S: Final = 60.0
"""How much longer it may stand in for one that is late."""

AT_ONCE: Final = 4
"""Threads that may hang at once: one that waits for a map lock can't be called back."""

Processes = frozenset[ProcessId]


@dataclass(slots=True)
class _Result:
    held: int | None
    most: int
    at: float
    fresh_s: float


@dataclass(slots=True)
class _Errand:
    """One reading under way."""

    folders: Mapping[ProcessId, str]
    most: int
    done: threading.Event = field(default_factory=threading.Event)


class SharedPages:
    """PSS by set of processes."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._known: dict[Processes, _Result] = {}
        self._errands: dict[Processes, _Errand] = {}

    def held_by(self, folders: Mapping[ProcessId, str], most: int) -> int | None:
        """Bytes that the processes of these /proc folders hold together, of RAM and swap; None where unreadable.

        `most` is the sum with shared pages counted in each; what it grew by since a result was read is added to that
        result. What was shared then and is no longer (a copy on write) shows with the next one only.
        """
        processes = frozenset(folders)
        now = time.monotonic()
        with self._lock:
            known = self._known.get(processes)
            if known is not None and now - known.at < known.fresh_s:
                return _grown(known, most)
            errand = self._errands.get(processes)
            new = errand is None
            if errand is None and len(self._errands) < AT_ONCE:
                errand = self._errands[processes] = _Errand(folders, most)
        if errand is not None and new:
            self._start(processes, errand)
            errand.done.wait(self._patience_s)
        with self._lock:
            known = self._known.get(processes)
        if known is None or now - known.at > known.fresh_s + STALE_S:
            return None
        return _grown(known, most)

    def _start(self, processes: Processes, errand: _Errand) -> None:
        try:
            threading.Thread(target=self._run, args=(processes, errand), name="admit-pss", daemon=True).start()
        except RuntimeError:  # no room for another thread: nothing is read now, and the next look tries again
            with self._lock:
                del self._errands[processes]
            errand.done.set()

    def _run(self, processes: Processes, errand: _Errand) -> None:
        held: int | None = None
        began = time.monotonic()
        try:
            held = sum(_proportional(folder) for folder in errand.folders.values())
        except (OSError, ValueError):
            pass  # another user's process, mostly: held stays None, unreadable, and is remembered as that
        finally:
            now = time.monotonic()
            fresh_s = max(FRESH_S, (now - began) / SHARE)
            with self._lock:
                self._known = {each: result for each, result in self._known.items() if not _is_over(result, now)}
                self._known[processes] = _Result(held, errand.most, now, fresh_s)
                del self._errands[processes]
            errand.done.set()


def _grown(result: _Result, most: int) -> int | None:
    return None if result.held is None else min(most, result.held + max(0, most - result.most))


def _is_over(result: _Result, now: float) -> bool:
    return now - result.at > result.fresh_s + STALE_S


def _proportional(folder: str) -> int:
    """Bytes: Pss and SwapPss of one process, 0 for one that has gone. OSError where it may not be read."""
    try:
        fd = os.open(f"{folder}/smaps_rollup", os.O_RDONLY)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    try:
        text = os.read(fd, 8192)
    except ProcessLookupError:
        return 0
    finally:
        os.close(fd)
    kib = 0
    for line in text.splitlines():
        if line.startswith((b"Pss:", b"SwapPss:")):
            kib += int(line.split()[1])
    return kib * 1024
