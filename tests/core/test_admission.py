"""The rules of admission, each as rows: which objects first, what it says, and what would help."""

from __future__ import annotations

import pytest

from admitd.core.admission import settle
from admitd.core.terms import Level, Reading
from admitd.core.verdict import Admitted, AlreadyLoaded, Reason, Unload, Wait
from tests.core.worlds import (
    MANOIR,
    QUIET,
    Seen,
    anothers,
    ask,
    capacity,
    check,
    footprint,
    ledger,
    loaded,
    mb,
    mentioned,
    ram,
    reading,
    refusal,
    request,
    reserved,
    service,
    unread,
)

HOUSE = capacity(
    service("small", 1_000),
    service("large", 9_000, priority=5),
    service("vm", 3_000, pinned=True),
    service("whale", 8_000, exclusive_with=["whale-calf"]),
    service("whale-calf", 500, priority=9),
    service("kraken", 17_500),
    service("both", 2_000, loaded_check_cmd="true"),
    pool_mb=20_000,
)


@pytest.mark.parametrize(
    ("name", "seen", "word"),
    [
        pytest.param("small", [], "admitted", id="what fits is admitted"),
        pytest.param("small", [loaded("small")], "already_loaded", id="what is loaded is not loaded again"),
        pytest.param(
            "small", [loaded("small", stopped=True)], "already_loaded", id="a stopped process is loaded all the same"
        ),
        pytest.param(
            "both", [loaded("both"), check("both", False)], "already_loaded", id="half loaded is loaded: no second copy"
        ),
        pytest.param("small", [mentioned("small")], "already_loaded", id="a mention is charged, so it is not added to"),
        pytest.param(
            "small", [reserved("small", 1_000, 1)], "admitted", id="its own reservation admits its holder again"
        ),
        pytest.param("small", [reserved("small", 1_000, 2)], "loading", id="another's reservation keeps it out"),
        pytest.param(
            "small",
            [reserved("small", 1_000, 1), loaded("small")],
            "already_loaded",
            id="once it is loaded its reservation no longer counts",
        ),
        pytest.param("kraken", [], "too-large", id="a budget that the pinned services leave no room for"),
        pytest.param(
            "kraken",
            [loaded("large"), loaded("whale")],
            "too-large",
            id="what can never fit is not told to unload others",
        ),
        pytest.param("whale", [loaded("whale-calf")], "exclusive", id="a loaded neighbour excludes it"),
        pytest.param("whale-calf", [loaded("whale")], "exclusive", id="exclusion holds both ways"),
        pytest.param("whale-calf", [reserved("whale", 1)], "exclusive", id="a neighbour that is loading excludes it"),
        pytest.param(
            "whale", [loaded("whale-calf"), loaded("large")], "exclusive", id="exclusion is named before lack of room"
        ),
        pytest.param("large", [loaded("whale")], "admitted", id="exactly as much as is free fits"),
        pytest.param(
            "large", [loaded("whale"), footprint("whale", 8_001)], "no-headroom", id="a megabyte more does not fit"
        ),
        pytest.param(
            "large", [reserved("whale", 8_001)], "no-headroom", id="promised memory is as little free as used memory"
        ),
        pytest.param("large", [reserved("elsewhere", 8_001)], "no-headroom", id="whoever declared it"),
        pytest.param("large", [unread(9, 1)], "no-headroom", id="a process that could be anything is charged as such"),
        pytest.param("vm", [loaded("large"), loaded("whale")], "admitted", id="a pinned service has its room already"),
        pytest.param(
            "small", [loaded("large"), footprint("large", 30_000)], "no-headroom", id="over-committed admits no one"
        ),
    ],
)
def test_the_first_rule_that_objects_is_the_reason(name: str, seen: list[Seen], word: str) -> None:
    verdict = ask(HOUSE, name, *seen)
    found = {Admitted: "admitted", AlreadyLoaded: "already_loaded"}.get(type(verdict))
    assert (found or refusal(verdict).reason.value) == word


@pytest.mark.parametrize(
    ("name", "seen", "remedy", "says"),
    [
        pytest.param("kraken", [], None, "3000 MB of it pinned: no unloading would make it fit", id="too large"),
        pytest.param(
            "large",
            [loaded("whale"), loaded("small")],
            Unload(("small",)),
            "1000 MB short",
            id="someone small is enough",
        ),
        pytest.param(
            "large",
            [reserved("whale", 8_001)],
            Wait("large", 300.0),
            "whale (being loaded) may be in the way for a while only",
            id="a load under way may fail: waiting may help",
        ),
        pytest.param(
            "large",
            [unread(9, 12_000)],
            Wait("large", 300.0),
            "process 9 may be in the way for a while only",
            id="an unread process may be read next time: waiting may help",
        ),
        pytest.param(
            "small",
            [loaded("large"), footprint("large", 15_000), reserved("both", 2_000)],
            Wait("small", 300.0),
            "both (being loaded)",
            id="waiting is named where the load under way holds what is missing",
        ),
        pytest.param(
            "whale",
            [loaded("whale-calf"), reserved("both", 2_000)],
            None,
            "whale-calf has a higher priority",
            id="waiting is not named where a load under way is not what is in the way",
        ),
        pytest.param(
            "both",
            [check("both", False), loaded("large"), footprint("large", 17_000)],
            None,
            "large has a higher priority",
            id="a higher priority stays",
        ),
        pytest.param(
            "large",
            [loaded("vm"), footprint("vm", 12_000)],
            None,
            "vm is pinned or not evictable",
            id="a pinned runaway stays",
        ),
        pytest.param(
            "large",
            [anothers("small"), loaded("whale")],
            Unload(("whale",)),
            "1000 MB short",
            id="who belongs to another user is spared for someone larger",
        ),
        pytest.param(
            "large",
            [anothers("whale", 41), footprint("whale", 12_000)],
            None,
            "whale: process 41 belongs to another user (uid 501)",
            id="or the refusal says that it is another user's",
        ),
        pytest.param(
            "large",
            [mentioned("whale"), footprint("whale", 9_000)],
            None,
            "(tail) mentions it, and it is charged while that lives",
            id="a mention is not unloaded",
        ),
    ],
)
def test_what_a_refusal_says_would_help(name: str, seen: list[Seen], remedy: Unload | Wait | None, says: str) -> None:
    refused = refusal(ask(HOUSE, name, *seen))
    assert refused.remedy == remedy
    assert says in refused.message
    assert refused.victims == (remedy.services if isinstance(remedy, Unload) else ())
    assert (refused.retry_after_s is not None) == isinstance(remedy, Wait)


