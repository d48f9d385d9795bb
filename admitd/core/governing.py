"""governing: how an app's own memory is judged: the pressure inside it, how often to look, and who goes first.

Pressure is the worse of two signals: the share of the app's limit that is allocated, and what the system says.

Who goes first, in order:
1. one that was not loaded eagerly before one that was;
2. then the one that was used least recently;
3. then the one whose name comes first.
One that is busy never goes, and no one goes who is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from admitd.core import headroom
from admitd.core.terms import RAM, Amounts, Level, ProcessId
from admitd.core.units import free_to_mb, to_mb


class Pressure(IntEnum):
    """How near an app is to its ceiling. HIGH stops eager loads; CRITICAL frees a tenth of what is allocated."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        return self.name.lower()


# Shares of what the app may allocate. Half is the ordinary state of an app that loads lazily; a fifth left is about
# one more model of the usual size; with a twentieth left the next request for a KV cache is refused.
NORMAL_SHARE: Final = 0.50
HIGH_SHARE: Final = 0.80
CRITICAL_SHARE: Final = 0.95
FREED_SHARE: Final = 0.10
"""What CRITICAL frees, of what is allocated."""

MARGIN_SHARE: Final = 0.05
KEPT_SHARE: Final = 0.25
"""What apps leave to the system and to everything else, of the machine's memory."""

SHORTEST_S: Final = 0.1
LONGEST_S: Final = 5.0


def pressure_of(allocated: int, whole: int, soft: int, level: Level | None) -> Pressure:
    """The pressure where `allocated` of `whole` bytes is taken, HIGH from `soft` bytes on at the latest.

    `level`: the system's own; None where it does not say.
    """
    if level is Level.CRITICAL or allocated >= CRITICAL_SHARE * whole:
        return Pressure.CRITICAL
    if level is Level.WARN or allocated >= min(soft, HIGH_SHARE * whole):
        return Pressure.HIGH
    return Pressure.NORMAL if allocated >= min(soft, NORMAL_SHARE * whole) else Pressure.LOW


def settled(before: Pressure, allocated: int, whole: int, soft: int, level: Level | None) -> Pressure:
    """The pressure to tell: it rises at once, and falls only when a twentieth of the whole less would do, too, so that
    an app at the edge does not hear of it at every look."""
    now = pressure_of(allocated, whole, soft, level)
    return now if now >= before else min(before, pressure_of(allocated + int(MARGIN_SHARE * whole), whole, soft, level))


def alarm(now: Pressure, whole: int, soft: int) -> int:
    """With less than so many bytes free the pressure is a worse one than `now`; -1: there is no worse one."""
    shares = {Pressure.LOW: NORMAL_SHARE, Pressure.NORMAL: HIGH_SHARE, Pressure.HIGH: CRITICAL_SHARE}
    share = shares.get(now)
    if share is None:
        return -1
    begins = share * whole if now is Pressure.HIGH else min(soft, share * whole)
    return whole - math.ceil(begins) + 1


def interval_s(headroom_share: float) -> float:
    """Seconds until the next look: five while half is free, and shorter as less is, down to a tenth of a second.

    earlyoom does the same (its sleep is computed from how long the rest could last at best).
    """
    return min(LONGEST_S, max(SHORTEST_S, 2 * LONGEST_S * headroom_share))


@dataclass(frozen=True, slots=True)
class App:
    """A running app that governs its own memory, by its word: what it means to stay under, and what it holds now."""

    process: ProcessId
    name: str
    budget: Amounts
    held: Amounts = field(default_factory=dict)


def crowded(apps: Sequence[App], physical: Amounts) -> str | None:
    """A warning where the budgets of all running apps are more than three quarters of the machine's memory.

    It names each of them with its figures, the largest first; None where they are less. It refuses nothing.
    """
    budgets = headroom.total(app.budget for app in apps)
    room = {resource: int(amount * (1 - KEPT_SHARE)) for resource, amount in physical.items()}
    if headroom.fits(budgets, room):
        return None
    named = [
        f"{app.name} (pid {app.process.pid}) {to_mb(app.budget.get(RAM, 0)):,} MB, "
        f"of which it holds {to_mb(app.held.get(RAM, 0)):,}"
        for app in sorted(apps, key=lambda app: (-app.budget.get(RAM, 0), app.name, app.process.pid))
    ]
    return (
        f"the running apps may take {to_mb(budgets.get(RAM, 0)):,} MB together, and {free_to_mb(room.get(RAM, 0)):,} "
        f"of {to_mb(physical.get(RAM, 0)):,} MB are for apps (all less 25 %): {'; '.join(named)}. "
        "Close one of them, or give one a smaller budget."
    )


@dataclass(frozen=True, slots=True)
class Idle:
    """One that could go. `index` is its place in whatever it was made from; `last_used_s` is of any one clock."""

    index: int
    name: str
    size: int
    last_used_s: float
    eager: bool = False
    busy: bool = False

    @property
    def leaves_before(self) -> tuple[bool, float, str]:
        return (self.eager, self.last_used_s, self.name)


def choose(idle: Iterable[Idle], needed: int) -> tuple[Idle, ...] | None:
    """Who would have to go, in order, for `needed` bytes; None where all of them together do not hold so much."""
    chosen: list[Idle] = []
    short = needed
    for each in sorted((one for one in idle if not one.busy and one.size > 0), key=lambda one: one.leaves_before):
        if short <= 0:
            break
        chosen.append(each)
        short -= each.size
    if short > 0:
        return None
    # Taken until it fits; then given back who was not needed, those who would leave last first.
    for each in reversed(chosen[:]):
        if short + each.size <= 0:
            chosen.remove(each)
            short += each.size
    return tuple(chosen)
