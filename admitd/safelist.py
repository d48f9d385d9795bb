"""safelist: who must keep running: by which patterns they are matched, and how a look, or a glimpse, finds them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from admitd.core.ledger import Account
from admitd.core.stopped import Safelisted
from admitd.core.terms import RAM, Capacity, Service, Sighting
from admitd.processes.glimpse import glimpse

NAME: Final = "safelist..{}"
"""As what an entry that is a pattern is matched; no service can be called so."""


def services_of(capacity: Capacity) -> dict[str, Service]:
    """The patterns of the safelist, as what they are matched as, by the entry of the file."""
    patterns = [entry for entry in capacity.sentinel.safelist if entry not in capacity.services]
    free = (name for number in itertools.count() if (name := NAME.format(number)) not in capacity.services)
    return {entry: Service(name, {RAM: 1}, process_pattern=entry) for entry, name in zip(patterns, free, strict=False)}


def seen(capacity: Capacity, matched: Iterable[Sighting], accounts: Mapping[str, Account]) -> Iterable[Safelisted]:
    """Everything on the safelist that lives; mentions are nobody's. `matched`: what its patterns match."""
    entries = {service.name: entry for entry, service in services_of(capacity).items()}
    named = [(entries[each.service], each) for each in matched if not each.mention and each.service in entries]
    for name in capacity.sentinel.safelist:
        account = accounts.get(name)
        named += [(name, each) for each in (account.sightings if account else ()) if not each.mention]
    for name, each in named:
        stands = glimpse(each.process.id)
        starved = stands is not None and stands.starved
        yield Safelisted(each.process, name, each.service, starved)


def glimpsed(known: Iterable[Safelisted]) -> Iterable[Safelisted]:
    """Those that a look found, as they stand now; who is gone is left out."""
    for each in known:
        stands = glimpse(each.process.id)
        if stands is not None:
            process = replace(each.process, stopped=stands.stopped, traced=stands.traced)
            yield replace(each, process=process, starved=stands.starved)
