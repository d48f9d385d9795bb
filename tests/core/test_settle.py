"""Requests that meet in one look, and those who wait: the higher priority wins, and who is ahead keeps its room."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from admitd.core.admission import settle
from admitd.core.terms import Waiter
from admitd.core.verdict import Admitted, Wait
from tests.core.worlds import (
    QUIET,
    Seen,
    capacity,
    footprint,
    holder,
    ledger,
    loaded,
    mb,
    refusal,
    request,
    reserved,
    service,
    waiting,
    words,
)

TWINS = capacity(
    service("high", 6_000, priority=9), service("low", 6_000), service("tiny", 500, priority=-1), pool_mb=10_000
)


@pytest.mark.parametrize("arrivals", [(1.0, 2.0), (2.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("swapped", [False, True])
def test_the_higher_priority_wins_the_tie_whatever_came_first(arrivals: tuple[float, float], swapped: bool) -> None:
    requests = [request(TWINS, "high", arrivals[0], 1), request(TWINS, "low", arrivals[1], 2)]
    verdicts = settle(ledger(TWINS), QUIET, requests[::-1] if swapped else requests)
    assert words(verdicts[::-1] if swapped else verdicts) == ["Admitted", "no-headroom"]


def test_of_equal_priority_the_first_to_arrive_wins() -> None:
    declared = capacity(service("a", 6_000), service("b", 6_000), pool_mb=10_000)
    assert words(settle(ledger(declared), QUIET, [request(declared, "a", 2.0, 1), request(declared, "b", 1.0, 2)])) == [
        "no-headroom",
        "Admitted",
    ]


def test_every_order_of_three_gives_the_same_verdicts() -> None:
    three = [request(TWINS, "high", 3.0, 1), request(TWINS, "low", 2.0, 2), request(TWINS, "tiny", 1.0, 3)]
    for mixed in permutations(three):
        found = {r.service.name: w for r, w in zip(mixed, words(settle(ledger(TWINS), QUIET, mixed)), strict=True)}
        assert found == {"high": "Admitted", "low": "no-headroom", "tiny": "Admitted"}


def test_of_many_clients_for_one_service_one_loads_it() -> None:
    verdicts = settle(ledger(TWINS), QUIET, [request(TWINS, "high", float(i), i + 1) for i in range(50)])
    assert words(verdicts) == ["Admitted"] + ["loading"] * 49


def test_one_client_asking_twice_is_admitted_once_and_told_so_twice() -> None:
    requests = [request(TWINS, "high", 1.0, 1), request(TWINS, "high", 2.0, 1), request(TWINS, "tiny", 3.0, 2)]
    verdicts = settle(ledger(TWINS), QUIET, requests)
    assert words(verdicts) == ["Admitted"] * 3
    assert isinstance(verdicts[2], Admitted)
    assert mb(verdicts[2].free) == 4_000


def test_a_dry_run_takes_no_ones_room() -> None:
    requests = [request(TWINS, "high", 1.0, 1, dry_run=True), request(TWINS, "low", 2.0, 2)]
    assert words(settle(ledger(TWINS), QUIET, requests)) == ["Admitted", "Admitted"]


def test_exclusive_neighbours_that_ask_at_once_are_not_admitted_at_once() -> None:
    declared = capacity(service("a", 10, exclusive_with=["b"]), service("b", 10))
    assert words(settle(ledger(declared), QUIET, [request(declared, "b", 1.0, 1), request(declared, "a", 2.0, 2)])) == [
        "Admitted",
        "exclusive",
    ]


def test_no_requests_no_verdicts() -> None:
    assert settle(ledger(TWINS), QUIET, []) == []


# The queue.


@pytest.mark.parametrize(
    ("waiters", "seen", "word"),
    [
        pytest.param([], [], "Admitted", id="with no one ahead it is admitted"),
        pytest.param([waiting("high", 9)], [], "queued", id="who waits ahead keeps its room"),
        pytest.param([waiting("tiny", -1)], [], "Admitted", id="a lower priority never blocks"),
        pytest.param(
            [waiting("low", 0, 0.5, "other")], [], "Admitted", id="another who waits for the same is no rival"
        ),
        pytest.param([waiting("peer", 0, 0.5)], [], "queued", id="of equal priority the earlier keeps its room"),
        pytest.param([waiting("peer", 0, 1.5)], [], "Admitted", id="and the later does not"),
        pytest.param([waiting("small", 9)], [], "Admitted", id="where there is room for both no one is kept out"),
        pytest.param([waiting("foe", 9)], [], "queued", id="who would exclude one that waits ahead is kept out"),
        pytest.param(
            [waiting("small", 9, 0, "1"), waiting("small", 9, 0, "2")],
            [],
            "Admitted",
            id="two who wait for the same need its room once",
        ),
        pytest.param(
            [waiting("small", 9)],
            [reserved("small", 4_000)],
            "Admitted",
            id="what is loading already is not kept twice",
        ),
        pytest.param([waiting("small", 9)], [loaded("small")], "Admitted", id="nor is what is loaded already"),
        pytest.param([waiting("vm", 9)], [], "Admitted", id="nor is what is pinned, and so charged already"),
        pytest.param([waiting("gone", 9)], [], "Admitted", id="a service that is declared no longer keeps nothing"),
        pytest.param([waiting("high", 9)], [loaded("low")], "AlreadyLoaded", id="what is loaded needs no turn"),
        pytest.param(
            [waiting("high", 9)],
            [loaded("tiny"), footprint("tiny", 5_000)],
            "no-headroom",
            id="lack of room comes first",
        ),
    ],
)
def test_who_waits_ahead_keeps_its_room(waiters: list[Waiter], seen: list[Seen], word: str) -> None:
    declared = capacity(
        service("low", 6_000, exclusive_with=["foe"]),
        service("high", 6_000, priority=9),
        service("peer", 6_000),
        service("small", 4_000, priority=9),
        service("foe", 10, priority=9),
        service("tiny", 500, priority=-1),
        service("vm", 2_000, priority=9, pinned=True),
        pool_mb=12_000,
    )
    verdicts = settle(ledger(declared, *waiters, *seen), QUIET, [request(declared, "low", 1.0, 1)])
    assert words(verdicts) == [word]


def test_a_queued_refusal_says_who_is_ahead_and_to_wait() -> None:
    (verdict,) = settle(ledger(TWINS, waiting("high", 9)), QUIET, [request(TWINS, "low", 1.0, 1)])
    refused = refusal(verdict)
    assert refused.message == "low would fit, but high waits ahead of it for 6000 MB."
    assert (mb(refused.shortfall), refused.remedy, refused.retry_after_s) == (2_000, Wait("low", 300.0), 5.0)
    assert [(b.label, b.state, mb(b.charge)) for b in refused.blockers] == [("high", "waiting", 6_000)]


def test_a_waiter_is_not_kept_out_by_itself() -> None:
    queue = ledger(TWINS, waiting("high", 9, 0.0, "w1"), waiting("low", 0, 0.0, "w2"))
    assert words(settle(queue, QUIET, [request(TWINS, "high", 0.0, 1, waiter="w1")])) == ["Admitted"]
    assert words(settle(queue, QUIET, [request(TWINS, "low", 0.0, 2, waiter="w2")])) == ["queued"]


def test_a_waiter_that_is_admitted_leaves_its_place_at_once() -> None:
    queue = ledger(TWINS, waiting("high", 9, 0.0, "w1"))
    requests = [request(TWINS, "tiny", 1.0, 2), request(TWINS, "high", 0.0, 1, waiter="w1")]
    assert words(settle(queue, QUIET, requests)) == ["Admitted", "Admitted"]


def test_a_waiter_that_is_refused_keeps_its_place() -> None:
    """Else a stream of small ones would take each piece of room as it comes free, and it would wait for ever."""
    queue = ledger(TWINS, waiting("high", 9, 0.0, "w1"), loaded("low"))
    requests = [request(TWINS, "tiny", 1.0, 2), request(TWINS, "high", 0.0, 1, waiter="w1")]
    assert words(settle(queue, QUIET, requests)) == ["queued", "no-headroom"]


def test_a_request_that_does_not_wait_leaves_its_room_to_the_next() -> None:
    requests = [request(TWINS, "high", 1.0, 1), request(TWINS, "tiny", 1.0, 2)]
    assert words(settle(ledger(TWINS, loaded("low")), QUIET, requests)) == ["no-headroom", "Admitted"]


def test_a_holder_is_a_process_and_not_a_pid() -> None:
    derived = ledger(TWINS, reserved("high", 6_000, 1))
    again = request(TWINS, "high", pid=1)
    reused = replace(again, holder=replace(holder(1), started=8))
    assert words(settle(derived, QUIET, [again])) == ["Admitted"]
    assert words(settle(derived, QUIET, [reused])) == ["loading"]
