"""ledger: what is charged against the pool right now, derived afresh from one look and never stored.

How a service is charged, in order:
1. loaded (a live command line matches, or its check says yes): the larger of its budget and its footprint;
2. reserved: what was promised when it was admitted, each promise of it; at least the budget where the record is
   damaged or the service is pinned;
3. pinned: its budget, loaded or not;
4. otherwise nothing.
A reservation for what this file does not declare, an app's say, is charged as well: the larger of what its holder was
promised and what that holds. So is a process that would not show its command line in time: memory is memory, whoever
named it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from admitd.core import headroom
from admitd.core.terms import (
    NOTHING,
    RAM,
    Amounts,
    Capacity,
    Check,
    Process,
    ProcessId,
    Reservation,
    Service,
    Sighting,
    State,
    View,
    Waiter,
)
from admitd.core.units import MIB, show_duration, to_mb

FAR_BELOW: Final = 0.5
"""Of its budget: a service that never held more has a budget that keeps others out for nothing."""
SETTLED_S: Final = 600.0
"""So long a service is there, and at least its load_timeout_s, before what it never held says anything."""
WORTH_TELLING: Final = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Account:
    """One service's line in the ledger."""

    service: Service
    state: State
    charge: Amounts
    measured: Amounts | None = None
    sightings: tuple[Sighting, ...] = ()
    check: Check | None = None
    reservation: Reservation | None = None

    @property
    def processes(self) -> tuple[Process, ...]:
        """What really is the service; mentions left out."""
        return tuple(seen.process for seen in self.sightings if not seen.mention)

    @property
    def mention_only(self) -> bool:
        """Whether all that was seen is a process that names the service in its arguments."""
        return (
            bool(self.sightings)
            and all(seen.mention for seen in self.sightings)
            and not (self.check is not None and self.check.loaded)
        )

    @property
    def stays(self) -> str | None:
        """Why unloading it would not give its charge back; None where it would."""
        for seen in self.sightings:
            if seen.mention:
                return f"process {seen.process.id.pid} ({seen.program}) mentions it, and it is charged while that lives"
        if self.service.unload_cmd is not None:
            return None
        for seen in self.sightings:
            if not seen.signalable:
                who = f"process {seen.process.id.pid} belongs to another user (uid {seen.process.uid})"
                return f"{who}, and it has no unload_cmd"
        return None if self.processes else "it has no unload_cmd and no process of its own to stop"


@dataclass(frozen=True, slots=True)
class Extra:
    """A charge that belongs to no declared service. `promised`: the part of it that is not in use yet. `beyond`: what
    `holder` has beyond all that it was promised, which is part of it, too."""

    label: str
    charge: Amounts
    why: str
    promised: Amounts = field(default_factory=dict)
    beyond: Amounts = field(default_factory=dict)
    holder: ProcessId | None = None


