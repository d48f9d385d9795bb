"""eviction: which services would have to go so that one fits. A plan on paper, never an act.

Who may be a victim: loaded, not being loaded (a mention beside a promise), evictable, not pinned, of no higher priority
than the newcomer, and with a way to unload it that gives its charge back. Who must be: an exclusive neighbour that is
loaded.

Which plan is the cheapest, in order:
1. As few victims as possible from the highest priority that is touched, then from the next lower one, and so on;
   so a lower priority always goes first, and no one goes who is not needed.
2. Among those, the largest is spared, then the next largest.
3. Then the one whose name comes last in the alphabet is spared.
"Large" is the charge in the resource that is short. Where several resources are short at once, the plan is sufficient
and without anyone who is not needed, but the order is only followed greedily: those are given back first whose
priority, charge summed over what is short, and name come last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from admitd.core import headroom
from admitd.core.ledger import Account, Ledger
from admitd.core.terms import Amounts, Service


@dataclass(frozen=True, slots=True)
class Plan:
    """Unload `victims`, in this order, and the service fits, with `free_after` left before it loads."""

    victims: tuple[str, ...]
    free_after: Amounts


def may_go(account: Account, newcomer: Service) -> bool:
    """Whether `account` may be a victim of `newcomer`."""
    service = account.service
    return (
        account.state.is_loaded
        and account.reservation is None
        and service.evictable
        and not service.pinned
        and service.priority <= newcomer.priority
        and service.name != newcomer.name
        and account.stays is None
    )


def exclusive_neighbours(ledger: Ledger, service: Service) -> tuple[Account, ...]:
    """The neighbours that exclude `service` now: loaded or reserved."""
    accounts = (ledger.accounts.get(name) for name in sorted(service.exclusive_with))
    return tuple(a for a in accounts if a and (a.state.is_loaded or a.reservation is not None))


def plan(ledger: Ledger, service: Service) -> Plan | None:
    """The cheapest set of victims that makes `service` fit; None where no allowed set does."""
    must = exclusive_neighbours(ledger, service)
    if not all(may_go(account, service) for account in must):
        return None
    gone = {account.service.name for account in must}
    free = headroom.total([ledger.free_for(service), *(account.charge for account in must)])
    short = headroom.missing(service.budget, free)
    if short:
        candidates = [a for n, a in ledger.accounts.items() if n not in gone and may_go(a, service)]
        chosen = _cheapest(candidates, short)
        if chosen is None:
            return None
        must = (*must, *chosen)
    victims = sorted(must, key=_leaves_first)
    free_after = headroom.total([ledger.free_for(service), *(account.charge for account in victims)])
    return Plan(tuple(account.service.name for account in victims), free_after)


def cheapest(accounts: Iterable[Account], newcomer: Service, short: Amounts) -> tuple[str, ...] | None:
    """The cheapest victims among `accounts` whose charges make up for `short`; None where none do."""
    chosen = _cheapest([account for account in accounts if may_go(account, newcomer)], short)
    return None if chosen is None else tuple(account.service.name for account in sorted(chosen, key=_leaves_first))


def _leaves_first(account: Account) -> tuple[int, str]:
    return (account.service.priority, account.service.name)


def _cheapest(candidates: Sequence[Account], short: Amounts) -> list[Account] | None:
    if len(short) > 1:
        return _spare_the_dearest(candidates, short)
    ((resource, need),) = short.items()
    tiers: dict[int, list[tuple[int, Account]]] = {}
    for account in candidates:
        freed = account.charge.get(resource, 0)
        if freed > 0:
            tiers.setdefault(account.service.priority, []).append((freed, account))
    return _fewest_from_the_top(tiers, need)


def _fewest_from_the_top(tiers: dict[int, list[tuple[int, Account]]], need: int) -> list[Account] | None:
    """Exact for one resource. Pass 1 fixes how many each priority gives, from the top, each time with the largest;
    what the largest free beyond the need is the slack that pass 2 spends on sparing large ones."""
    below = sum(freed for tier in tiers.values() for freed, _ in tier)
    if below < need:
        return None
    counts: list[tuple[list[tuple[int, Account]], int]] = []
    slack = -need
    for priority in sorted(tiers, reverse=True):
        # Dearest first: the largest, and of equals the one whose name comes last.
        tier = sorted(tiers[priority], key=lambda pair: pair[1].service.name, reverse=True)
        tier.sort(key=lambda pair: pair[0], reverse=True)
        below -= sum(freed for freed, _ in tier)
        count = 0
        while slack + below < 0:
            slack += tier[count][0]
            count += 1
        counts.append((tier, count))
    chosen: list[Account] = []
    for tier, count in counts:
        slack = _spare_the_large(tier, count, slack, chosen)
    return chosen


def _spare_the_large(tier: list[tuple[int, Account]], count: int, slack: int, chosen: list[Account]) -> int:
    """Pick `count` of `tier` (dearest first), passing over each that the slack can pay for; returns the slack left."""
    at = 0
    while count:
        next_in = at + count
        loss = tier[at][0] - tier[next_in][0] if next_in < len(tier) else None
        if loss is not None and loss <= slack:
            slack -= loss
        else:
            chosen.append(tier[at][1])
            count -= 1
        at += 1
    return slack


def _spare_the_dearest(candidates: Sequence[Account], short: Amounts) -> list[Account] | None:
    """For several short resources at once: take all, then give back from the dearest on whoever is not needed."""
    dearest_first = sorted(
        candidates,
        key=lambda a: (a.service.priority, sum(a.charge.get(r, 0) for r in short), a.service.name),
        reverse=True,
    )
    freed = headroom.total(a.charge for a in dearest_first)
    if headroom.missing(short, freed):
        return None
    needed: list[Account] = []
    for account in dearest_first:
        rest = headroom.less(freed, account.charge)
        if headroom.missing(short, rest):
            needed.append(account)
        else:
            freed = rest
    return needed
