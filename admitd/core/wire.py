"""wire: verdict and ledger <-> JSON, problem+json, exit code. One shape for every door."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from admitd.core.condition import Condition, Sample
from admitd.core.ledger import Account, Ledger
from admitd.core.terms import RAM, Amounts, Reading, Reservation, State
from admitd.core.units import MIB, free_to_mb, show_duration, to_mb
from admitd.core.verdict import Admitted, AlreadyLoaded, Blocker, Reason, Refused, Remedy, Unload, Verdict, Wait

PROBLEM_JSON: Final = "application/problem+json"
TYPES: Final = "urn:admit:refusal:"
"""A name and not an address (RFC 9457, 3.1.1): docs/refusals.md has a section for each."""

OK: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
USAGE: Final = 64
NO_SUCH: Final = 66
NO_DAEMON: Final = 69
TIMED_OUT: Final = 75
BAD_CONFIG: Final = 78

_TITLES: Final[Mapping[Reason, str]] = {
    Reason.UNSEEN: "The process table cannot be seen",
    Reason.LOADING: "It is being loaded already",
    Reason.TOO_LARGE: "It is larger than the pool",
    Reason.EXCLUSIVE: "An exclusive neighbour is loaded",
    Reason.NO_HEADROOM: "It does not fit",
    Reason.QUEUED: "Others wait ahead",
    Reason.PRESSURE: "The system is under memory pressure",
    Reason.NO_AVAILABLE_MEMORY: "The system has too little memory available",
    Reason.BUSY: "No decision could be made in time",
    Reason.NOT_RECORDED: "The reservation could not be written down",
}


def exit_code(verdict: Verdict) -> int:
    """0 for what may go on, 2 for a refusal; nothing else is 2."""
    return REFUSED if isinstance(verdict, Refused) else OK


def status(verdict: Verdict) -> int:
    """The HTTP status of a verdict."""
    return 409 if isinstance(verdict, Refused) else 200


def command(remedy: Remedy | None, config: str = "") -> str | None:
    """A remedy as one command line that works when pasted; `config`: the file to name, where it is not the default.
    None also where only the user knows what is to be run."""
    if isinstance(remedy, Unload):
        return pasted(config, "unload", *remedy.services)
    if remedy is None or remedy.by_hand:
        return None
    return pasted(config, "load", remedy.service, "--wait", show_duration(remedy.for_s))


def pasted(config: str, *words: str) -> str:
    """An `admit` command line that works when pasted; `config` as in `command`."""
    return shlex.join(["admit", *(["--config", config] if config else []), *words])


def _detail(refused: Refused, config: str) -> str:
    """The message; and how to wait for what has no load_cmd, which is no command line that could be pasted."""
    remedy = refused.remedy
    if not isinstance(remedy, Wait) or not remedy.by_hand:
        return refused.message
    waits = pasted(config, "run", remedy.service, "--wait", show_duration(remedy.for_s))
    return f"{refused.message} It has no load_cmd: ask again, or: {waits} -- CMD"


def verdict(given: Verdict, config: str = "") -> dict[str, Any]:
    """The body that answers POST /admit; for a refusal, RFC 9457's members beside our own."""
    if isinstance(given, Refused):
        return _refused(given, config)
    body: dict[str, Any] = {
        "verdict": "admitted" if isinstance(given, Admitted) else "already_loaded",
        "service": given.service,
        "budget_mb": _mb(given.budget),
        "free_mb": _free_mb(given.free),
        "reservation": None,
    }
    if isinstance(given, Admitted) and given.reservation is not None:
        body["reservation"] = reservation(given.reservation)
    if isinstance(given, AlreadyLoaded):
        body["state"] = given.state.value
        body["mention_only"] = given.mention_only
        body["has_probe"] = given.has_probe
    return body


def problem(code: int, title: str, detail: str, kind: str = "about:blank", **more: Any) -> dict[str, Any]:
    """An error as RFC 9457 wants it."""
    return {"type": kind, "title": title, "status": code, "detail": detail, **more}


def _refused(given: Refused, config: str) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if given.queue_position is not None:
        more["queue_position"] = given.queue_position
    if given.retry_after_s is not None:
        more["retry_after_s"] = given.retry_after_s
    return problem(
        409,
        _TITLES[given.reason],
        _detail(given, config),
        TYPES + given.reason.value,
        verdict="refused",
        reason=given.reason.value,
        service=given.service,
        budget_mb=_mb(given.budget),
        free_mb=_free_mb(given.free),
        shortfall_mb=_mb(given.shortfall),
        blockers=[_blocker(blocker, config) for blocker in given.blockers],
        remedy=command(given.remedy, config),
        victims=list(given.victims),
        **more,
    )


def _blocker(blocker: Blocker, config: str) -> dict[str, Any]:
    return {
        "service": blocker.label,
        "state": blocker.state,
        "charged_mb": _mb(blocker.charge),
        "why": blocker.why,
        "remedy": command(blocker.remedy, config),
    }


