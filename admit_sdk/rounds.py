"""rounds: a plain thread that does one thing again and again, and never keeps anything alive: neither the interpreter
nor the object that it works for.

Who works for too long is the round's own affair: a round under way at exit is waited for, but not for a second.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from admit_sdk.told import tell_fault

EXIT_S: Final = 0.5
"""How long the exit of the interpreter waits for all rounds that are under way."""
AFTER_A_FAULT_S: Final = 1.0

_Owner = TypeVar("_Owner")
_running: weakref.WeakSet[Rounds[Any]]


class Rounds(Generic[_Owner]):
    """Calls `turn(owner)` in a daemon thread; it returns the seconds until the next turn, None for "not until rung".

    The owner is held weakly: where nobody else holds it, the thread ends.
    """

    def __init__(self, name: str, owner: _Owner, turn: Callable[[_Owner], float | None]) -> None:
        self._name = name
        self._turn = turn
        # A lock that is taken, and let go to ring: unlike an Event it may be rung from anywhere, a finalizer included.
        self._bell = bell = threading.Lock()
        self._bell.acquire()
        self._stopped = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._owner = weakref.ref(owner, lambda _: _ring(bell))

    def start(self) -> None:
        """Start, where it does not run and was not stopped."""
        if self._thread is not None or self._stopped:
            return
        with self._starting:
            if self._thread is None and not self._stopped:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
                _running.add(self)

    def ring(self) -> None:
        """Have the next turn come at once. Never blocks; safe in a finalizer and in a signal handler."""
        _ring(self._bell)

    def stop(self, wait_s: float = 1.0) -> bool:
        """End after the turn under way, for good; whether it has ended within `wait_s`."""
        self._stopped = True
        self.ring()
        with self._starting:
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(wait_s)
        return not thread.is_alive()

    def after_fork(self) -> None:
        """In a child that was forked: its parent's threads are not here."""
        self._starting = threading.Lock()
        self._thread = None

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped:
            owner = self._owner()
            if owner is None:
                return
            pause_s: float | None
            try:
                pause_s = self._turn(owner)
            except Exception:  # one bad turn is told, and is not the last one
                tell_fault(f"{self._name} goes on after a fault")
                pause_s = AFTER_A_FAULT_S
            del owner
            if not self._stopped:
                self._bell.acquire(timeout=-1 if pause_s is None else pause_s)


def _ring(bell: threading.Lock) -> None:
    try:
        bell.release()
    except RuntimeError:
        return  # rung already


def _stop_all() -> None:
    all_of_them = list(_running)
    for each in all_of_them:
        each.stop(0.0)
    for each in all_of_them:
        each.stop(EXIT_S / len(all_of_them))


_running = weakref.WeakSet()
atexit.register(_stop_all)
