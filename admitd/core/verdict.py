"""verdict: the closed set of answers to one request."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from admitd.core.terms import Amounts, Reservation, State


class Reason(StrEnum):
    """Why not. The words are stable: programs compare them."""

    UNSEEN = "unseen"
    LOADING = "loading"
    TOO_LARGE = "too-large"
    EXCLUSIVE = "exclusive"
    NO_HEADROOM = "no-headroom"
    QUEUED = "queued"
    PRESSURE = "pressure"
    NO_AVAILABLE_MEMORY = "no-available-memory"
    BUSY = "busy"
    NOT_RECORDED = "not-recorded"


@dataclass(frozen=True, slots=True)
class Unload:
    """The remedy that makes room: unload these, in this order."""

    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """The remedy where time alone helps: ask again, in the queue. `by_hand`: it has no load_cmd, so that whoever waits
    has to start it himself."""

    service: str
    for_s: float
    by_hand: bool = False


Remedy = Unload | Wait


@dataclass(frozen=True, slots=True)
class Blocker:
    """Someone whose charge or exclusion stands in the way, and what would end that."""

    label: str
    state: str
    charge: Amounts
    why: str
    remedy: Remedy | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """It fits. `free` is what was free to it, its own charge aside, also where it is asked for once more.
    `reservation` is None for a dry run, and until the gate has written it down."""

    service: str
    budget: Amounts
    free: Amounts
    reservation: Reservation | None = None


@dataclass(frozen=True, slots=True)
class AlreadyLoaded:
    """It is there already. `mention_only`: what was seen merely names it in an argument. `has_probe`: whether it
    answers is another question, which nobody has asked here."""

    service: str
    budget: Amounts
    free: Amounts
    state: State
    mention_only: bool = False
    has_probe: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Not this one, not now: why, who stands in the way, and the command that makes room (None: nothing would)."""

    service: str
    reason: Reason
    message: str
    budget: Amounts
    free: Amounts
    shortfall: Amounts = field(default_factory=dict)
    blockers: tuple[Blocker, ...] = ()
    victims: tuple[str, ...] = ()
    remedy: Remedy | None = None
    retry_after_s: float | None = None
    queue_position: int | None = None


Verdict = Admitted | AlreadyLoaded | Refused
