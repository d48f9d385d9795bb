"""footprints: what the processes of each service hold, and the most they ever held, as one look found them; and what
those hold to whom something was promised that is not declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from admitd.core.terms import RAM, Amounts, Capacity, ProcessId, Reservation
from admitd.families import Families
from admitd.memory import Memory

_NOTHING: Final[Mapping[str, Amounts]] = MappingProxyType({})


def held(memory: Memory, capacity: Capacity, families: Families) -> Mapping[str, Amounts]:
    """What each service holds now, its children with it; one that can't be read is left out."""
    out: dict[str, Amounts] = {}
    for name, ids in families.items():
        found = memory.footprint(ids, capacity.services[name].budget.get(RAM, 0))
        if found is not None:
            out[name] = {RAM: found}
    return out


def holdings(memory: Memory, capacity: Capacity, reservations: Iterable[Reservation]) -> Mapping[ProcessId, Amounts]:
    """What the holders of reservations for what is not declared hold now; one that can't be read is left out."""
    holders = {
        each.holder for each in reservations if each.holder is not None and each.service not in capacity.services
    }
    found = {holder: memory.footprint([holder], 0) for holder in holders}
    return {holder: {RAM: held} for holder, held in found.items() if held is not None}


def peaks(memory: Memory, families: Families) -> Mapping[str, Amounts]:
    """The most that the processes of each service ever held, summed: no less than what they held together."""
    out: dict[str, Amounts] = {}
    for name, ids in families.items():
        known = [peak for each in ids if (peak := memory.peak(each)) is not None]
        if len(known) == len(ids):
            out[name] = {RAM: sum(known)}
    return out


def unasked(memory: Memory, families: Families) -> Mapping[str, Amounts]:
    """No peaks: they say something of a budget and nothing of a request, so only who looks pays for them."""
    return _NOTHING
