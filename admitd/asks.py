"""asks: one request for admission as it came in and as it is answered, and what can be said of it without looking."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from admitd.core.terms import Capacity, ProcessId, Request, Reservation, Waiter
from admitd.core.verdict import Admitted, Reason, Refused, Verdict


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for admission as it came in. `wait_s`: a refusal puts it in the queue for that long; `waiter`: the
    id of the place that it has there already; `again`: it was refused before, and waits, with a place or without."""

    service: str
    holder: ProcessId | None = None
    dry_run: bool = False
    wait_s: float = 0.0
    arrived_s: float = field(default_factory=time.monotonic)
    waiter: str | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict on one Ask, and its place in the queue where it waits."""

    verdict: Verdict
    waiter: str | None = None


class Unknown(Exception):
    """A service that capacity.yaml does not declare. `near`: names that look alike."""

    def __init__(self, service: str, near: tuple[str, ...]) -> None:
        super().__init__(service)
        self.service = service
        self.near = near


def may_wait(verdict: Verdict) -> bool:
    """Whether another answer may come with time: also where nothing could be seen or written down just now."""
    return isinstance(verdict, Refused) and verdict.reason is not Reason.TOO_LARGE


def request(ask: Ask, capacity: Capacity, waiter: Waiter | None) -> Request:
    """What is to be decided on: one that has a place in the queue came when it took that."""
    arrived = waiter.arrived_s if waiter is not None else ask.arrived_s
    service = capacity.services[ask.service]
    return Request(service, arrived, ask.holder, ask.dry_run, waiter.id if waiter is not None else None)


def waiter_of(ask: Ask, waiters: Sequence[Waiter]) -> Waiter | None:
    """The place in the queue that this ask holds already: by its id, or because its holder waits for this service."""
    for waiter in waiters:
        if waiter.id == ask.waiter:
            return waiter
        if ask.holder is not None and (waiter.holder, waiter.service) == (ask.holder, ask.service):
            return waiter
    return None


def as_written(verdict: Verdict, written: Reservation | Refused | None, dry_run: bool) -> Verdict:
    """An admission as it is told: with the reservation that stands for it now, or refused where none could be made."""
    if not isinstance(verdict, Admitted) or written is None:
        return verdict
    if isinstance(written, Refused):
        return written
    # Also where the same holder asked twice in one look: both are told of the one reservation.
    return verdict if dry_run and verdict.reservation is None else replace(verdict, reservation=written)


def position(waiter: Waiter, others: Iterable[Waiter]) -> int:
    """The how-manieth of those who wait he is."""
    return 1 + sum(other.order < waiter.order for other in others if other.id != waiter.id)


def promised(answers: Sequence[Answer | Unknown]) -> set[str]:
    """The ids of the records that this decision wrote."""
    ids = {a.waiter for a in answers if isinstance(a, Answer) and a.waiter is not None}
    for answer in answers:
        if isinstance(answer, Answer) and isinstance(answer.verdict, Admitted):
            held: Reservation | None = answer.verdict.reservation
            if held is not None:
                ids.add(held.id)
    return ids


def alike(name: str, services: Mapping[str, object]) -> tuple[str, ...]:
    """Names that look like one that is not declared, the nearest first."""
    import difflib

    return tuple(difflib.get_close_matches(name, list(services), n=3))
