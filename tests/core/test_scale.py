"""A thousand services. What is counted is work (steps of the interpreter), so a busy machine changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from admitd.core import eviction, headroom
from admitd.core.admission import decide, settle
from admitd.core.ledger import derive
from admitd.core.terms import Capacity, Reading, Request, Service, Sighting
from admitd.core.verdict import Reason
from tests.core.worlds import (
    MB,
    QUIET,
    Seen,
    capacity,
    holder,
    ledger,
    loaded,
    reserved,
    service,
    unread,
    view,
    waiting,
)

MAKES_ROOM = (Reason.NO_HEADROOM, Reason.EXCLUSIVE)
VETOES = (Reason.PRESSURE, Reason.NO_AVAILABLE_MEMORY)


def steps(act: Callable[[], object]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def crowd(n: int, resources: tuple[str, ...] = ("ram",), priorities: int = 1) -> tuple[Capacity, list[Seen], Service]:
    """A full host of `n` loaded services, no two of one size, and a newcomer that costs half of them their place."""
    sizes = [MB + i * 7_919 % 1_009 for i in range(n)]
    others = [
        service(f"s{i}", budget=dict.fromkeys(resources, size), priority=-(i % priorities))
        for i, size in enumerate(sizes)
    ]
    newcomer = service("newcomer", budget=dict.fromkeys(resources, sum(sizes) // 2), priority=1)
    declared = capacity(newcomer, *others, pool=dict.fromkeys(resources, sum(sizes)))
    return declared, [loaded(each.name, i + 2) for i, each in enumerate(others)], newcomer


def _derive(n: int) -> Callable[[], object]:
    declared, seen, _ = crowd(n)
    look = view(*seen, *(reserved(each.service, 1) for each in seen if isinstance(each, Sighting)))
    return lambda: derive(declared, look)


def _derive_unread(n: int) -> Callable[[], object]:
    declared, seen, _ = crowd(n)
    look = view(*seen[: n // 2], *(unread(10_000 + i, 1) for i in range(n)))
    return lambda: derive(declared, look)


def _decide(n: int) -> Callable[[], object]:
    declared, seen, newcomer = crowd(n)
    derived = ledger(declared, *seen)
    return lambda: decide(derived, QUIET, Request(newcomer))


def _decide_without_a_plan(n: int) -> Callable[[], object]:
    declared, seen, newcomer = crowd(n)
    derived = ledger(declared, *seen, reserved("stray", 1))
    return lambda: decide(derived, QUIET, Request(replace(newcomer, priority=-2)))


def _plan(n: int) -> Callable[[], object]:
    declared, seen, newcomer = crowd(n)
    derived = ledger(declared, *seen)
    return lambda: eviction.plan(derived, newcomer)


def _plan_each_of_its_own_priority(n: int) -> Callable[[], object]:
    declared, seen, newcomer = crowd(n, priorities=n)
    derived = ledger(declared, *seen)
    return lambda: eviction.plan(derived, newcomer)


def _plan_two_resources(n: int) -> Callable[[], object]:
    declared, seen, newcomer = crowd(n, resources=("ram", "vram0"))
    derived = ledger(declared, *seen)
    return lambda: eviction.plan(derived, newcomer)


def _plan_all_exclusive(n: int) -> Callable[[], object]:
    declared, seen, newcomer = crowd(n)
    foes = replace(newcomer, exclusive_with=frozenset(declared.services) - {"newcomer"})
    derived = ledger(declared, *seen)
    return lambda: eviction.plan(derived, foes)


def _settle(n: int) -> Callable[[], object]:
    declared, seen, newcomer = crowd(n)
    derived = ledger(declared, *seen[n // 2 :], *(waiting(f"s{i}", 0, float(i)) for i in range(16)))
    wishes = [*(declared.services[f"s{i}"] for i in range(15)), newcomer]
    requests = [Request(each, float(i), holder(i + 1)) for i, each in enumerate(wishes)]
    return lambda: settle(derived, Reading(available={"ram": 1 << 50}), requests)


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(_derive, id="deriving a full host"),
        pytest.param(_derive_unread, id="deriving a host where nothing can be read"),
        pytest.param(_decide, id="refusing with half the host as the remedy"),
        pytest.param(_decide_without_a_plan, id="refusing without a remedy"),
        pytest.param(_plan, id="planning among equals"),
        pytest.param(_plan_each_of_its_own_priority, id="planning among as many priorities as services"),
        pytest.param(_plan_two_resources, id="planning for two resources"),
        pytest.param(_plan_all_exclusive, id="planning where everyone is an exclusive neighbour"),
        pytest.param(_settle, id="settling sixteen requests and a queue"),
    ],
)
def test_ten_times_the_services_are_about_ten_times_the_work(job: Callable[[int], Callable[[], object]]) -> None:
    few, many = steps(job(100)), steps(job(1_000))
    assert many < 13 * few
    assert many < 2_000_000


def test_the_worst_plan_really_has_a_thousand_candidates_and_hundreds_of_victims() -> None:
    for resources in (("ram",), ("ram", "vram0")):
        declared, seen, newcomer = crowd(1_000, resources)
        derived = ledger(declared, *seen)
        plan = eviction.plan(derived, newcomer)
        assert plan is not None
        assert all(eviction.may_go(account, newcomer) for account in derived.accounts.values())
        assert 450 < len(plan.victims) < 550
        assert headroom.fits(newcomer.budget, plan.free_after)
