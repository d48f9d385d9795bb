"""terms: the nouns that every other file speaks in. Frozen, and valid if they exist."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Final

RAM: Final = "ram"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")

Amounts = Mapping[str, int]
"""Bytes by resource. `ram` is the only one today; a missing resource is zero. Added up in headroom.py only."""

NOTHING: Final[Amounts] = MappingProxyType({})

Command = str | tuple[str, ...]
"""A string is run by `/bin/sh -c`; a tuple is run as it is."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, not a pid: `started` is the system's own token for its start, and never comparable across boots."""

    pid: int
    started: int

    def __post_init__(self) -> None:
        if self.pid <= 0:
            raise ValueError(f"a pid is positive, not {self.pid}")


@dataclass(frozen=True, slots=True)
class Process:
    """What one look saw of one process."""

    id: ProcessId
    uid: int
    stopped: bool = False
    traced: bool = False
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A real request that shows that inference works."""

    url: str
    method: str
    json: object
    expect_status: int
    timeout_s: float
    startup_grace_s: float


@dataclass(frozen=True, slots=True)
class Service:
    """A memory-heavy program as it was declared. `exclusive_with` is symmetric already."""

    name: str
    budget: Amounts
    priority: int = 0
    exclusive_with: frozenset[str] = frozenset()
    process_pattern: str | None = None
    program: str | None = None
    loaded_check_cmd: Command | None = None
    load_cmd: Command | None = None
    unload_cmd: Command | None = None
    load_timeout_s: float = 300.0
    unload_timeout_s: float = 60.0
    pinned: bool = False
    evictable: bool = True
    probe: Probe | None = None
    hard_limit: Amounts | None = None
    recover: bool = True
    idle_unload_s: float | None = None
    eager: bool = False

    def __post_init__(self) -> None:
        if not NAME.match(self.name):
            raise ValueError(f"{self.name!r} is not a service name")
        if any(amount < 0 for amount in self.budget.values()) or not any(self.budget.values()):
            raise ValueError(f"{self.name}: a budget is more than nothing")


@dataclass(frozen=True, slots=True)
class Host:
    """One machine's memory, in bytes by resource: what it has, what is kept for others, the floor."""

    name: str
    physical: Amounts
    reserved: Amounts
    safety: Amounts


class OnPressure(StrEnum):
    """What the sentinel does under critical pressure that lasts."""

    TELL = "tell"
    EVICT = "evict"


@dataclass(frozen=True, slots=True)
class Sentinel:
    """What the sentinel watches, and how often. `safelist` holds service names and patterns of command lines.

    `notify` holds secrets: it is shown nowhere.
    """

    safelist: tuple[str, ...] = ()
    stopped_interval_s: float = 10.0
    probe_interval_s: float = 60.0
    probe_failures: int = 3
    recoveries_per_hour: int = 3
    save_grace_s: float = 5.0
    on_pressure: OnPressure = OnPressure.TELL
    notify: tuple[str, ...] = field(default=(), repr=False)
    notify_command: Command | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Capacity:
    """A whole capacity.yaml, checked."""

    host: Host
    services: Mapping[str, Service]
    live_veto: bool = True
    path: str = ""
    sentinel: Sentinel = field(default_factory=Sentinel)

    @cached_property
    def pinned(self) -> tuple[Service, ...]:
        """The services whose budget stays committed even while they are not loaded."""
        return tuple(service for service in self.services.values() if service.pinned)

    @cached_property
    def check_commands(self) -> Mapping[str, Command]:
        """The loaded_check_cmd of each service that has one."""
        return {s.name: s.loaded_check_cmd for s in self.services.values() if s.loaded_check_cmd is not None}


@dataclass(frozen=True, slots=True)
class Sighting:
    """A live process that a service's pattern matches. A mention matches in its arguments only. `signalable`: the user
    who looked may signal it."""

    service: str
    process: Process
    mention: bool = False
    program: str = ""
    signalable: bool = True


@dataclass(frozen=True, slots=True)
class Unread:
    """A process that holds memory and would not show its command line in time."""

    process: ProcessId
    resident: Amounts
    could_be_ours: bool


@dataclass(frozen=True, slots=True)
class Check:
    """What one loaded_check_cmd said: `loaded` is None where it could not be run at all."""

    service: str
    loaded: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Budget held for a load that was admitted and is not visible yet.

    It is true as long as its holder lives and `deadline_s` (seconds of the machine's monotonic clock) has not come.
    `handed_over`: its load_cmd has ended well, and another program loads (launchd, Docker); then no holder is needed.
    """

    id: str
    service: str
    budget: Amounts
    holder: ProcessId | None
    deadline_s: float
    expires_at: float = 0.0
    damaged: bool = False
    handed_over: bool = False


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request that waits its turn; true as long as its holder lives and its time has not run out."""

    id: str
    service: str
    priority: int
    arrived_s: float
    holder: ProcessId | None
    deadline_s: float

    @property
    def order(self) -> tuple[int, float, str]:
        return (-self.priority, self.arrived_s, self.id)


class Level(IntEnum):
    """How bad it is for the whole machine."""

    NORMAL = 1
    WARN = 2
    CRITICAL = 4

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Reading:
    """What the system itself says of its memory. None: the system would not say."""

    available: Amounts | None = None
    level: Level | None = None
    why: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One wish to load one service. `arrival` orders requests that meet in one look. `in_use`: what of its budget its
    holder has in use already, so that the system's available memory is without it by now."""

    service: Service
    arrival: float = 0.0
    holder: ProcessId | None = None
    dry_run: bool = False
    waiter: str | None = None
    in_use: Amounts = field(default_factory=dict)

    @property
    def order(self) -> tuple[int, float, str]:
        return (-self.service.priority, self.arrival, self.waiter or "")


class State(StrEnum):
    """What a service is, as one look shows it."""

    STOPPED = "stopped"
    RESERVED = "reserved"
    LOADED = "loaded"
    HALF_LOADED = "half_loaded"
    SUSPENDED = "suspended"

    @property
    def is_loaded(self) -> bool:
        """It holds its memory, whether it answers or not."""
        return self in (State.LOADED, State.HALF_LOADED, State.SUSPENDED)


@dataclass(frozen=True, slots=True)
class View:
    """All that one look saw: the only thing a ledger is derived from. `holdings`: what the holders of reservations for
    what is not declared hold by now."""

    sightings: tuple[Sighting, ...] = ()
    checks: Mapping[str, Check] = field(default_factory=dict)
    reservations: tuple[Reservation, ...] = ()
    waiters: tuple[Waiter, ...] = ()
    footprints: Mapping[str, Amounts] = field(default_factory=dict)
    peaks: Mapping[str, Amounts] = field(default_factory=dict)
    unread: tuple[Unread, ...] = ()
    warnings: tuple[str, ...] = ()
    holdings: Mapping[ProcessId, Amounts] = field(default_factory=dict)