@pytest.mark.parametrize(
    "seen", [[], [reserved("small", 1_000, 1)], [loaded("large"), reserved("small", 1_000, 1)]], ids=len
)
def test_what_was_free_means_the_same_however_often_it_is_asked_for(seen: list[Seen]) -> None:
    """Without its own charge, as in a refusal: what is free to it."""
    verdict = ask(HOUSE, "small", *seen, pid=1)
    assert isinstance(verdict, Admitted)
    assert mb(verdict.free) == 17_000 - (9_000 if len(seen) > 1 else 0)


def test_a_pinned_newcomer_is_not_named_as_its_own_blocker() -> None:
    declared = capacity(service("vm", 3_000, pinned=True), service("boss", 9_000, priority=9), pool_mb=10_000)
    refused = refusal(ask(declared, "vm", loaded("boss")))
    assert [blocker.label for blocker in refused.blockers] == ["boss"]
    assert "vm is pinned" not in refused.message
    assert (mb(refused.free), mb(refused.shortfall)) == (1_000, 2_000)


@pytest.mark.parametrize(
    ("seen", "state", "why", "remedy"),
    [
        pytest.param([loaded("x")], "loaded", "charged 6000 MB", Unload(("x",)), id="a loaded one can be unloaded"),
        pytest.param(
            [loaded("x", stopped=True)], "suspended", "stopped (state T)", Unload(("x",)), id="so can a stopped"
        ),
        pytest.param(
            [reserved("x", 6_000, 41)], "reserved", "by process 41", Wait("new", 300.0), id="a load is awaited"
        ),
        pytest.param(
            [anothers("x", 41)], "loaded", "process 41 belongs to another user (uid 501)", None, id="nor another user's"
        ),
        pytest.param([mentioned("x")], "loaded", "mentions it", None, id="a mention cannot be unloaded"),
        pytest.param(
            [reserved("other", 6_000)], "undeclared", "another capacity.yaml", None, id="nor what is another's"
        ),
    ],
)
def test_how_a_blocker_is_named(seen: list[Seen], state: str, why: str, remedy: Unload | Wait | None) -> None:
    declared = capacity(service("new", 5_000), service("x", 6_000), pool_mb=10_000)
    (blocker,) = refusal(ask(declared, "new", *seen)).blockers
    assert (blocker.state, blocker.remedy) == (state, remedy)
    assert why in blocker.why


@pytest.mark.parametrize(
    ("seen", "now", "reason"),
    [
        ([reserved("vm", 3_000, 9)], QUIET, Reason.LOADING),
        ([reserved("x", 8_000)], QUIET, Reason.NO_HEADROOM),
        ([], reading(None, Level.WARN), Reason.PRESSURE),
        ([], reading(1_000), Reason.NO_AVAILABLE_MEMORY),
    ],
)
def test_who_waits_for_what_has_no_load_cmd_starts_it_by_hand(seen: list[Seen], now: Reading, reason: Reason) -> None:
    declared = capacity(service("vm", 3_000, load_cmd=None), service("x", 8_000), pool_mb=10_000)
    refused = refusal(ask(declared, "vm", *seen, now=now))
    assert (refused.reason, refused.remedy) == (reason, Wait("vm", 300.0, by_hand=True))
    assert all(each.remedy == refused.remedy for each in refused.blockers)


def test_blockers_name_first_whose_going_would_help_most() -> None:
    names = ["a-boss", "b-small", "c-big"]
    declared = capacity(
        service("a-boss", 6_000, priority=9),
        service("b-small", 1_000),
        service("c-big", 3_000),
        service("new", 5_000),
        pool_mb=10_000,
    )
    refused = refusal(ask(declared, "new", *(loaded(name) for name in names), reserved("stray", 10)))
    assert [blocker.label for blocker in refused.blockers] == ["c-big", "b-small", "a-boss", "stray"]


def test_a_service_that_the_file_declares_no_longer_still_gets_a_verdict() -> None:
    gone = service("gone", 30_000)
    ask_for_it = request(capacity(gone), "gone", pid=1)
    assert settle(ledger(MANOIR), QUIET, [ask_for_it]) == [Admitted("gone", gone.budget, ram(49_152))]
    first, second = settle(ledger(MANOIR), QUIET, [ask_for_it, request(capacity(gone), "gone", pid=2)])
    assert isinstance(first, Admitted)
    assert refusal(second).reason is Reason.LOADING