def reservation(held: Reservation) -> dict[str, Any]:
    """A reservation as every door shows it. `expires_at` is seconds since 1970."""
    return {
        "id": held.id,
        "service": held.service,
        "budget_mb": _mb(held.budget),
        "holder_pid": held.holder.pid if held.holder else None,
        "expires_at": round(held.expires_at, 3),
    }


def capacity(
    ledger: Ledger, reading: Reading, conditions: Mapping[str, Condition] = MappingProxyType({})
) -> dict[str, Any]:
    """The body of GET /capacity, without the time of the look. `conditions`: what the sentinel knows beside it."""
    host = ledger.capacity.host
    return {
        "host": host.name,
        "ram_physical_mb": host.physical.get(RAM, 0) // MIB,
        "ram_reserved_mb": host.reserved.get(RAM, 0) // MIB,
        "ram_safety_mb": host.safety.get(RAM, 0) // MIB,
        "pool_mb": _free_mb(ledger.pool),
        "charged_mb": _mb(ledger.charged),
        "free_mb": _free_mb(ledger.free),
        "services": [
            _service(ledger.account(service), conditions.get(name))
            for name, service in ledger.capacity.services.items()
        ],
        "undeclared": [{"label": e.label, "charged_mb": _mb(e.charge), "why": e.why} for e in ledger.extras],
        "reservations": [reservation(held) for held in ledger.reservations],
        "waiting": [
            {"service": w.service, "priority": w.priority, "holder_pid": w.holder.pid if w.holder else None}
            for w in ledger.waiters
        ],
        "pressure": _pressure(reading),
        "live_veto": ledger.capacity.live_veto,
        "warnings": list(ledger.warnings),
    }


def _service(account: Account, condition: Condition | None) -> dict[str, Any]:
    service = account.service
    seen = account.sightings
    ages = [process.age_s for process in account.processes if process.age_s is not None]
    matched_by: str | None
    if seen:
        matched_by = "mention" if account.mention_only else "process_pattern"
    else:
        matched_by = "loaded_check_cmd" if account.state.is_loaded else None
    return {
        "name": service.name,
        "state": state(account, condition).value,
        "ram_budget_mb": _mb(service.budget),
        "charged_mb": _mb(account.charge),
        "measured_mb": None if account.measured is None else _mb(account.measured),
        "priority": service.priority,
        "pids": [sighting.process.id.pid for sighting in seen if not sighting.mention],
        "mentioned_by": [sighting.process.id.pid for sighting in seen if sighting.mention],
        "matched_by": matched_by,
        "exclusive_with": sorted(service.exclusive_with),
        "pinned": service.pinned,
        "evictable": service.evictable,
        "loadable": service.load_cmd is not None,
        "age_s": round(max(ages), 1) if ages else None,
        "condition": None if condition is None else _condition(condition),
    }


def state(account: Account, condition: Condition | None) -> State:
    """As the look has it, but for what only shows to who keeps watching: a process that never came to answer."""
    half = condition is not None and condition.half and account.state is State.LOADED
    return State.HALF_LOADED if half else account.state


def _condition(known: Condition) -> dict[str, Any]:
    return {
        "busy": known.busy,
        "active_s_ago": None if known.active_s_ago is None else round(known.active_s_ago, 1),
        "activity": known.activity,
        "probe": None if known.probe is None else known.probe.value,
        "probe_failures": known.failures,
        "half_loaded": known.half or None,
        "peak_mb": None if known.peak is None else _mb(known.peak),
    }


def history(samples: Sequence[Sample]) -> dict[str, Any]:
    """The body of GET /history, oldest first."""
    return {
        "samples": [
            {
                "at": round(each.at, 3),
                "charged_mb": _mb(each.charged),
                "free_mb": _free_mb(each.free),
                "measured_mb": _mb(each.measured),
                "available_mb": None if each.available is None else _free_mb(each.available),
                "level": None if each.level is None else each.level.word,
            }
            for each in samples
        ]
    }


def _pressure(reading: Reading) -> dict[str, Any]:
    return {
        "level": reading.level.word if reading.level is not None else None,
        "available_mb": _free_mb(reading.available) if reading.available is not None else None,
        "why": reading.why or reading.problem or "",
    }


def _mb(amounts: Amounts) -> int:
    return to_mb(amounts.get(RAM, 0))


def _free_mb(amounts: Amounts) -> int:
    return free_to_mb(amounts.get(RAM, 0))


def plan(given: Verdict, config: str = "") -> dict[str, Any]:
    """The body of GET /plan: what would have to go for it to fit."""
    refused = given if isinstance(given, Refused) else None
    if isinstance(given, AlreadyLoaded):
        detail = f"{given.service} is {given.state.value} already."
    elif refused is not None:
        detail = _detail(refused, config)
    else:
        detail = f"{given.service} fits: {_free_mb(given.free)} MB are free."
    return {
        "service": given.service,
        "fits": refused is None,
        "reason": refused.reason.value if refused else None,
        "detail": detail,
        "budget_mb": _mb(given.budget),
        "free_mb": _free_mb(given.free),
        "shortfall_mb": _mb(refused.shortfall) if refused else 0,
        "victims": list(refused.victims) if refused else [],
        "remedy": command(refused.remedy, config) if refused else None,
    }
