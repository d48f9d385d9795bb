"""acts: what the sentinel's rules may ask for: a closed set. They only ask; who acts looks again first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from admitd.core.events import Event
from admitd.core.terms import Amounts, Process
from admitd.core.units import to_mb


@dataclass(frozen=True, slots=True)
class Wake:
    """SIGCONT to one process. `name`: how people call it; `claim`: the name by which it is looked at again."""

    process: Process
    name: str
    claim: str
    stopped_for_s: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask one service whether it answers."""

    service: str


@dataclass(frozen=True, slots=True)
class Recover:
    """Unload one service and load it again, through admission. `attempt`: the first of the last hour is 1."""

    service: str
    why: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Close:
    """SIGTERM, `grace_s` to save, then SIGKILL."""

    service: str
    why: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload one service that is idle. `kind`: the event that says so, `evicted` or `idle_unloaded`."""

    service: str
    why: str
    kind: str = "evicted"


@dataclass(frozen=True, slots=True)
class Tell:
    """Write it down, and tell people."""

    event: Event


Act = Wake | Probe | Recover | Close | Evict | Tell

LONG_S: Final = 90.0


def ago(seconds: float) -> str:
    """A length of time as people say it: 0.4 -> "under a second", 8.2 -> "8 s", 600 -> "10 min"."""
    if seconds < 1:
        return "under a second"
    return f"{seconds:.0f} s" if seconds < LONG_S else f"{seconds / 60:.0f} min"


def mb(amounts: Amounts | None) -> int | None:
    """Whole MB of RAM, for an event's numbers."""
    return None if amounts is None else to_mb(amounts.get("ram", 0))
