"""chronicle: what is remembered of verdicts, loads and unloads: each in one sentence, with the numbers behind it."""

from __future__ import annotations

from admitd.core import headroom
from admitd.core.events import Event, Number, Severity, brief
from admitd.core.ledger import Ledger
from admitd.core.terms import RAM, Amounts, Reading
from admitd.core.units import free_to_mb, to_mb
from admitd.core.verdict import Admitted


def admitted(verdict: Admitted, ledger: Ledger, reading: Reading) -> Event:
    """A verdict that reserved, with what it was decided on."""
    budget, free, pool = to_mb(verdict.budget.get(RAM, 0)), _free_mb(verdict.free), _free_mb(ledger.pool)
    available = None if reading.available is None else _free_mb(reading.available)
    held = verdict.reservation
    numbers: dict[str, Number] = {
        "budget_mb": budget,
        "free_mb": free,
        "pool_mb": pool,
        "charged_mb": to_mb(headroom.less(ledger.pool, verdict.free).get(RAM, 0)),
        "available_mb": available,
        "pressure": None if reading.level is None else reading.level.word,
        "reservation": held.id if held else None,
        "holder_pid": held.holder.pid if held and held.holder else None,
    }
    said = "" if available is None else f"; the system had {available} MB available"
    text = f"{verdict.service} was admitted: {budget} MB reserved, {free} of {pool} MB were free{said}"
    return Event("admitted", text, service=verdict.service, numbers=numbers)


def given_back(service: str, reservation: str) -> Event:
    """A reservation that its holder ended."""
    return Event(
        "given_back",
        f"the reservation of {service} was given back",
        service=service,
        numbers={"reservation": reservation},
    )


def loaded(service: str, took_s: float, measured: Amounts, pids: tuple[int, ...]) -> Event:
    """A load that came to its end."""
    holds = to_mb(measured[RAM]) if RAM in measured else None
    text = f"{service} is loaded after {took_s:.1f} s" + (f" and holds {holds} MB" if holds is not None else "")
    numbers: dict[str, Number] = {"took_s": round(took_s, 3), "measured_mb": holds, "pids": _listed(pids)}
    return Event("loaded", text, service=service, numbers=numbers)


def load_failed(service: str, why: str) -> Event:
    """A load that failed, or could not even begin."""
    text = f"{service} failed to load: {brief(why)}"
    return Event("load_failed", text, Severity.WARNING, service, f"admit load {service}")


def load_timed_out(service: str, timeout_s: float, seen: str, *, holds_memory: bool) -> Event:
    """A load that was out of time. `seen`: what was there of it at the end."""
    text = f"{service} was not loaded within {timeout_s:g} s: {brief(seen)}"
    command = f"admit unload {service}" if holds_memory else f"admit load {service}"
    return Event("load_failed", text, Severity.WARNING, service, command, {"timeout_s": timeout_s})


def unloaded(service: str, took_s: float, back: Amounts | None) -> Event:
    """An unload that came to its end. `back`: how much more the system has available."""
    back_mb = None if back is None else _free_mb(back)
    text = f"{service} was unloaded after {took_s:.1f} s"
    if back_mb is not None:
        text += f"; {max(0, back_mb)} MB more are available"
    return Event("unloaded", text, service=service, numbers={"took_s": round(took_s, 3), "back_mb": back_mb})


def unload_failed(service: str, why: str, pids: tuple[int, ...] = ()) -> Event:
    """A service that could not be asked to go, or was and is still there (`pids`)."""
    text = f"{service} could not be unloaded: {brief(why)}"
    numbers: dict[str, Number] = {"pids": _listed(pids)} if pids else {}
    command = f"admit unload {service} --kill" if pids else f"admit explain {service}"
    return Event("unload_failed", text, Severity.WARNING, service, command, numbers)


def _listed(pids: tuple[int, ...]) -> str:
    return " ".join(map(str, pids))


def _free_mb(amounts: Amounts) -> int:
    return free_to_mb(amounts.get(RAM, 0))
