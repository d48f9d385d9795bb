"""admission: every rule by which a load is refused, in order. Total: every input gives a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from admitd.core import eviction, headroom
from admitd.core.ledger import Account, Ledger
from admitd.core.terms import NOTHING, Amounts, Level, ProcessId, Reading, Request, Reservation, Service, State, Waiter
from admitd.core.units import free_to_mb, to_mb
from admitd.core.verdict import (
    Admitted,
    AlreadyLoaded,
    Blocker,
    Reason,
    Refused,
    Remedy,
    Unload,
    Verdict,
    Wait,
)

WAIT_S = 300.0
"""How long the remedy of a refusal that time alone may lift waits in the queue."""


def settle(ledger: Ledger, reading: Reading, requests: Sequence[Request]) -> list[Verdict]:
    """Verdicts for requests that meet in one look, in the order of `requests`.

    They are decided by priority, then by arrival; each admission is charged before the next is decided. What
    those who wait ahead are waiting for is kept for them.
    """
    verdicts: dict[int, Verdict] = {}
    waiting = {waiter.id: waiter for waiter in ledger.waiters}
    for index in sorted(range(len(requests)), key=lambda i: requests[i].order):
        request = requests[index]
        ahead = [w for w in waiting.values() if w.order < request.order and w.id != request.waiter]
        verdict = decide(ledger, reading, request, ahead)
        verdicts[index] = verdict
        if isinstance(verdict, Admitted) and not request.dry_run and verdict.reservation is None:
            promise = Reservation("", request.service.name, request.service.budget, request.holder, 0.0)
            ledger = ledger.with_reservation(request.service, promise)
        if not isinstance(verdict, Refused):
            waiting.pop(request.waiter or "", None)
    return [verdicts[index] for index in range(len(requests))]


def decide(ledger: Ledger, reading: Reading, request: Request, ahead: Iterable[Waiter] = ()) -> Verdict:
    """The verdict on one request. The rules, in order; the first that objects is the reason:

    1. loaded already: already_loaded;
    2. reserved by the same holder: admitted again; by another: refused, `loading`;
    3. larger than the pool less what is pinned for others: refused, `too-large`;
    4. an exclusive neighbour is loaded or reserved: refused, `exclusive`;
    5. the budget is more than what is free: refused, `no-headroom`;
    6. it fits, but not beside what those ahead of it wait for: refused, `queued`;
    7. live veto, the system is under pressure: refused, `pressure`;
    8. live veto, the system has less available than the budget needs: refused, `no-available-memory`;
    9. admitted.

    The live veto judges what is new to the system only: the part of the budget that is not in use yet.
    """
    service = request.service
    if request.in_use:
        ledger = ledger.asked_by(request.holder, request.in_use)
    account = ledger.account(service)
    free = ledger.free_for(service)
    if account.state.is_loaded:
        has_probe = service.probe is not None
        return AlreadyLoaded(service.name, service.budget, ledger.free, account.state, account.mention_only, has_probe)
    if account.reservation is not None:
        if request.holder is not None and account.reservation.holder == request.holder:
            return Admitted(service.name, service.budget, free, account.reservation)
        return _loading(service, account, free)
    return (
        _too_large(ledger, service)
        or _exclusive(ledger, service, free)
        or _no_headroom(ledger, service, free)
        or _queued(ledger, service, free, ahead)
        or _vetoed(ledger, reading, request)
        or Admitted(service.name, service.budget, free)
    )


def second_copy(ledger: Ledger, service: Service, first: ProcessId) -> Refused:
    """The refusal of another process of a declared app, whose budget `first` has already: it is granted once."""
    account = ledger.account(service)
    return Refused(
        service.name,
        Reason.LOADING,
        f"{service.name} is declared with {_mb(service.budget)} MB, and process {first.pid} has them already: they are "
        f"granted once. End process {first.pid}, or give this one a name of its own.",
        service.budget,
        ledger.free,
        service.budget,
        (Blocker(service.name, account.state.value, account.charge, f"process {first.pid} has its budget"),),
        retry_after_s=5.0,
    )


def _loading(service: Service, account: Account, free: Amounts) -> Refused:
    return Refused(
        service.name,
        Reason.LOADING,
        f"{service.name} is being loaded by {_holder(account)} already.",
        service.budget,
        free,
        blockers=(_blocker(account, service, "it is being loaded"),),
        remedy=_wait(service),
        retry_after_s=5.0,
    )


def _too_large(ledger: Ledger, service: Service) -> Refused | None:
    pinned = [a for a in ledger.accounts.values() if a.service.pinned and a.service.name != service.name]
    ceiling = headroom.less(ledger.pool, *(a.service.budget for a in pinned))
    short = headroom.missing(service.budget, ceiling)
    if not short:
        return None
    beside = f", {_mb(headroom.total(a.service.budget for a in pinned))} MB of it pinned" if pinned else ""
    return Refused(
        service.name,
        Reason.TOO_LARGE,
        f"{service.name} needs {_mb(service.budget)} MB, and the whole pool is {_mb(ledger.pool)} MB{beside}: "
        "no unloading would make it fit.",
        service.budget,
        ledger.free_for(service),
        short,
        tuple(_blocker(a, service, "its budget is pinned") for a in pinned),
    )


def _exclusive(ledger: Ledger, service: Service, free: Amounts) -> Refused | None:
    neighbours = eviction.exclusive_neighbours(ledger, service)
    if not neighbours:
        return None
    names = " and ".join(f"{a.service.name} ({a.state.value})" for a in neighbours)
    return _make_room(
        ledger,
        service,
        free,
        Reason.EXCLUSIVE,
        f"{service.name} never runs beside {names}.",
        tuple(_blocker(a, service, f"{service.name} and {a.service.name} exclude each other") for a in neighbours),
    )


def _no_headroom(ledger: Ledger, service: Service, free: Amounts) -> Refused | None:
    short = headroom.missing(service.budget, free)
    if not short:
        return None
    return _make_room(
        ledger,
        service,
        free,
        Reason.NO_HEADROOM,
        f"{service.name} needs {_mb(service.budget)} MB and {_free_mb(free)} MB of the {_mb(ledger.pool)} MB pool "
        f"are free: {_mb(short)} MB short.",
        (),
    )


def _queued(ledger: Ledger, service: Service, free: Amounts, ahead: Iterable[Waiter]) -> Refused | None:
    """Refused where it would take what a waiter ahead of it waits for, or exclude it.

    Two who wait for the same service need its room once, and none of it where it is charged already.
    """
    services = ledger.capacity.services
    wanted = dict.fromkeys(w.service for w in ahead if w.service in services and w.service != service.name)
    accounts = [ledger.account(services[name]) for name in wanted]
    first = [a.service for a in accounts if not a.state.is_loaded and a.reservation is None]
    kept = headroom.total(headroom.unused(each.budget, ledger.account(each).charge) for each in first)
    in_the_way = [each for each in first if each.name in service.exclusive_with]
    if not first or (headroom.fits(service.budget, headroom.less(free, kept)) and not in_the_way):
        return None
    return Refused(
        service.name,
        Reason.QUEUED,
        f"{service.name} would fit, but {_all([each.name for each in first])} {_waits(first)} ahead of it for "
        f"{_mb(kept)} MB.",
        service.budget,
        free,
        headroom.missing(service.budget, headroom.less(free, kept)),
        tuple(Blocker(each.name, "waiting", each.budget, "it waits ahead in the queue") for each in first),
        remedy=_wait(service),
        retry_after_s=5.0,
    )


def _vetoed(ledger: Ledger, reading: Reading, request: Request) -> Refused | None:
    service = request.service
    new = headroom.unused(service.budget, request.in_use)
    grows = any(request.in_use.values())
    if not ledger.capacity.live_veto or (grows and not any(new.values())):
        return None
    free = ledger.free_for(service)
    if reading.level is not None and reading.level >= Level.WARN:
        return Refused(
            service.name,
            Reason.PRESSURE,
            f"the system is under memory pressure ({reading.level.word}: {reading.why}), so nothing new is loaded.",
            service.budget,
            free,
            blockers=_holders(ledger, service),
            remedy=_wait(service),
            retry_after_s=30.0,
        )
    if reading.available is None:
        return None
    left = headroom.still_available(reading.available, promises(ledger), ledger.capacity.host.safety)
    # Of a resource that the reading does not mention nothing is known, and nothing is guessed.
    read = {resource: amount for resource, amount in new.items() if resource in reading.available}
    short = headroom.missing(read, left)
    if not short:
        return None
    already = f", {_mb(request.in_use)} MB of it in use already," if grows else ""
    message = (
        f"{service.name} needs {_mb(service.budget)} MB{already} and fits the pool, but the system has "
        f"{_free_mb(reading.available)} MB available, {_free_mb(left)} MB of it beyond the safety floor and what is "
        f"promised and not in use yet: {_mb(short)} MB short. Something that is not declared holds the rest"
    )
    victims = eviction.cheapest(_as_measured(ledger), service, short) or ()
    return Refused(
        service.name,
        Reason.NO_AVAILABLE_MEMORY,
        message + (f"; unloading {_all(victims)} would make up for it." if victims else "."),
        service.budget,
        free,
        short,
        _holders(ledger, service),
        victims,
        Unload(victims) if victims else _wait(service),
        None if victims else 30.0,
    )


def _as_measured(ledger: Ledger) -> list[Account]:
    """What is loaded and was measured, charged with what its going would give back to the system: what it holds, and
    what is kept for it to take yet."""
    found = (a for a in ledger.accounts.values() if a.measured is not None)
    return [replace(a, charge=headroom.total([headroom.unused(a.measured or NOTHING), _promised(a)])) for a in found]


def promises(ledger: Ledger) -> list[Amounts]:
    """What was promised and is not in use yet: reservations, also for what is not declared, and services younger than
    their load_timeout_s."""
    return [*(extra.promised for extra in ledger.extras), *(_promised(a) for a in ledger.accounts.values())]


def _promised(account: Account) -> Amounts:
    measured = account.measured or NOTHING
    if account.reservation is not None:
        return headroom.unused(account.charge, measured)
    if account.state.is_loaded and account.measured is not None:
        ages = [process.age_s for process in account.processes if process.age_s is not None]
        if ages and max(ages) < account.service.load_timeout_s:
            return headroom.unused(account.service.budget, measured)
    return NOTHING


def _make_room(
    ledger: Ledger,
    service: Service,
    free: Amounts,
    reason: Reason,
    message: str,
    exclusive: tuple[Blocker, ...],
) -> Refused:
    """A refusal that unloading could lift: with the plan where there is one, else with why there is none."""
    short = headroom.missing(service.budget, free)
    plan = eviction.plan(ledger, service)
    remedy: Remedy | None = None
    if plan is not None:
        remedy = Unload(plan.victims)
    elif (passing := _passing(ledger)) and eviction.plan(ledger.without_what_passes(), service) is not None:
        remedy = _wait(service)
        message += f" {', '.join(passing)} may be in the way for a while only: waiting may help."
    else:
        message += " " + _why_no_plan(ledger, service)
    named = {blocker.label for blocker in exclusive}
    blockers = exclusive + tuple(b for b in _holders(ledger, service) if b.label not in named and short)
    return Refused(
        service.name,
        reason,
        message,
        service.budget,
        free,
        short,
        blockers,
        plan.victims if plan else (),
        remedy,
        5.0 if isinstance(remedy, Wait) else None,
    )


def _passing(ledger: Ledger) -> list[str]:
    """Who holds memory that time alone may give back."""
    loading = [f"{a.service.name} (being loaded)" for a in ledger.accounts.values() if a.reservation is not None]
    return loading + [extra.label for extra in ledger.extras]


def _why_no_plan(ledger: Ledger, service: Service) -> str:
    others = (a for a in ledger.accounts.values() if a.charge and a.service.name != service.name)
    held = [a for a in others if not eviction.may_go(a, service)]
    higher = [a.service.name for a in held if a.service.priority > service.priority]
    kept = [a.service.name for a in held if a.service.pinned or not a.service.evictable]
    no_way = [f"{a.service.name}: {a.stays}" for a in held if a.state.is_loaded and a.stays]
    said = []
    if higher:
        said.append(f"{_all(higher)} {_has(higher)} a higher priority")
    if kept:
        said.append(f"{_all(kept)} {_is(kept)} pinned or not evictable")
    said += no_way
    if ledger.extras:
        extras = [extra.label for extra in ledger.extras]
        said.append(f"{_all(extras)} {_is(extras)} not declared here")
    return f"Nothing that may be unloaded would make it fit: {'; '.join(said) or 'nothing else is loaded'}."


def _holders(ledger: Ledger, service: Service) -> tuple[Blocker, ...]:
    """Everyone who holds memory, those first whose going would help most."""
    accounts = [a for a in ledger.accounts.values() if a.charge and a.service.name != service.name]
    accounts.sort(key=lambda a: (not eviction.may_go(a, service), -sum(a.charge.values()), a.service.name))
    extras = (Blocker(e.label, "undeclared", e.charge, e.why) for e in ledger.extras)
    return (*(_blocker(a, service, f"it is charged {_mb(a.charge)} MB") for a in accounts), *extras)


def _blocker(account: Account, newcomer: Service, why: str) -> Blocker:
    service = account.service
    remedy: Remedy | None = None
    if account.reservation is not None:
        why += f", reserved by {_holder(account)}"
        remedy = _wait(newcomer)
    elif service.pinned:
        why += "; pinned: its budget stays committed even when it is unloaded"
    elif account.state.is_loaded and account.stays:
        why += f"; {account.stays}"
    elif account.state.is_loaded:
        remedy = Unload((service.name,))
        if service.priority > newcomer.priority:
            why += f"; its priority {service.priority} is higher than {newcomer.priority}"
        elif not service.evictable:
            why += "; it is declared not evictable"
    if account.state is State.SUSPENDED:
        why += "; it is stopped (state T) and still holds its memory"
    return Blocker(service.name, account.state.value, account.charge, why, remedy)


def _wait(service: Service) -> Wait:
    return Wait(service.name, WAIT_S, by_hand=service.load_cmd is None)


def _holder(account: Account) -> str:
    if account.reservation is not None and account.reservation.handed_over:
        return "another program (its load_cmd has ended well)"
    holder = account.reservation.holder if account.reservation else None
    return f"process {holder.pid}" if holder else "a holder that is not named"


def _all(names: Sequence[str]) -> str:
    return ", ".join(names)


def _is(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _waits(services: Sequence[Service]) -> str:
    return "wait" if len(services) > 1 else "waits"


def _has(names: Sequence[str]) -> str:
    return "have" if len(names) > 1 else "has"


def _mb(amounts: Amounts) -> str:
    return _per_resource({resource: to_mb(amount) for resource, amount in amounts.items()})


def _free_mb(amounts: Amounts) -> str:
    return _per_resource({resource: free_to_mb(amount) for resource, amount in amounts.items()})


def _per_resource(amounts: Amounts) -> str:
    if set(amounts) <= {"ram"}:
        return str(amounts.get("ram", 0))
    return " + ".join(f"{resource} {amount}" for resource, amount in sorted(amounts.items()))
