"""events: the closed set of things worth remembering and telling; what the journal keeps and people read.

An event says what was done or found, never what was merely asked: refusals are answers, and are not kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeGuard

Number = int | float | str | bool | None
"""What an event was decided on: amounts in whole MiB under names that end in _mb, seconds under _s, pids, words."""

TEXT_MAX: Final = 2_000
NUMBERS_MAX: Final = 40
"""An entry of the journal is written in one piece, and read back whole: it has an end."""

FORMAT: Final = 1
"""The version of the journal's lines, `v` in each, 1 where none is said. A newer one is read as far as it is known."""

KINDS: Final = frozenset(
    {
        "admitted",
        "loaded",
        "load_failed",
        "unloaded",
        "unload_failed",
        "given_back",
        "refused_recovery",
        "stopped",
        "woken",
        "gave_up_waking",
        "probe_failed",
        "probe_answered",
        "busy",
        "half_loaded",
        "recovering",
        "recovered",
        "gave_up",
        "runaway",
        "closed",
        "over_budget",
        "under_budget",
        "pressure",
        "evicted",
        "would_evict",
        "respawned",
        "unclean_reboot",
        "idle_unloaded",
        "sentinel_error",
        "channel_failed",
        "daemon_started",
        "daemon_stopped",
        "config_reloaded",
        "config_broken",
    }
)
"""Stable words: programs compare them. An entry of a newer version may carry another one."""

QUOTED_MAX: Final = 300

_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_URL: Final = re.compile(r"://(?:[^\s/?#]*@)?([^\s?#]*)(?:[?#]\S*?(?=[,.;:)]{0,3}(?:\s|\Z)))?")


class Severity(StrEnum):
    """How much it matters to people: for the record, worth knowing, something is lost or closed."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Greater is worse."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was done or found. `next`: the next command, where there is one.

    `text` is written for users, kept, sent by every channel, and told to whoever asks on this machine: it is one line,
    and of URLs it has no more than scheme, host, port and path."""

    kind: str
    text: str
    severity: Severity = Severity.INFO
    service: str | None = None
    next: str | None = None
    numbers: Mapping[str, Number] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not _WORD.match(self.kind):
            raise ValueError(f"{self.kind!r} is not the kind of an event")
        object.__setattr__(self, "text", _first_line(_URL.sub(r"://\1", self.text)))


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as the journal keeps it. `at` is the wall clock's word when it was written, and may have jumped;
    `since_boot_s` goes on evenly within one `boot`, sleep included. `id` grows from entry to entry."""

    id: int
    at: float
    boot: str
    since_boot_s: float
    event: Event
    pid: int = 0
    version: str = ""
    format: int = FORMAT


def to_json(event: Event) -> dict[str, Any]:
    """The event as every door shows it; bounded, and true JSON: a number that is none becomes null."""
    numbers = list(event.numbers.items())[:NUMBERS_MAX]
    return {
        "kind": event.kind,
        "severity": event.severity.value,
        "service": event.service,
        "text": shorten(event.text),
        "next": None if event.next is None else shorten(event.next),
        "numbers": {str(name)[:60]: _plain(value) for name, value in numbers},
    }


def from_json(body: Mapping[str, Any]) -> Event:
    """The event that `to_json` wrote, by this version or a newer one. ValueError where it is none."""
    kind, text, service, command, numbers = (body.get(each) for each in ("kind", "text", "service", "next", "numbers"))
    if not isinstance(kind, str) or not isinstance(text, str):
        raise ValueError("an event has a kind and a text")
    known = [each for each in Severity if each.value == body.get("severity")]
    return Event(
        kind,
        text,
        known[0] if known else Severity.INFO,
        service if isinstance(service, str) else None,
        command if isinstance(command, str) else None,
        {name: _plain(value) for name, value in numbers.items()} if isinstance(numbers, dict) else {},
    )


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry as every door shows it; the journal puts the version of its format before it."""
    return {
        "id": entry.id,
        "at": round(entry.at, 3),
        "boot": entry.boot,
        "since_boot_s": round(entry.since_boot_s, 3),
        "pid": entry.pid,
        "version": entry.version,
        **to_json(entry.event),
    }


def entry_from_json(body: object) -> Entry:
    """The entry that `entry_json` wrote. ValueError where it is none."""
    if not isinstance(body, dict):
        raise ValueError("an entry is an object")
    number, at, since_boot_s = body.get("id"), body.get("at"), body.get("since_boot_s", 0.0)
    if not _is_count(number) or not _is_time(at) or not _is_time(since_boot_s):
        raise ValueError("an entry has an id and a time")
    pid = body.get("pid")
    boot, version = (each if isinstance(each, str) else "" for each in (body.get("boot"), body.get("version")))
    written = body.get("v")
    return Entry(
        number,
        float(at),
        boot,
        float(since_boot_s),
        from_json(body),
        pid if _is_count(pid) else 0,
        version,
        written if _is_count(written) else 1,
    )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 53


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def brief(said: str) -> str:
    """What a command printed or a server answered, as a part of a sentence: it may be long, and is nobody else's
    business; its first line says enough."""
    line = _first_line(said.strip()).rstrip(": ")
    return line if len(line) <= QUOTED_MAX else line[: QUOTED_MAX - 3] + "..."


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def shorten(text: str) -> str:
    """`text`, no longer than an entry allows."""
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 3] + "..."


def _plain(value: object) -> Number:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else None
    return shorten(str(value))
