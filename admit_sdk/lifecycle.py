"""lifecycle: what a worker can be, and what may happen to it then: one table, and nothing that is not in it.

A worker is one copy of one model and the thread that runs it. It holds its guard in every state but the last two.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """What a worker is."""

    SPAWNING = "spawning"
    """Its memory is promised; its thread does not run yet."""
    LOADING = "loading"
    READY = "ready"
    """Loaded; nothing was asked of it yet."""
    BUSY = "busy"
    """It answers a request: never evicted."""
    IDLE = "idle"
    """It has answered, and waits."""
    EVICTING = "evicting"
    """It unloads, and takes no more requests."""
    DEAD = "dead"
    """Unloaded; its memory is given back."""
    FAILED = "failed"
    """It could not load, or broke; its memory is given back."""

    @property
    def holds_memory(self) -> bool:
        return self not in (State.DEAD, State.FAILED)

    @property
    def may_be_evicted(self) -> bool:
        return self in (State.READY, State.IDLE)

    @property
    def serves(self) -> bool:
        """It answers requests, or will as soon as it can."""
        return self in (State.SPAWNING, State.LOADING, State.READY, State.BUSY, State.IDLE)


class Happening(StrEnum):
    """What happens to a worker."""

    STARTED = "started"
    LOADED = "loaded"
    TAKES = "takes"
    """It takes a request."""
    ANSWERED = "answered"
    """The request is over, however it ended."""
    EVICTED = "evicted"
    """It is told to unload."""
    GONE = "gone"
    """It has unloaded."""
    BROKE = "broke"


class IllegalStep(RuntimeError):
    """What can't happen to a worker in its state; the state is left as it was."""


_S, _H = State, Happening
STEPS: Final[Mapping[tuple[State, Happening], State]] = {
    (_S.SPAWNING, _H.STARTED): _S.LOADING,
    (_S.SPAWNING, _H.BROKE): _S.FAILED,
    (_S.LOADING, _H.LOADED): _S.READY,
    (_S.LOADING, _H.BROKE): _S.FAILED,
    (_S.READY, _H.TAKES): _S.BUSY,
    (_S.READY, _H.EVICTED): _S.EVICTING,
    (_S.READY, _H.BROKE): _S.FAILED,
    (_S.BUSY, _H.ANSWERED): _S.IDLE,
    (_S.BUSY, _H.BROKE): _S.FAILED,
    (_S.IDLE, _H.TAKES): _S.BUSY,
    (_S.IDLE, _H.EVICTED): _S.EVICTING,
    (_S.IDLE, _H.BROKE): _S.FAILED,
    (_S.EVICTING, _H.GONE): _S.DEAD,
    (_S.EVICTING, _H.BROKE): _S.FAILED,
}


def step(state: State, happening: Happening) -> State:
    """The next state. Raises IllegalStep for what is not in the table."""
    found = STEPS.get((state, happening))
    if found is None:
        raise IllegalStep(f"a worker that is {state} can't be: {happening}")
    return found
