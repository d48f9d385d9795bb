"""worlds: small hosts on paper, so that a test reads as a sentence. Amounts are in MB, as in capacity.yaml."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from admitd.core import admission
from admitd.core import ledger as ledgers
from admitd.core.ledger import Ledger
from admitd.core.terms import (
    Amounts,
    Capacity,
    Check,
    Host,
    Level,
    Process,
    ProcessId,
    Reading,
    Request,
    Reservation,
    Service,
    Sighting,
    Unread,
    View,
    Waiter,
)
from admitd.core.verdict import Refused, Verdict

MB = 1 << 20
POOL_MB = 49_152
QUIET = Reading()
"""A system that says nothing of itself: the ledger alone decides."""


def ram(megabytes: int, **others: int) -> dict[str, int]:
    """Amounts of `megabytes` of RAM and of other resources, all in MB."""
    return {"ram": megabytes * MB} | {resource: amount * MB for resource, amount in others.items()}


def mb(amounts: Mapping[str, int]) -> int:
    """The MB of RAM in `amounts`, which must be whole."""
    whole, rest = divmod(amounts.get("ram", 0), MB)
    assert rest == 0
    return whole


def service(name: str, budget_mb: int = 1_000, **fields: Any) -> Service:
    fields.setdefault("process_pattern", name)
    fields.setdefault("load_cmd", f"load {name}")
    fields["exclusive_with"] = frozenset(fields.get("exclusive_with", ()))
    return Service(name, fields.pop("budget", ram(budget_mb)), **fields)


def symmetric(services: Iterable[Service]) -> dict[str, Service]:
    """The services by name, exclusion made mutual, as capacity.yaml's reader does."""
    declared = {each.name: each for each in services}
    for each in tuple(declared.values()):
        for other in each.exclusive_with & set(declared):
            declared[other] = replace(
                declared[other], exclusive_with=frozenset({*declared[other].exclusive_with, each.name})
            )
    return declared


def capacity(
    *services: Service, pool_mb: int = POOL_MB, pool: Amounts | None = None, live_veto: bool = True
) -> Capacity:
    """A host whose pool is `pool_mb`, with 12,288 MB reserved and a safety floor of 4,096 MB besides."""
    reserved, safety = ram(12_288), ram(4_096)
    physical = dict(pool or ram(pool_mb))
    physical["ram"] = physical.get("ram", 0) + reserved["ram"] + safety["ram"]
    return Capacity(Host("manoir", physical, reserved, safety), symmetric(services), live_veto)


def pid_of(name: str) -> int:
    """A pid that stays the same for a name."""
    return zlib.crc32(name.encode()) % 4_000_000 + 2


def anothers(name: str, pid: int | None = None) -> Sighting:
    """A live process that is the service, and that only its owner may signal."""
    return replace(loaded(name, pid), signalable=False)


def process(pid: int, *, stopped: bool = False, age_s: float | None = None) -> Process:
    return Process(ProcessId(pid, 1), uid=501, stopped=stopped, age_s=age_s)


def loaded(name: str, pid: int | None = None, *, stopped: bool = False, age_s: float | None = None) -> Sighting:
    """A live process that really is the service."""
    return Sighting(name, process(pid or pid_of(name), stopped=stopped, age_s=age_s), program="python3.11")


def mentioned(name: str, pid: int | None = None, program: str = "tail") -> Sighting:
    """A live process that only names the service in an argument."""
    return Sighting(name, process(pid or pid_of(name) + 1), mention=True, program=program)


def check(name: str, says: bool | None, detail: str = "") -> Check:
    return Check(name, says, detail)


def holder(pid: int) -> ProcessId:
    return ProcessId(pid, 7)


def reserved(
    name: str, budget_mb: int = 1_000, pid: int | None = None, *, damaged: bool = False, id: str = ""
) -> Reservation:
    return Reservation(
        id or f"r-{name}", name, ram(budget_mb), holder(pid or pid_of(name)), deadline_s=300.0, damaged=damaged
    )


