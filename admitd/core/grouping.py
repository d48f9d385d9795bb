"""grouping: what is told at once, and what waits to be told together. Functions of `now`; nothing is sent here.

1. Only what is worth knowing is told: warnings and worse.
2. It is told at once, unless a message as bad or worse went out less than WINDOW_S ago (nohang's
   min_post_warning_delay); then it waits, and goes out with all that has come meanwhile.
3. What is the same is told once, with how often it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from admitd.core.events import Event, Severity

WINDOW_S: Final = 60.0
WAITING_MAX: Final = 50
LINES_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Outbox:
    """What waits to be told, and when something was told last, by severity. `left_out`: what there was no room for."""

    waiting: tuple[Event, ...] = ()
    left_out: int = 0
    sent_s: Mapping[Severity, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One message to people, about one event or several."""

    severity: Severity
    title: str
    body: str
    events: tuple[Event, ...]


def is_told(event: Event) -> bool:
    """Whether people are told of it at all. A channel's failure is told by other means: it must not feed itself."""
    return event.severity is not Severity.INFO and event.kind != "channel_failed"


def put(outbox: Outbox, event: Event) -> Outbox:
    """`event` waits to be told."""
    if len(outbox.waiting) >= WAITING_MAX:
        return replace(outbox, left_out=outbox.left_out + 1)
    return replace(outbox, waiting=(*outbox.waiting, event))


def due_at(outbox: Outbox) -> float | None:
    """When what waits is to be sent: minus infinity for at once; None where nothing waits."""
    if not outbox.waiting:
        return None
    worst = _worst(outbox.waiting)
    sent = [at for severity, at in outbox.sent_s.items() if severity.rank >= worst.rank]
    return max(sent) + WINDOW_S if sent else float("-inf")


def take(outbox: Outbox, now: float, host: str) -> tuple[Outbox, Message | None]:
    """The message that is due now, if one is, and the outbox without it."""
    due = due_at(outbox)
    return (outbox, None) if due is None or now < due else take_all(outbox, now, host)


def take_all(outbox: Outbox, now: float, host: str) -> tuple[Outbox, Message | None]:
    """All that waits, as one message, due or not."""
    if not outbox.waiting:
        return outbox, None
    said = message(outbox.waiting, host, outbox.left_out)
    return Outbox(sent_s={**outbox.sent_s, said.severity: now}), said


def message(events: tuple[Event, ...], host: str, left_out: int = 0) -> Message:
    """One message about `events`, of which there is at least one; the worst stands first."""
    counts: dict[tuple[str, str | None], int] = {}
    for event in events:
        counts[(event.text, event.next)] = counts.get((event.text, event.next), 0) + 1
    ordered = sorted(events, key=lambda event: -event.severity.rank)
    lines = []
    for text, command in list(dict.fromkeys((event.text, event.next) for event in ordered))[:LINES_MAX]:
        often = counts[(text, command)]
        lines.append(text + (f" ({often} times)" if often > 1 else ""))
        if command:
            lines.append(f"  {command}")
    more = max(0, len(counts) - LINES_MAX) + left_out
    if more:
        lines.append(f"and {more} more: admit events")
    services = sorted({event.service for event in events if event.service})
    about = ", ".join(services[:3]) + (", ..." if len(services) > 3 else "")
    return Message(_worst(events), f"admit on {host}" + (f": {about}" if about else ""), "\n".join(lines), events)


def _worst(events: tuple[Event, ...]) -> Severity:
    return max((event.severity for event in events), key=lambda severity: severity.rank)
