"""The plan of victims: sufficient, without anyone who is not needed, and the cheapest by its documented order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain, combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from admitd.core import eviction
from tests.core.arbitrary import Case, Someone, cases
from tests.core.worlds import (
    MB,
    Footprint,
    Seen,
    anothers,
    capacity,
    check,
    footprint,
    ledger,
    loaded,
    mb,
    mentioned,
    ram,
    reserved,
    service,
)

NEWCOMER = service("newcomer", 10_000, priority=50)


@pytest.mark.parametrize(
    ("budgets_mb", "pool_mb", "victims"),
    [
        pytest.param({"a": (4_000, 0)}, 14_000, (), id="no one goes where it fits"),
        pytest.param({"a": (4_000, 0)}, 13_999, ("a",), id="one megabyte short costs a victim"),
        pytest.param(
            {"low": (1_000, 1), "high": (9_000, 2)}, 10_000 + 9_000, ("low",), id="a lower priority always goes first"
        ),
        pytest.param(
            {"a": (3_000, 1), "b": (3_000, 1), "high": (6_000, 2)},
            10_000 + 6_000,
            ("a", "b"),
            id="two of a lower priority go before one of a higher",
        ),
        pytest.param(
            {"a": (3_000, 1), "b": (3_000, 1), "c": (6_000, 1)},
            10_000 + 6_000,
            ("c",),
            id="of equal priority one goes rather than two",
        ),
        pytest.param(
            {"big": (8_000, 1), "just-enough": (5_000, 1)}, 10_000 + 8_000, ("just-enough",), id="the largest is spared"
        ),
        pytest.param(
            {"a": (5_000, 1), "b": (5_000, 1), "c": (5_000, 1)},
            10_000 + 10_000,
            ("a",),
            id="of equals the one whose name comes last is spared",
        ),
        pytest.param(
            {"low": (2_000, 1), "mid": (4_000, 2), "big": (9_000, 2)},
            10_000 + 9_000,
            ("big",),
            id="of one priority a large victim alone goes before a smaller one that needs company",
        ),
        pytest.param(
            {"low": (2_000, 1), "mid": (6_000, 2)}, 10_000 + 2_000, ("mid",), id="a low one that is not needed stays"
        ),
        pytest.param({"peer": (5_000, 50)}, 12_000, ("peer",), id="an equal priority may go"),
        pytest.param({"boss": (5_000, 51)}, 12_000, None, id="a higher priority never goes"),
        pytest.param({"a": (5_000, 1)}, 9_999, None, id="no one goes in vain for what can never fit"),
    ],
)
def test_who_goes(budgets_mb: dict[str, tuple[int, int]], pool_mb: int, victims: tuple[str, ...] | None) -> None:
    others = [service(name, size, priority=priority) for name, (size, priority) in budgets_mb.items()]
    derived = ledger(capacity(NEWCOMER, *others, pool_mb=pool_mb), *(loaded(name) for name in budgets_mb))
    plan = eviction.plan(derived, NEWCOMER)
    assert (plan.victims if plan else None) == victims


@pytest.mark.parametrize(
    ("fields", "seen", "may_go"),
    [
        pytest.param({}, [loaded("x")], True, id="a process may be asked to stop"),
        pytest.param({}, [loaded("x", stopped=True)], True, id="so may a stopped one"),
        pytest.param({"pinned": True}, [loaded("x")], False, id="a pinned service stays"),
        pytest.param({"evictable": False}, [loaded("x")], False, id="a non-evictable service stays"),
        pytest.param({"priority": 51}, [loaded("x")], False, id="a higher priority stays"),
        pytest.param({}, [mentioned("x")], False, id="what only mentions it is never signalled"),
        pytest.param({"unload_cmd": "u"}, [mentioned("x")], False, id="nor does its own command end what mentions it"),
        pytest.param({}, [loaded("x"), mentioned("x")], False, id="what mentions it stays when it is gone"),
        pytest.param({}, [anothers("x")], False, id="another user's process can't be signalled"),
        pytest.param({}, [loaded("x"), anothers("x", 9)], False, id="nor is it enough to end the rest of it"),
        pytest.param({"unload_cmd": "u"}, [anothers("x")], True, id="but its own command may know a way"),
        pytest.param({}, [check("x", True)], False, id="a check that says yes is nothing to signal"),
        pytest.param({"unload_cmd": "u"}, [check("x", True)], True, id="but its own command may be run for it"),
        pytest.param({"unload_cmd": "u"}, [reserved("x", 8_000)], False, id="a load under way is not unloaded"),
        pytest.param(
            {"unload_cmd": "u"},
            [reserved("x", 8_000), mentioned("x")],
            False,
            id="nor where a mention is seen beside it",
        ),
        pytest.param({"unload_cmd": "u"}, [], False, id="what is not there frees nothing"),
    ],
)
def test_who_may_go(fields: dict[str, object], seen: list[Seen], may_go: bool) -> None:
    declared = capacity(NEWCOMER, service("x", 8_000, **fields), pool_mb=17_000)
    derived = ledger(declared, *seen)
    assert eviction.may_go(derived.account(declared.services["x"]), NEWCOMER) is may_go
    plan = eviction.plan(derived, NEWCOMER)
    fits_beside = not derived.accounts
    assert (plan.victims if plan else None) == (() if fits_beside else ("x",) if may_go else None)


@pytest.mark.parametrize(
    ("fields", "seen", "victims"),
    [
        pytest.param({}, [], (), id="an exclusive neighbour that rests is in no one's way"),
        pytest.param({}, [loaded("x")], ("x",), id="a loaded one must go even where both would fit"),
        pytest.param({"priority": 51}, [loaded("x")], None, id="one of a higher priority stays"),
        pytest.param({}, [reserved("x", 10)], None, id="one that is being loaded stays"),
        pytest.param({"pinned": True}, [], (), id="a pinned one that rests excludes no one"),
        pytest.param({"pinned": True}, [loaded("x")], None, id="a pinned one that is loaded stays"),
    ],
)
def test_exclusive_neighbours_must_go(
    fields: dict[str, object], seen: list[Seen], victims: tuple[str, ...] | None
) -> None:
    alone = service("newcomer", 10, priority=50, exclusive_with=["x"])
    plan = eviction.plan(ledger(capacity(alone, service("x", 10, **fields)), *seen), alone)
    assert (plan.victims if plan else None) == victims


def test_what_an_exclusive_neighbour_frees_spares_others() -> None:
    alone = service("newcomer", 10_000, priority=50, exclusive_with=["x"])
    declared = capacity(alone, service("x", 8_000, priority=9), service("low", 2_000), pool_mb=12_000)
    plan = eviction.plan(ledger(declared, loaded("x"), loaded("low")), alone)
    assert plan is not None
    assert plan.victims == ("x",)
    assert mb(plan.free_after) == 10_000


def test_victims_leave_by_priority_then_name() -> None:
    others = [service("z", 5_000, priority=1), service("a", 5_000, priority=2), service("b", 5_000, priority=1)]
    declared = capacity(NEWCOMER, *others, pool_mb=15_000)
    plan = eviction.plan(ledger(declared, loaded("z"), loaded("a"), loaded("b")), NEWCOMER)
    assert plan is not None
    assert plan.victims == ("b", "z")
    all_of_them = service("large", 15_000, priority=2)
    plan = eviction.plan(ledger(declared, loaded("z"), loaded("a"), loaded("b")), all_of_them)
    assert plan is not None
    assert plan.victims == ("b", "z", "a")


def test_a_runaway_counts_as_what_it_holds() -> None:
    declared = capacity(NEWCOMER, service("a", 4_000), service("b", 5_000), pool_mb=18_000)
    plan = eviction.plan(ledger(declared, loaded("a"), loaded("b"), footprint("a", 6_000)), NEWCOMER)
    assert plan is not None
    assert plan.victims == ("b",)
    plan = eviction.plan(ledger(declared, loaded("a"), loaded("b"), footprint("a", 9_000)), NEWCOMER)
    assert plan is not None
    assert plan.victims == ("a",)


def test_each_short_resource_is_made_room_in() -> None:
    others = [
        service("ram-hog", budget=ram(8_000)),
        service("gpu-hog", budget={"vram0": 20_000 * MB}),
        service("both", budget=ram(2_000, vram0=2_000), priority=9),
    ]
    newcomer = service("newcomer", budget=ram(6_000, vram0=12_000), priority=50)
    declared = capacity(newcomer, *others, pool=ram(12_000, vram0=24_000))
    derived = ledger(declared, *(loaded(each.name) for each in others), Footprint("gpu-hog", {"vram0": 1}))
    plan = eviction.plan(derived, newcomer)
    assert plan is not None
    assert plan.victims == ("gpu-hog", "ram-hog")
    assert plan.free_after == ram(10_000, vram0=22_000)


# The order of the docstring once more, by trying every set there is.


def _may_go(someone: Someone, case: Case) -> bool:
    theirs = someone.service
    way_to_unload = theirs.unload_cmd is not None or someone.has_a_process
    way_to_unload = way_to_unload and "mention" not in someone.presence
    stays = theirs.pinned or not theirs.evictable or theirs.priority > case.newcomer.priority
    return someone.is_loaded and way_to_unload and not stays


def _free(case: Case, gone: Iterable[Someone], resource: str = "ram") -> int:
    names = {each.service.name for each in gone}
    host = case.capacity.host
    free = host.physical.get(resource, 0) - host.reserved.get(resource, 0) - host.safety.get(resource, 0)
    for someone in case.others:
        charged = someone.presence != "absent" or someone.service.pinned
        if charged and someone.service.name not in names:
            free -= someone.service.budget.get(resource, 0)
    return free


def _fits(case: Case, gone: Iterable[Someone]) -> bool:
    gone = tuple(gone)
    return all(amount <= _free(case, gone, resource) for resource, amount in case.newcomer.budget.items() if amount)


def _excluded(case: Case) -> set[str]:
    here = {each.service.name for each in case.others if each.presence != "absent"}
    return here & case.newcomer.exclusive_with


def _sets_that_help(case: Case) -> list[tuple[Someone, ...]]:
    free_to_go = [each for each in case.others if _may_go(each, case)]
    every_set = chain.from_iterable(combinations(free_to_go, size) for size in range(len(free_to_go) + 1))
    must = _excluded(case)
    return [some for some in every_set if must <= {each.service.name for each in some} and _fits(case, some)]


def _dearness(some: tuple[Someone, ...]) -> tuple[object, ...]:
    """The three sentences of the documented order, each as one value; the cheapest set is the smallest."""
    priorities = range(2, -2, -1)
    how_many = Counter(each.service.priority for each in some)
    sizes = sorted((each.service.budget["ram"] for each in some), reverse=True)
    names = sorted((each.service.name for each in some), reverse=True)
    return ([how_many[priority] for priority in priorities], sizes, names)


@settings(max_examples=500)
@given(cases())
def test_the_plan_is_the_cheapest_of_all_sets_that_help(case: Case) -> None:
    plan = eviction.plan(ledger(case.capacity, *case.seen), case.newcomer)
    helping = _sets_that_help(case)
    if not helping:
        assert plan is None
        return
    assert plan is not None
    best = min(helping, key=_dearness)
    assert set(plan.victims) == {each.service.name for each in best}
    assert len(plan.victims) == len(best)
    assert plan.free_after.get("ram", 0) - _own(case, "ram") == _free(case, best) - _own(case, "ram")


def _own(case: Case, resource: str) -> int:
    return case.newcomer.budget.get(resource, 0) if case.newcomer.pinned else 0


@settings(max_examples=500)
@given(cases(resources=("ram", "vram0")))
@example(Case(capacity(NEWCOMER, live_veto=False), (), NEWCOMER))
def test_with_two_resources_the_plan_is_sufficient_and_no_one_goes_in_vain(case: Case) -> None:
    plan = eviction.plan(ledger(case.capacity, *case.seen), case.newcomer)
    assert (plan is None) == (not _sets_that_help(case))
    if plan is None:
        return
    gone = tuple(each for each in case.others if each.service.name in plan.victims)
    assert all(_may_go(each, case) for each in gone)
    assert _fits(case, gone)
    must = _excluded(case)
    for spared in gone:
        fewer = [each for each in gone if each is not spared]
        assert spared.service.name in must or not _fits(case, fewer)


@given(cases(), st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_the_look(case: Case, random: object) -> None:
    seen = case.seen
    first = eviction.plan(ledger(case.capacity, *seen), case.newcomer)
    random.shuffle(seen)  # type: ignore[attr-defined]
    assert eviction.plan(ledger(case.capacity, *seen), case.newcomer) == first
