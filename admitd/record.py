"""record: what the file of one reservation, or of one place in the queue, says: its name and its content, both ways.

The name says for whom how much is held, so that a damaged content is still charged. The content ends with a checksum
over both, so that damage is always noticed: a truncated record, a flipped bit, a record under another's name. No
record's file is touched here. It says in which boot it was made: macOS's folder outlives a boot, and the monotonic
clock begins anew.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import zlib
from dataclasses import dataclass
from typing import Any, Final

from admitd.boot import boot_id, is_other_boot
from admitd.core import headroom
from admitd.core.terms import NAME, NOTHING, Amounts, ProcessId, Reservation, Service, Waiter

HELD: Final = "held"
HANDED: Final = "handed"
"""Held for a load whose command has handed it over."""
WAITING: Final = "waiting"
KINDS: Final = (HELD, HANDED, WAITING)
LONGEST_S: Final = 86_400.0
"""No promise is believed for longer than a day."""
DAMAGED_S: Final = 300.0
"""How long a damaged record of an undeclared service is charged, from the file's own time on."""
_PARTS: Final = 4  # kind, service, amounts, id
_ID: Final = re.compile(r"[0-9a-f]{16}\Z")
_PID_MAX: Final = 0x7FFF_FFFF  # pid_t


class Damaged(Exception):
    """The content is not what was written under this name."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a record's name says."""

    kind: str
    service: str
    amounts: str
    id: str


@dataclass(frozen=True, slots=True)
class Record:
    """What one file says. A record made later than now is another boot's, where the system does not tell its boots
    apart.

    `watched` is the process whose end is the record's end; None where only time ends it.
    """

    term: Reservation | Waiter
    made_s: float
    watched: ProcessId | None

    @property
    def is_damaged(self) -> bool:
        return isinstance(self.term, Reservation) and self.term.damaged


def name_of(term: Reservation | Waiter) -> str:
    """The name of its file; never used twice."""
    if isinstance(term, Waiter):
        return f"{WAITING}~{term.service}~~{term.id}"
    amounts = "+".join(f"{resource}={amount}" for resource, amount in sorted(term.budget.items()))
    return f"{HANDED if term.handed_over else HELD}~{term.service}~{amounts}~{term.id}"


def label(name: str) -> Label | None:
    """What a file's name says; None where it is no record's."""
    parts = name.split("~")
    if len(parts) != _PARTS or parts[0] not in KINDS or not NAME.match(parts[1]) or not _ID.match(parts[3]):
        return None
    return Label(*parts)


def encode(record: Record) -> bytes:
    """The content of its file."""
    term = record.term
    body: dict[str, str | float | int | None] = {
        "version": 1,
        "boot": boot_id(),
        "made_s": record.made_s,
        "deadline_s": term.deadline_s,
        "holder_pid": term.holder.pid if term.holder else None,
        "holder_started": term.holder.started if term.holder else None,
    }
    if isinstance(term, Waiter):
        asker = record.watched
        body |= {"priority": term.priority, "arrived_s": term.arrived_s}
        body |= {"asker_pid": asker.pid if asker else None, "asker_started": asker.started if asker else None}
    else:
        body["expires_at"] = term.expires_at
    content = json.dumps(body).encode()
    return content + b"\n" + _checksum(name_of(term), content)


def decode(name: str, content: bytes) -> Record:
    """What `content` says under `name`, which is a record's. Raises Damaged."""
    told = label(name)
    body, _, checksum = content.rpartition(b"\n")
    if told is None or checksum != _checksum(name, body):
        raise Damaged(f"{name} is not as it was written")
    try:
        return _decode(told, json.loads(body))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as problem:
        raise Damaged(f"{name} cannot be read: {problem}") from problem


def damaged(told: Label, declared: Service | None, age_s: float, now_s: float, wall_s: float) -> Record | None:
    """A damaged reservation is charged what its name says, and at least what its service declares, until it would
    have ended; a damaged place in the queue is nothing."""
    if told.kind == WAITING:
        return None
    budget = declared.budget if declared else NOTHING
    with contextlib.suppress(ValueError):
        budget = headroom.larger(_amounts(told.amounts), budget)
    life = min(declared.load_timeout_s, LONGEST_S) if declared else DAMAGED_S
    left = min(life, life - age_s)
    until, handed_over = (now_s + left, wall_s + left), told.kind == HANDED
    reservation = Reservation(told.id, told.service, budget, None, *until, damaged=True, handed_over=handed_over)
    return Record(reservation, 0.0, None)


def _decode(told: Label, body: dict[str, Any]) -> Record:
    made_s = _finite(body["made_s"])
    deadline_s = (
        -math.inf
        if is_other_boot(str(body.get("boot") or ""))
        else min(_finite(body["deadline_s"]), made_s + LONGEST_S)
    )
    holder = _process(body["holder_pid"], body["holder_started"])
    if told.kind == WAITING:
        priority, arrived_s = int(_finite(body["priority"])), _finite(body["arrived_s"])
        waiter = Waiter(told.id, told.service, priority, arrived_s, holder, deadline_s)
        return Record(waiter, made_s, holder or _process(body["asker_pid"], body["asker_started"]))
    expires_at = _finite(body["expires_at"])
    amounts, handed_over = _amounts(told.amounts), told.kind == HANDED
    reservation = Reservation(told.id, told.service, amounts, holder, deadline_s, expires_at, handed_over=handed_over)
    return Record(reservation, made_s, holder)


def _finite(number: float | int | None) -> float:
    if number is None or not math.isfinite(number):
        raise ValueError(f"{number} is no number of seconds")
    return float(number)


def _process(pid: float | int | None, started: float | int | None) -> ProcessId | None:
    if pid is None:
        return None
    if started is None or not 0 < pid <= _PID_MAX:
        raise ValueError(f"{pid} is no pid")
    return ProcessId(int(pid), int(started))


def _checksum(name: str, body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(name.encode("utf-8", "surrogateescape") + b"\n" + body)


def _amounts(text: str) -> Amounts:
    """What `ram=1048576+vram0=0` says. Raises ValueError where it says nothing."""
    amounts = {resource: int(amount) for resource, _, amount in (part.partition("=") for part in text.split("+"))}
    if not all(resource and amount >= 0 for resource, amount in amounts.items()):
        raise ValueError(f"{text!r} is not an amount")
    return amounts