@dataclass(frozen=True)
class Ledger:
    """One host at one moment. `accounts` holds only services that are charged or were seen."""

    capacity: Capacity
    pool: Amounts
    accounts: Mapping[str, Account]
    extras: tuple[Extra, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    waiters: tuple[Waiter, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def charged(self) -> Amounts:
        return headroom.total([*(a.charge for a in self.accounts.values()), *(e.charge for e in self.extras)])

    @property
    def free(self) -> Amounts:
        """Pool minus all charges; negative when over-committed."""
        return headroom.less(self.pool, self.charged)

    def account(self, service: Service) -> Account:
        """The account of `service`; a resting one where nothing of it was seen."""
        return self.accounts.get(service.name) or Account(service, State.STOPPED, NOTHING)

    def free_for(self, service: Service) -> Amounts:
        """What `service` may take: its own standing charge (it is pinned, say) is not in its own way."""
        own = self.accounts.get(service.name)
        return headroom.less(self.free, headroom.less({}, own.charge)) if own else self.free

    def asked_by(self, app: ProcessId | None, in_use: Amounts) -> Ledger:
        """The ledger for an app that has `in_use` of what it asks for already: that is not in its own way, where it is
        charged by another of its names."""

        def lessened(extra: Extra) -> Extra:
            beyond = headroom.unused(extra.beyond, in_use)
            counted_twice = headroom.less(extra.beyond, beyond)
            return replace(extra, charge=headroom.less(extra.charge, counted_twice), beyond=beyond)

        extras = (lessened(extra) if app is not None and extra.holder == app else extra for extra in self.extras)
        return replace(self, extras=tuple(extras))

    def without_what_passes(self) -> Ledger:
        """The ledger if every load under way came to nothing and every command line could be read."""
        accounts: dict[str, Account] = {}
        for name, account in self.accounts.items():
            if account.reservation is None:
                accounts[name] = account
            elif account.state.is_loaded:
                accounts[name] = replace(account, charge=account.service.budget, reservation=None)
            elif account.service.pinned:
                accounts[name] = Account(account.service, State.STOPPED, account.service.budget)
        return replace(self, accounts=accounts, extras=(), reservations=())

    def with_reservation(self, service: Service, reservation: Reservation) -> Ledger:
        """The ledger as it is once `reservation` of `service` stands."""
        account = Account(service, State.RESERVED, reservation.budget, reservation=reservation)
        return replace(
            self,
            accounts={**self.accounts, service.name: account},
            reservations=(*self.reservations, reservation),
        )


def derive(capacity: Capacity, view: View) -> Ledger:
    """The ledger that `view` shows. Total: any view gives one."""
    held: dict[str, list[Reservation]] = {}
    for reservation in view.reservations:
        held.setdefault(reservation.service, []).append(reservation)
    seen: dict[str, list[Sighting]] = {}
    for sighting in view.sightings:
        seen.setdefault(sighting.service, []).append(sighting)
    names = dict.fromkeys((*seen, *view.checks, *held, *(service.name for service in capacity.pinned)))
    accounts: dict[str, Account] = {}
    for name in names:
        service = capacity.services.get(name)
        if service is not None:
            account = _account(service, tuple(seen.get(name, ())), view, held.get(name, ()))
            if account.charge or account.check is not None or account.reservation is not None:
                accounts[name] = account
    live = tuple(r for r in view.reservations if not _ended(r, accounts))
    extras = tuple(_extras(capacity, view, accounts))
    return Ledger(
        capacity=capacity,
        pool=headroom.pool(capacity.host),
        accounts=accounts,
        extras=extras,
        reservations=live,
        waiters=tuple(sorted(view.waiters, key=lambda waiter: waiter.order)),
        warnings=(*view.warnings, *_warnings(accounts, view), *_told_of(extras)),
    )


def _account(service: Service, sightings: tuple[Sighting, ...], view: View, held: Sequence[Reservation]) -> Account:
    check = view.checks.get(service.name)
    measured = view.footprints.get(service.name)
    state = _state(sightings, check, held)
    # A record may hold anything: what it promises is never less than nothing.
    promised = headroom.total(headroom.unused(each.budget) for each in held)
    if state.is_loaded:
        charge = headroom.larger(service.budget, measured or NOTHING)
        account = Account(service, state, charge, measured, sightings, check)
        if not held or not account.mention_only:
            return account
        # A mention is charged, but ends no reservation: it may be gone before the real one is there.
        return replace(account, charge=headroom.larger(charge, promised), reservation=held[-1])
    committed = service.pinned or any(each.damaged for each in held)
    charge = headroom.larger(promised, service.budget) if committed else promised
    return Account(service, state, charge, measured, sightings, check, held[-1] if held else None)


def _state(sightings: tuple[Sighting, ...], check: Check | None, held: Sequence[Reservation]) -> State:
    if sightings:
        real = [seen.process for seen in sightings if not seen.mention]
        if real and all(process.stopped for process in real):
            return State.SUSPENDED
        return State.HALF_LOADED if check is not None and check.loaded is False else State.LOADED
    if check is not None and check.loaded:
        return State.LOADED
    return State.RESERVED if held else State.STOPPED


def _ended(reservation: Reservation, accounts: Mapping[str, Account]) -> bool:
    account = accounts.get(reservation.service)
    return account is not None and account.state.is_loaded and not account.mention_only


def _extras(capacity: Capacity, view: View, accounts: Mapping[str, Account]) -> Iterator[Extra]:
    yield from _undeclared(capacity, view, accounts)
    dearest = _dearest_unseen(capacity, accounts) if any(unread.could_be_ours for unread in view.unread) else NOTHING
    for unread in view.unread:
        charge = headroom.larger(unread.resident, dearest) if unread.could_be_ours else unread.resident
        label = f"process {unread.process.pid}"
        yield Extra(label, charge, "its command line could not be read in time, so it is charged as what it could be")


def _undeclared(capacity: Capacity, view: View, accounts: Mapping[str, Account]) -> Iterator[Extra]:
    """What fills one promise of a holder fills no other; what is beyond all of them is charged once, with the last."""
    why = "kept for an app, or reserved by another capacity.yaml on this machine"
    reservations = [held for held in view.reservations if held.service not in capacity.services]
    left: dict[ProcessId | None, Amounts] = {each: headroom.unused(held) for each, held in view.holdings.items()}
    last = {held.holder: held for held in reservations}
    # Their memory is charged already, where they are a declared service, or may be one.
    charged = {process.id for account in accounts.values() for process in account.processes}
    charged |= {unread.process for unread in view.unread}
    for held in reservations:
        budget, measured = headroom.unused(held.budget), left.get(held.holder, NOTHING)
        over = left[held.holder] = headroom.unused(measured, budget)
        beyond = over if held is last[held.holder] and held.holder not in charged else NOTHING
        charge = headroom.total((budget, beyond))
        yield Extra(held.service, charge, why, headroom.unused(budget, measured), beyond, held.holder)


def _told_of(extras: Sequence[Extra]) -> Iterator[str]:
    for extra in extras:
        if extra.holder is not None and any(extra.beyond.values()):
            own = [each for each in extras if each.holder == extra.holder]
            holds = headroom.total(each.charge for each in own)
            promised = headroom.less(holds, extra.beyond)
            yield (
                f"{' and '.join(dict.fromkeys(each.label for each in own))} (process {extra.holder.pid}) holds "
                f"{to_mb(holds.get(RAM, 0)):,} MB, and {to_mb(promised.get(RAM, 0)):,} MB were promised to it: it is "
                "charged what it holds; give it a larger budget, or close it"
            )


def _dearest_unseen(capacity: Capacity, accounts: Mapping[str, Account]) -> Amounts:
    """A command line that could not be read may be any service that is not accounted for: the dearest of them."""
    dearest = NOTHING
    for service in capacity.services.values():
        account = accounts.get(service.name)
        if service.process_pattern is not None and not (account and account.charge):
            dearest = headroom.larger(dearest, service.budget)
    return dearest


def _warnings(accounts: Mapping[str, Account], view: View) -> Iterator[str]:
    owners: dict[int, list[str]] = {}
    for sighting in view.sightings:
        owners.setdefault(sighting.process.id.pid, []).append(sighting.service)
    for pid, names in owners.items():
        if len(names) > 1:
            yield f"process {pid} is claimed by {' and '.join(sorted(names))}: narrow their process_pattern or program"
    for name, account in accounts.items():
        for sighting in account.sightings:
            if sighting.mention:
                yield (
                    f"{name}: process {sighting.process.id.pid} ({sighting.program}) only mentions it in an argument; "
                    f"it is charged and will never be signalled (admit explain {name})"
                )
        if account.check is not None and account.check.loaded is None:
            yield f"{name}: its loaded_check_cmd could not be run: {account.check.detail}"
        if account.measured and account.state.is_loaded and not headroom.fits(account.measured, account.service.budget):
            yield f"{name} holds more than its budget: it is charged what it holds (admit status)"
        peak = view.peaks.get(name)
        if peak is not None and _is_far_below(account, peak):
            yield (
                f"{name} has held {to_mb(peak[RAM]):,} MB at most since it started "
                f"{show_duration(60 * round((_age_s(account) or 0) / 60))} ago, and its budget is "
                f"{to_mb(account.service.budget[RAM]):,} MB: use it as you mean to and run admit measure {name}"
            )
    for held in view.reservations:
        if held.damaged:
            yield f"{held.service}: a damaged reservation record is charged its whole budget until it expires"


def _is_far_below(account: Account, peak: Amounts) -> bool:
    """Whether its budget lies: it was there long enough to be used, and half of the budget was never needed."""
    budget, age_s = account.service.budget.get(RAM, 0), _age_s(account)
    if account.state is not State.LOADED or age_s is None or age_s < max(SETTLED_S, account.service.load_timeout_s):
        return False
    return peak.get(RAM, 0) < budget * FAR_BELOW and budget - peak.get(RAM, 0) >= WORTH_TELLING


def _age_s(account: Account) -> float | None:
    """How long its youngest process has been there; None where that is not known of each."""
    ages = [process.age_s for process in account.processes]
    known = [age_s for age_s in ages if age_s is not None]
    return min(known) if known and len(known) == len(ages) else None
