"""holders: who of those that hold something is still alive. The kernel is asked each time, for all at once."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Final

from admitd.core.terms import ProcessId
from admitd.processes import proc

DESCRIPTORS_MAX: Final = 1024


class Holders:
    """Remembers one pidfd a holder, so that a hundred cost one poll. Where pidfds are missing, each is looked at."""

    def __init__(self, identify: Callable[[int], ProcessId | None]) -> None:
        self._identify = identify
        self._fds: dict[ProcessId, int] = {}
        self._lock = threading.Lock()

    def living(self, holders: set[ProcessId]) -> set[ProcessId]:
        """Those of `holders` that live; (pid, start), so that a reused pid is someone else."""
        with self._lock:
            for gone in [holder for holder in self._fds if holder not in holders]:
                os.close(self._fds.pop(gone))
            without = {holder for holder in holders if holder not in self._fds and not self._open(holder)}
            exited = self._exited()
            living = {holder for holder, fd in self._fds.items() if fd not in exited}
        return living | {holder for holder in without if self._identify(holder.pid) == holder}

    def close(self) -> None:
        """Give the descriptors back."""
        with self._lock:
            while self._fds:
                os.close(self._fds.popitem()[1])

    def _exited(self) -> set[int]:
        if not self._fds:
            return set()
        poll = select.poll()
        for fd in self._fds.values():
            poll.register(fd, select.POLLIN)
        return {fd for fd, _ in poll.poll(0)}

    def _open(self, holder: ProcessId) -> bool:
        """Keep a pidfd for `holder`. Opened first and identified after, so that it can't be another's.

        One that is there and hidden (mount option hidepid) is taken for the holder that its record names: at worst its
        pid is another's by now, and the record counts until its deadline.
        """
        if not hasattr(os, "pidfd_open") or len(self._fds) >= DESCRIPTORS_MAX:
            return False
        try:
            fd = os.pidfd_open(holder.pid)
        except (OSError, OverflowError):  # a record may name any number
            return False
        same = False
        try:
            found = self._identify(holder.pid)
            same = found == holder or (found is None and proc.hides_others())
        finally:
            if same:
                self._fds[holder] = fd
            else:
                os.close(fd)
        return same