def waiting(name: str, priority: int = 0, arrived_s: float = 0.0, id: str = "") -> Waiter:
    return Waiter(id or f"w-{name}", name, priority, arrived_s, holder(pid_of(name)), deadline_s=600.0)


def unread(pid: int, resident_mb: int, *, could_be_ours: bool = True) -> Unread:
    return Unread(ProcessId(pid, 1), ram(resident_mb), could_be_ours)


@dataclass(frozen=True)
class Footprint:
    """What a service was measured to hold."""

    service: str
    amounts: Amounts


def footprint(name: str, megabytes: int) -> Footprint:
    return Footprint(name, ram(megabytes))


class Peak(Footprint):
    """The most that it ever held."""


def peak(name: str, megabytes: int) -> Peak:
    return Peak(name, ram(megabytes))


@dataclass(frozen=True)
class Holding:
    """What the holder of a reservation was measured to hold."""

    holder: ProcessId
    amounts: Amounts


def holding(pid: int, megabytes: int) -> Holding:
    return Holding(holder(pid), ram(megabytes))


Seen = Sighting | Check | Reservation | Waiter | Unread | Footprint | Peak | Holding


def view(*seen: Seen) -> View:
    """One look that saw exactly this."""
    return View(
        sightings=tuple(each for each in seen if isinstance(each, Sighting)),
        checks={each.service: each for each in seen if isinstance(each, Check)},
        reservations=tuple(each for each in seen if isinstance(each, Reservation)),
        waiters=tuple(each for each in seen if isinstance(each, Waiter)),
        footprints={each.service: each.amounts for each in seen if type(each) is Footprint},
        peaks={each.service: each.amounts for each in seen if isinstance(each, Peak)},
        unread=tuple(each for each in seen if isinstance(each, Unread)),
        holdings={each.holder: each.amounts for each in seen if isinstance(each, Holding)},
    )


def ledger(declared: Capacity, *seen: Seen) -> Ledger:
    return ledgers.derive(declared, view(*seen))


def request(
    declared: Capacity,
    name: str,
    arrival: float = 0.0,
    pid: int | None = None,
    *,
    dry_run: bool = False,
    waiter: str | None = None,
) -> Request:
    who = holder(pid) if pid is not None else None
    return Request(declared.services[name], arrival, who, dry_run, waiter)


def reading(available_mb: int | None = None, level: Level | None = None, why: str = "") -> Reading:
    return Reading(None if available_mb is None else ram(available_mb), level, why)


def without(ledger_: Ledger, *names: str) -> Ledger:
    """The ledger once the named services are unloaded."""
    return replace(ledger_, accounts={name: each for name, each in ledger_.accounts.items() if name not in names})


def refusal(verdict: Verdict) -> Refused:
    """`verdict`, which must be a refusal."""
    assert isinstance(verdict, Refused), verdict
    return verdict


def ask(declared: Capacity, name: str, *seen: Seen, now: Reading = QUIET, pid: int | None = 1) -> Verdict:
    """The verdict on one request for `name`, where one look saw exactly this."""
    return admission.decide(ledger(declared, *seen), now, request(declared, name, pid=pid))


def words(verdicts: list[Verdict]) -> list[str]:
    """Each verdict in one word: its type, or the reason of a refusal."""
    return [v.reason.value if isinstance(v, Refused) else type(v).__name__ for v in verdicts]


SANCTUM = service(
    "sanctum-mlx",
    45_000,
    priority=100,
    exclusive_with=["lmstudio-coder-14b"],
    process_pattern=r"mlx_lm\.server .*Qwen3\.6-35B",
    load_cmd="mlx_lm.server --model mlx-community/Qwen3.6-35B-A3B-4bit --port 8080",
)
CODER = service(
    "lmstudio-coder-14b",
    12_000,
    priority=50,
    process_pattern=None,
    loaded_check_cmd="lms ps | grep -q coder-14b",
    load_cmd="lms load coder-14b",
    unload_cmd="lms unload coder-14b",
)
MANOIR = capacity(SANCTUM, CODER)
"""The host and the two services of the contract's example: a pool of 49,152 MB."""
