"""headroom: the one place where memory is added up. Per resource; the result may be negative, and then stays so."""

from __future__ import annotations

from collections.abc import Iterable

from admitd.core.terms import NOTHING, Amounts, Host


def total(amounts: Iterable[Amounts]) -> Amounts:
    """The sum, resource by resource."""
    out: dict[str, int] = {}
    for each in amounts:
        for resource, amount in each.items():
            out[resource] = out.get(resource, 0) + amount
    return out


def less(whole: Amounts, *parts: Amounts) -> Amounts:
    """`whole` minus every part; negative where the parts are more."""
    out = dict(whole)
    for part in parts:
        for resource, amount in part.items():
            out[resource] = out.get(resource, 0) - amount
    return out


def larger(one: Amounts, other: Amounts) -> Amounts:
    """The larger of the two, resource by resource."""
    if not other:
        return one
    return {resource: max(one.get(resource, 0), other.get(resource, 0)) for resource in {**one, **other}}


def missing(need: Amounts, free: Amounts) -> Amounts:
    """What `free` lacks of `need`, only the resources that are short; empty when it fits. A need of 0 is no need."""
    return {
        resource: amount - free.get(resource, 0)
        for resource, amount in need.items()
        if amount > 0 and amount > free.get(resource, 0)
    }


def fits(need: Amounts, free: Amounts) -> bool:
    """Whether every resource of `need` is free. What is not needed may be over-committed."""
    return not missing(need, free)


def pool(host: Host) -> Amounts:
    """What services may share: physical minus reserved minus safety."""
    return less(host.physical, host.reserved, host.safety)


def unused(promised: Amounts, measured: Amounts = NOTHING) -> Amounts:
    """The part of a promise that is not in use yet; never negative."""
    return {resource: max(0, amount - measured.get(resource, 0)) for resource, amount in promised.items()}


def still_available(available: Amounts, promises: Iterable[Amounts], floor: Amounts) -> Amounts:
    """What the system could still give a newcomer: measured available memory, less promises that are not used yet,
    less the floor that is never admitted into.

    Measured memory already contains what running services use, so only the unused part of a promise counts.
    """
    return less(available, total(promises), floor)
