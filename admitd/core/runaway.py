"""runaway: a service that holds more than it said. Above its budget that is told, above its hard limit it is closed.

1. Above the budget: told once; below UNDER of it again: told once.
2. Above hard_limit: closed at once, however it came there; if it is still there after PATIENCE_S, closed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from admitd.core import headroom
from admitd.core.acts import Act, Close, Tell, mb
from admitd.core.events import Event, Severity
from admitd.core.ledger import Account
from admitd.core.terms import Amounts, Service

UNDER: Final = 0.95
"""It is back only below this share of its budget, so that one that sways around it is not told of each time."""
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Which services were told to be above their budget, and when each was last asked to close."""

    over: frozenset[str] = frozenset()
    closing: Mapping[str, float] = field(default_factory=dict)


def step(memory: Memory, now: float, accounts: Iterable[Account], grace_s: float) -> tuple[Memory, tuple[Act, ...]]:
    """What to do about loaded services, by what they were measured to hold in this look."""
    over: set[str] = set()
    closing: dict[str, float] = {}
    acts: list[Act] = []
    for account in accounts:
        service, measured = account.service, account.measured
        if not account.state.is_loaded or measured is None:
            continue
        if is_over(measured, service.hard_limit):
            asked = memory.closing.get(service.name)
            if asked is None or now - asked > PATIENCE_S + grace_s:
                acts.append(Close(service.name, limit_text(service, measured), grace_s))
                asked = now
            closing[service.name] = asked
        was_over = service.name in memory.over
        if is_over(measured, service.budget) or (was_over and not _is_well_under(measured, service.budget)):
            over.add(service.name)
        if (service.name in over) is not was_over:
            acts.append(_tell(service, measured, over=not was_over))
    return Memory(frozenset(over), closing), tuple(acts)


def is_over(measured: Amounts, limit: Amounts | None) -> bool:
    """Whether it holds more than the limit, where there is one. A resource without a limit is not limited."""
    if limit is None:
        return False
    return bool(headroom.missing({r: a for r, a in measured.items() if r in limit}, limit))


def limit_text(service: Service, measured: Amounts) -> str:
    """Why it is closed, as it is told."""
    return f"it held {mb(measured)} MB, above its hard_limit_mb of {mb(service.hard_limit)}"


def _is_well_under(measured: Amounts, budget: Amounts) -> bool:
    return headroom.fits(measured, {resource: int(amount * UNDER) for resource, amount in budget.items()})


def _tell(service: Service, measured: Amounts, *, over: bool) -> Tell:
    numbers = {"measured_mb": mb(measured), "budget_mb": mb(service.budget), "hard_limit_mb": mb(service.hard_limit)}
    if not over:
        text = f"{service.name} holds {mb(measured)} MB and is within its budget of {mb(service.budget)} MB again."
        return Tell(Event("under_budget", text, Severity.INFO, service.name, None, numbers))
    text = (
        f"{service.name} holds {mb(measured)} MB, more than its budget of {mb(service.budget)} MB. "
        "It is charged what it holds; a budget that is measured at the peak would say so beforehand."
    )
    return Tell(Event("over_budget", text, Severity.WARNING, service.name, f"admit measure {service.name}", numbers))
