"""arbitrary: hosts as hypothesis invents them, from plausible ones to ones that make no sense."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from admitd.core.terms import Capacity, Host, Level, Reading, Request, Service, Waiter
from tests.core.worlds import (
    MB,
    Footprint,
    Holding,
    Seen,
    capacity,
    check,
    holder,
    loaded,
    mentioned,
    reserved,
    service,
    unread,
    waiting,
)

NAMES = "abcdefgh"
PRESENCES = ("absent", "process", "suspended", "mention", "process and mention", "check", "reserved")


@dataclass(frozen=True)
class Someone:
    """One declared service and how one look finds it."""

    service: Service
    presence: str

    @property
    def is_loaded(self) -> bool:
        return self.presence not in ("absent", "reserved")

    @property
    def has_a_process(self) -> bool:
        return self.presence in ("process", "suspended", "process and mention")

    @property
    def seen(self) -> tuple[Seen, ...]:
        name = self.service.name
        promise = reserved(name, 0)
        return {
            "absent": (),
            "process": (loaded(name),),
            "suspended": (loaded(name, stopped=True),),
            "mention": (mentioned(name),),
            "process and mention": (loaded(name), mentioned(name)),
            "check": (check(name, True),),
            "reserved": (type(promise)(promise.id, name, self.service.budget, promise.holder, promise.deadline_s),),
        }[self.presence]


@dataclass(frozen=True)
class Case:
    """A host, and a newcomer that is declared there and rests."""

    capacity: Capacity
    others: tuple[Someone, ...]
    newcomer: Service

    @property
    def seen(self) -> list[Seen]:
        return [seen for someone in self.others for seen in someone.seen]


def budgets(resources: tuple[str, ...], most: int = 6) -> st.SearchStrategy[dict[str, int]]:
    small = st.integers(0, most).map(lambda mb: mb * MB)
    return st.fixed_dictionaries(dict.fromkeys(resources, small)).filter(lambda budget: any(budget.values()))


@st.composite
def cases(draw: st.DrawFn, resources: tuple[str, ...] = ("ram",), most: int = 8) -> Case:
    """Up to `most` others, with many ties in size and priority, and a pool that is about as large as they are."""
    names = NAMES[: draw(st.integers(0, most))]
    everyone = []
    for name in names:
        declared = service(
            name,
            budget=draw(budgets(resources)),
            priority=draw(st.integers(-1, 2)),
            pinned=draw(st.sampled_from([False] * 7 + [True])),
            evictable=draw(st.sampled_from([True] * 7 + [False])),
            unload_cmd=draw(st.sampled_from([None, "unload"])),
        )
        everyone.append((declared, draw(st.sampled_from(("process", *PRESENCES)))))
    neighbours = draw(st.sampled_from([(), (), ()]) | st.sets(st.sampled_from(names), max_size=2)) if names else ()
    newcomer = service(
        "newcomer",
        budget=draw(budgets(resources, most=12)),
        priority=draw(st.integers(0, 2)),
        exclusive_with=neighbours,
        pinned=draw(st.sampled_from([False] * 7 + [True])),
    )
    pool = {resource: draw(st.integers(4, 30)) * MB for resource in resources}
    declared_here = capacity(newcomer, *(each for each, _ in everyone), pool=pool, live_veto=False)
    others = tuple(Someone(declared_here.services[each.name], presence) for each, presence in everyone)
    return Case(declared_here, others, declared_here.services["newcomer"])


ANY_AMOUNT = st.integers(-(20 * MB), 40 * MB)
ANY_AMOUNTS = st.dictionaries(st.sampled_from(["ram", "vram0", "vram1"]), ANY_AMOUNT)
SOME_AMOUNTS = st.dictionaries(st.sampled_from(["ram", "vram0"]), st.integers(0, 12 * MB)).filter(
    lambda budget: any(budget.values())
)
KNOWN_OR_NOT = st.sampled_from([*NAMES[:6], "stranger"])
HOLDERS = st.none() | st.integers(1, 3).map(holder)


@st.composite
def wild_capacities(draw: st.DrawFn) -> Capacity:
    """Hosts that capacity.yaml's reader would refuse: negative pools, exclusion with oneself or with no one."""
    services = [
        service(
            name,
            budget=draw(SOME_AMOUNTS),
            priority=draw(st.integers(-2, 2)),
            pinned=draw(st.booleans()),
            evictable=draw(st.booleans()),
            unload_cmd=draw(st.sampled_from([None, "unload"])),
            process_pattern=draw(st.sampled_from([None, name])),
            exclusive_with=draw(st.sets(KNOWN_OR_NOT, max_size=2)),
        )
        for name in NAMES[: draw(st.integers(1, 6))]
    ]
    host = Host("wild", draw(ANY_AMOUNTS), draw(ANY_AMOUNTS), draw(ANY_AMOUNTS))
    tame = capacity(*services, live_veto=draw(st.booleans()))
    return Capacity(host, tame.services, tame.live_veto)


WILD_SIGHTINGS = st.one_of(
    st.builds(loaded, KNOWN_OR_NOT, st.integers(1, 9)),
    st.builds(lambda name, age: loaded(name, age_s=age), KNOWN_OR_NOT, st.floats(-10, 900)),
    st.builds(lambda name: loaded(name, stopped=True), KNOWN_OR_NOT),
    st.builds(mentioned, KNOWN_OR_NOT),
)
WILD_SEEN: st.SearchStrategy[Seen] = st.one_of(
    WILD_SIGHTINGS,
    st.builds(check, KNOWN_OR_NOT, st.sampled_from([True, False, None])),
    st.builds(
        lambda name, mb, pid, damaged, id: reserved(name, mb, pid, damaged=damaged, id=id),
        KNOWN_OR_NOT,
        st.integers(-20, 40),
        st.integers(1, 3),
        st.booleans(),
        st.sampled_from("rst"),
    ),
    st.builds(Footprint, KNOWN_OR_NOT, ANY_AMOUNTS),
    st.builds(Holding, st.integers(1, 3).map(holder), ANY_AMOUNTS),
    st.builds(lambda pid, mb, ours: unread(pid, mb, could_be_ours=ours), st.integers(1, 9), ANY_AMOUNT, st.booleans()),
)
WAITERS: st.SearchStrategy[Waiter] = st.builds(
    waiting, KNOWN_OR_NOT, st.integers(-2, 2), st.floats(0, 9), st.sampled_from("uvw")
)
READINGS = st.builds(
    Reading, st.none() | ANY_AMOUNTS, st.none() | st.sampled_from(Level), st.sampled_from(["", "because"])
)


@st.composite
def wild_requests(draw: st.DrawFn, declared: Capacity) -> Request:
    """A request for a declared service, or for one that a changed file declares no longer."""
    gone = st.builds(lambda budget: service("gone", budget=budget), SOME_AMOUNTS)
    return Request(
        draw(st.sampled_from(list(declared.services.values())) | gone),
        draw(st.floats(0, 9)),
        draw(HOLDERS),
        draw(st.booleans()),
        draw(st.none() | st.sampled_from("uvw")),
    )
