"""What holds of every host, however odd: each request gets a sound verdict, and each remedy works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from admitd.core import eviction, headroom
from admitd.core.admission import decide, settle
from admitd.core.ledger import Ledger
from admitd.core.terms import NOTHING, Reading, Request, Reservation, Waiter
from admitd.core.verdict import Admitted, AlreadyLoaded, Reason, Refused, Unload, Verdict, Wait
from tests.core.arbitrary import READINGS, WAITERS, WILD_SEEN, Case, cases, wild_capacities, wild_requests
from tests.core.worlds import (
    QUIET,
    Seen,
    capacity,
    footprint,
    holder,
    ledger,
    loaded,
    reading,
    service,
    without,
)

MAKES_ROOM = (Reason.NO_HEADROOM, Reason.EXCLUSIVE)
VETOES = (Reason.PRESSURE, Reason.NO_AVAILABLE_MEMORY)


def _in_the_way(derived: Ledger, name: str) -> bool:
    account = derived.accounts.get(name)
    return account is not None and (account.state.is_loaded or account.reservation is not None)


def assert_sound(derived: Ledger, request: Request, verdict: Verdict) -> None:
    """What any verdict promises, whatever the ledger it was reached on."""
    wanted, free = request.service, derived.free_for(request.service)
    assert verdict.service == wanted.name
    assert verdict.budget == wanted.budget
    match verdict:
        case AlreadyLoaded(state=state):
            assert state.is_loaded
        case Admitted(reservation=Reservation() as own):
            assert own.service == wanted.name
            assert own.holder == request.holder
        case Admitted():
            assert not _in_the_way(derived, wanted.name)
            assert headroom.fits(wanted.budget, free)
            assert not any(_in_the_way(derived, name) for name in wanted.exclusive_with)
        case Refused():
            assert_sound_refusal(derived, request, verdict)


def assert_sound_refusal(derived: Ledger, request: Request, refused: Refused) -> None:
    wanted = request.service
    assert refused.message.endswith(".")
    assert refused.free == derived.free_for(wanted)
    assert all(amount > 0 for amount in refused.shortfall.values())
    assert (refused.retry_after_s is not None) == isinstance(refused.remedy, Wait)
    assert refused.victims == (refused.remedy.services if isinstance(refused.remedy, Unload) else ())
    assert wanted.name not in refused.victims
    for name in refused.victims:
        assert eviction.may_go(derived.accounts[name], wanted)
    if refused.reason is Reason.TOO_LARGE:
        assert refused.remedy is None
        assert refused.shortfall
    if refused.reason in MAKES_ROOM:
        assert refused.shortfall == headroom.missing(wanted.budget, refused.free)
    if refused.reason is Reason.NO_HEADROOM:
        assert refused.shortfall
        assert refused.blockers
        if refused.victims:
            freed = headroom.total(derived.accounts[name].charge for name in refused.victims)
            assert headroom.fits(refused.shortfall, freed)
    if refused.reason is Reason.EXCLUSIVE:
        neighbours = {name for name in wanted.exclusive_with if _in_the_way(derived, name)}
        assert neighbours <= {blocker.label for blocker in refused.blockers}


@st.composite
def wild_worlds(draw: st.DrawFn) -> tuple[Ledger, Reading, list[Request]]:
    declared = draw(wild_capacities())
    seen: list[Seen] = draw(st.lists(WILD_SEEN, max_size=10))
    waiters = draw(st.lists(WAITERS, max_size=3))
    requests = draw(st.lists(wild_requests(declared), min_size=1, max_size=4))
    return ledger(declared, *seen, *waiters), draw(READINGS), requests


@settings(max_examples=400)
@given(wild_worlds(), st.lists(WAITERS, max_size=3))
def test_decide_gives_every_request_a_sound_verdict(
    world: tuple[Ledger, Reading, list[Request]], ahead: list[Waiter]
) -> None:
    derived, now, requests = world
    for request in requests:
        assert_sound(derived, request, decide(derived, now, request, ahead))


@settings(max_examples=400)
@given(wild_worlds())
def test_the_remedy_makes_it_fit(world: tuple[Ledger, Reading, list[Request]]) -> None:
    derived, now, requests = world
    for request in requests:
        refused = decide(derived, now, request)
        if not isinstance(refused, Refused) or refused.reason not in MAKES_ROOM:
            continue
        if isinstance(refused.remedy, Unload):
            after = decide(without(derived, *refused.remedy.services), now, request)
            assert isinstance(after, Admitted) or (isinstance(after, Refused) and after.reason in VETOES)
        elif isinstance(refused.remedy, Wait):
            rest = decide(derived.without_what_passes(), QUIET, request)
            assert not isinstance(rest, Refused) or rest.reason in VETOES or isinstance(rest.remedy, Unload)
        else:
            everyone = [n for n, a in derived.accounts.items() if eviction.may_go(a, request.service)]
            assert isinstance(decide(without(derived, *everyone), now, request), Refused)


def _gone(derived: Ledger, now: Reading, names: Sequence[str]) -> tuple[Ledger, Reading]:
    """The world once these are unloaded and what they were measured to hold is available."""
    back = [headroom.unused(derived.accounts[name].measured or NOTHING) for name in names]
    return without(derived, *names), replace(now, available=headroom.total([now.available or NOTHING, *back]))


HELD = st.tuples(st.integers(0, 12), st.sampled_from([-1, 0, 1]), st.booleans(), st.booleans())


@settings(max_examples=400)
@given(st.lists(HELD, max_size=5), st.integers(0, 40))
def test_unloading_for_want_of_available_memory_is_enough_and_no_more(
    held: list[tuple[int, int, bool, bool]], available_mb: int
) -> None:
    others = [service(f"s{n}", 10, priority=each[1], evictable=each[2]) for n, each in enumerate(held)]
    declared = capacity(service("new", 20), *others)
    seen: list[Seen] = [loaded(f"s{n}", age_s=1.0 if each[3] else 900.0) for n, each in enumerate(held)]
    seen += [footprint(f"s{n}", each[0]) for n, each in enumerate(held)]
    derived, now, asked = ledger(declared, *seen), reading(4_096 + available_mb), Request(declared.services["new"])
    refused = decide(derived, now, asked)
    if isinstance(refused, Admitted):
        return
    assert isinstance(refused, Refused) and refused.reason is Reason.NO_AVAILABLE_MEMORY
    assert_sound(derived, asked, refused)
    if not refused.victims:
        everyone = [n for n, a in derived.accounts.items() if eviction.may_go(a, asked.service)]
        assert isinstance(decide(*_gone(derived, now, everyone), asked), Refused)
        return
    assert isinstance(decide(*_gone(derived, now, refused.victims), asked), Admitted)
    for spared in refused.victims:
        rest = decide(*_gone(derived, now, [name for name in refused.victims if name != spared]), asked)
        assert isinstance(rest, Refused) and rest.reason is Reason.NO_AVAILABLE_MEMORY


@given(wild_worlds())
def test_settle_answers_everyone_in_the_order_they_were_given(world: tuple[Ledger, Reading, list[Request]]) -> None:
    derived, now, requests = world
    verdicts = settle(derived, now, requests)
    assert [verdict.service for verdict in verdicts] == [request.service.name for request in requests]


@given(cases(), st.lists(WAITERS, max_size=3))
def test_a_batch_admits_no_more_than_there_is_room_for(case: Case, waiters: list[Waiter]) -> None:
    derived = ledger(case.capacity, *case.seen, *waiters)
    requests = [Request(each, 0.0, holder(i + 1)) for i, each in enumerate(case.capacity.services.values())]
    verdicts = settle(derived, QUIET, requests)
    new = [r.service for r, v in zip(requests, verdicts, strict=True) if isinstance(v, Admitted) and not v.reservation]
    free = headroom.total([derived.free, *(a.charge for a in map(derived.account, new))])
    if new:
        assert headroom.fits(headroom.total(each.budget for each in new), free)
    for one in new:
        assert not one.exclusive_with & {other.name for other in new}


@given(cases())
def test_exclusion_is_symmetric(case: Case) -> None:
    quiet = replace(case.capacity, services={n: replace(s, pinned=False) for n, s in case.capacity.services.items()})
    for one in quiet.services.values():
        for other in quiet.services.values():
            if one.name != other.name:
                keeps_out = [
                    decide(ledger(quiet, loaded(first.name)), QUIET, Request(second))
                    for first, second in ((one, other), (other, one))
                ]
                found = [isinstance(v, Refused) and v.reason is Reason.EXCLUSIVE for v in keeps_out]
                fits = [not (isinstance(v, Refused) and v.reason is Reason.TOO_LARGE) for v in keeps_out]
                assert found == [
                    fits[0] and other.name in one.exclusive_with,
                    fits[1] and one.name in other.exclusive_with,
                ]
                assert (other.name in one.exclusive_with) == (one.name in other.exclusive_with)
