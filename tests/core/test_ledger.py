"""How a service is charged, and what is charged besides: every sentence of the ledger's rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitd.core.terms import State
from tests.core.worlds import (
    Footprint,
    Seen,
    capacity,
    check,
    footprint,
    holder,
    holding,
    ledger,
    loaded,
    mb,
    mentioned,
    peak,
    pid_of,
    ram,
    reserved,
    service,
    unread,
    waiting,
)

BOTH = {"process_pattern": "both", "loaded_check_cmd": "true"}
WORLD = capacity(
    service("x", 4_000),
    service("both", 4_000, **BOTH),
    service("vm", 2_000, pinned=True),
    service("y", 6_000),
    service("slow", 4_000, load_timeout_s=3_600.0),
    service("small", 1_000),
    pool_mb=20_000,
)


@pytest.mark.parametrize(
    ("name", "seen", "state", "charged_mb"),
    [
        pytest.param("x", [], State.STOPPED, 0, id="who was not seen is charged nothing"),
        pytest.param("x", [loaded("x")], State.LOADED, 4_000, id="a loaded service is charged its budget"),
        pytest.param(
            "x", [loaded("x"), footprint("x", 5_000)], State.LOADED, 5_000, id="who holds more is charged what it holds"
        ),
        pytest.param(
            "x", [loaded("x"), footprint("x", 100)], State.LOADED, 4_000, id="who holds less is charged its budget"
        ),
        pytest.param(
            "x", [loaded("x", stopped=True)], State.SUSPENDED, 4_000, id="a stopped process still holds its memory"
        ),
        pytest.param(
            "x",
            [loaded("x", 11, stopped=True), loaded("x", 12)],
            State.LOADED,
            4_000,
            id="one of two processes stopped is not a stopped service",
        ),
        pytest.param(
            "x", [loaded("x", 11), loaded("x", 12)], State.LOADED, 4_000, id="two processes of a service are one charge"
        ),
        pytest.param("x", [mentioned("x")], State.LOADED, 4_000, id="who only mentions it in an argument is charged"),
        pytest.param(
            "x",
            [mentioned("x"), loaded("x", stopped=True)],
            State.SUSPENDED,
            4_000,
            id="a mention does not keep a stopped service running",
        ),
        pytest.param("both", [check("both", True)], State.LOADED, 4_000, id="a check that says yes is enough"),
        pytest.param("both", [check("both", False)], State.STOPPED, 0, id="a check that says no is not loaded"),
        pytest.param("both", [check("both", None)], State.STOPPED, 0, id="a check that cannot run is not loaded"),
        pytest.param(
            "both",
            [loaded("both"), check("both", False)],
            State.HALF_LOADED,
            4_000,
            id="a process whose check says no holds memory: half loaded",
        ),
        pytest.param(
            "both",
            [loaded("both", stopped=True), check("both", False)],
            State.SUSPENDED,
            4_000,
            id="a stopped process cannot pass its check: suspended, not half loaded",
        ),
        pytest.param(
            "both", [loaded("both"), check("both", None)], State.LOADED, 4_000, id="a live process needs no check"
        ),
        pytest.param("x", [reserved("x", 4_000)], State.RESERVED, 4_000, id="a reservation is charged its budget"),
        pytest.param(
            "x", [reserved("x", 3_000)], State.RESERVED, 3_000, id="as it was promised, not as it is declared since"
        ),
        pytest.param(
            "x",
            [reserved("x", 9, damaged=True)],
            State.RESERVED,
            4_000,
            id="a damaged reservation is charged the whole budget",
        ),
        pytest.param(
            "x",
            [reserved("x", -90_000)],
            State.RESERVED,
            0,
            id="a record that promises less than nothing gives no one room",
        ),
        pytest.param(
            "x",
            [reserved("x", 4_000, 11, id="a"), reserved("x", 4_000, 12, id="b")],
            State.RESERVED,
            8_000,
            id="two promises are two charges",
        ),
        pytest.param(
            "x", [reserved("x", 4_000), loaded("x")], State.LOADED, 4_000, id="a reservation ends when it is loaded"
        ),
        pytest.param(
            "x",
            [reserved("x", 4_000), footprint("x", 9_000)],
            State.RESERVED,
            4_000,
            id="a footprint of no process is no footprint",
        ),
        pytest.param(
            "x",
            [reserved("x", 4_000), mentioned("x")],
            State.LOADED,
            4_000,
            id="a promise and a mention are one charge",
        ),
        pytest.param(
            "x",
            [reserved("x", 9_000), mentioned("x")],
            State.LOADED,
            9_000,
            id="a mention makes no promise smaller",
        ),
        pytest.param("vm", [], State.STOPPED, 2_000, id="a pinned service is charged while it is down"),
        pytest.param("vm", [loaded("vm")], State.LOADED, 2_000, id="and once when it is up"),
        pytest.param(
            "vm", [reserved("vm", 100)], State.RESERVED, 2_000, id="and never less than its budget while it is loading"
        ),
    ],
)
def test_how_a_service_is_charged(name: str, seen: list[Seen], state: State, charged_mb: int) -> None:
    derived = ledger(WORLD, *seen)
    account = derived.account(WORLD.services[name])
    assert account.state is state
    assert mb(account.charge) == charged_mb
    pinned = 0 if name == "vm" else 2_000
    assert mb(derived.charged) == charged_mb + pinned
    assert mb(derived.free) == 20_000 - charged_mb - pinned


@pytest.mark.parametrize(
    ("seen", "charges_mb"),
    [
        pytest.param([reserved("elsewhere", 7_000)], [7_000], id="a reservation of another file's service"),
        pytest.param([reserved("elsewhere", -7_000)], [0], id="which cannot promise less than nothing"),
        pytest.param([unread(77, 300)], [6_000], id="an unread process is charged as the dearest it could be"),
        pytest.param([unread(77, 8_000)], [8_000], id="or as what it holds, where that is more"),
        pytest.param(
            [unread(77, 300, could_be_ours=False)], [300], id="or as what it holds, where it can be no service"
        ),
        pytest.param(
            [unread(77, 300), loaded("y")], [4_000], id="a service that is accounted for is not the unread one"
        ),
        pytest.param(
            [unread(77, 300), reserved("y", 6_000)], [4_000], id="nor is one whose budget is promised already"
        ),
        pytest.param([unread(77, 1), unread(78, 1)], [6_000, 6_000], id="two unread processes are charged each"),
        pytest.param([reserved("app", 4_000, 41), holding(41, 10_000)], [10_000], id="an app is charged what it holds"),
        pytest.param([reserved("app", 4_000, 41), holding(41, 1_000)], [4_000], id="or what was kept, if that is more"),
        pytest.param(
            [reserved("app", 4_000, 41), reserved("too", 2_000, 41, id="r"), holding(41, 10_000)],
            [4_000, 6_000],
            id="what is beyond two promises of one holder is charged once",
        ),
        pytest.param(
            [reserved("app", 4_000, 41), reserved("too", 2_000, 41, id="r"), holding(41, 5_000)],
            [4_000, 2_000],
            id="and what fills the other is beyond neither",
        ),
        pytest.param(
            [reserved("app", 4_000, 41), reserved("other", 2_000, 42), holding(41, 5_000), holding(42, 500)],
            [5_000, 2_000],
            id="what one app holds fills nobody else's promise",
        ),
        pytest.param(
            [reserved("app", -1, 41), holding(41, 300)], [300], id="whatever a record says, what is held is held"
        ),
        pytest.param([reserved("x", 4_000, 41), holding(41, 10_000)], [], id="a declared service is no app"),
    ],
)
def test_memory_is_charged_whoever_named_it(seen: list[Seen], charges_mb: list[int]) -> None:
    world = capacity(service("x", 4_000), service("y", 6_000), service("z", 9_000, process_pattern=None))
    assert [mb(extra.charge) for extra in ledger(world, *seen).extras] == charges_mb


@given(st.lists(st.integers(0, 9_000), min_size=1, max_size=4), st.integers(0, 40_000))
def test_an_app_is_charged_the_larger_of_all_it_was_promised_and_what_it_holds(kept: list[int], held: int) -> None:
    promises = [reserved(f"app{number}", each, 41, id=f"r{number}") for number, each in enumerate(kept)]
    derived = ledger(capacity(service("x", 4_000)), *promises, holding(41, held))
    assert mb(derived.charged) == max(sum(kept), held)
    assert sum(mb(extra.promised) for extra in derived.extras) == max(0, sum(kept) - held)
    assert bool(derived.warnings) is (held > sum(kept))


def test_what_an_app_holds_is_charged_once_where_its_process_is_charged_already() -> None:
    kept = reserved("app", 1_000, 41)
    itself = replace(loaded("x").process, id=holder(41))
    seen: list[Seen] = [replace(loaded("x"), process=itself), footprint("x", 9_000), kept, holding(41, 9_000)]
    assert mb(ledger(WORLD, *seen).charged) == 2_000 + 9_000 + 1_000
    only_mentions = replace(mentioned("x"), process=itself)
    assert mb(ledger(WORLD, only_mentions, kept, holding(41, 9_000)).charged) == 2_000 + 4_000 + 9_000
    hidden = replace(unread(41, 9_000), process=holder(41))
    assert mb(ledger(WORLD, hidden, kept, holding(41, 9_000)).charged) == 2_000 + 9_000 + 1_000


def test_what_an_app_has_in_use_of_what_it_asks_for_is_not_in_its_own_way() -> None:
    derived = ledger(WORLD, reserved("notes", 1_000, 41), reserved("other", 1_000, 42), holding(41, 9_000))
    asked = [(holder(41), 5_000), (holder(42), 5_000), (None, 1)]
    frees = [derived.asked_by(app, ram(used)).free for app, used in asked]
    assert [mb(each) for each in frees] == [13_000, 8_000, 8_000]
    assert derived.asked_by(holder(41), ram(50_000)).free == ram(16_000)  # what it was promised stays charged


def test_free_is_shown_negative_when_services_were_started_past_the_daemon() -> None:
    derived = ledger(WORLD, loaded("x"), loaded("y"), loaded("both"), footprint("y", 16_000))
    assert mb(derived.charged) == 4_000 + 16_000 + 4_000 + 2_000
    assert mb(derived.free) == -6_000


def test_a_pinned_budget_is_not_in_its_own_way() -> None:
    derived = ledger(WORLD, loaded("x"))
    assert mb(derived.free) == 14_000
    assert mb(derived.free_for(WORLD.services["vm"])) == 16_000
    assert mb(derived.free_for(WORLD.services["y"])) == 14_000


def test_a_second_resource_is_added_up_beside_the_first() -> None:
    world = capacity(
        service("a", budget=ram(1_000, vram0=8_000)), service("b", budget=ram(2_000)), pool=ram(9_000, vram0=24_000)
    )
    derived = ledger(world, loaded("a"), loaded("b"), Footprint("a", ram(900, vram0=9_000)))
    assert derived.charged == ram(3_000, vram0=9_000)
    assert derived.free == ram(6_000, vram0=15_000)


@pytest.mark.parametrize(
    ("seen", "live"),
    [
        pytest.param([reserved("x")], ["r-x"], id="a promise stands while nothing of its service is seen"),
        pytest.param([reserved("x"), loaded("x")], [], id="it ends when its service is loaded"),
        pytest.param([reserved("x"), mentioned("x")], ["r-x"], id="a mention is not the load that was promised"),
        pytest.param([reserved("x"), mentioned("x"), loaded("x")], [], id="the real one ends it beside any mention"),
        pytest.param([reserved("both"), check("both", True)], [], id="and when its check says yes"),
        pytest.param([reserved("both"), check("both", False)], ["r-both"], id="not while its check says no"),
        pytest.param([reserved("x", id="a"), reserved("x", id="b")], ["a", "b"], id="two promises stand side by side"),
        pytest.param([reserved("elsewhere")], ["r-elsewhere"], id="another file's promise is not ours to end"),
        pytest.param([reserved("x", 0)], ["r-x"], id="a promise of nothing is still someone who is loading"),
    ],
)
def test_which_reservations_stand(seen: list[Seen], live: list[str]) -> None:
    assert [each.id for each in ledger(WORLD, *seen).reservations] == live


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        pytest.param([loaded("x", 41), loaded("y", 41)], ["process 41", "x and y", "program"], id="a process of two"),
        pytest.param(
            [mentioned("x", 41, "tail")],
            ["x: process 41 (tail)", "never be signalled", "admit explain x"],
            id="a mention",
        ),
        pytest.param(
            [check("both", None, "not found")], ["both", "could not be run: not found"], id="a check that failed"
        ),
        pytest.param([loaded("x"), footprint("x", 4_001)], ["x holds more than its budget"], id="a runaway"),
        pytest.param([reserved("x", damaged=True)], ["x: a damaged reservation"], id="a damaged record"),
        pytest.param(
            [reserved("chat", 4_000, 41), reserved("notes", 1_000, 41, id="r"), holding(41, 10_000)],
            ["chat and notes (process 41) holds 10,000 MB, and 5,000 MB were promised to it", "charged what it holds"],
            id="an app that holds more than was kept for it",
        ),
        pytest.param(
            [loaded("x", age_s=7_200), peak("x", 1_999)],
            ["x has held 1,999 MB at most since it started 2h ago", "4,000 MB", "admit measure x"],
            id="a budget twice as large as what it ever held",
        ),
    ],
)
def test_what_a_look_warns_of(seen: list[Seen], words: list[str]) -> None:
    (warning,) = ledger(WORLD, *seen).warnings
    for word in words:
        assert word in warning


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param([], id="an empty host"),
        pytest.param([loaded("x"), footprint("x", 4_000)], id="a service within its budget"),
        pytest.param([loaded("x", 11), loaded("x", 12)], id="two processes of one service"),
        pytest.param([reserved("x")], id="a sound reservation"),
        pytest.param([reserved("app", 4_000, 41), holding(41, 4_000)], id="an app within what was kept for it"),
        pytest.param([loaded("x", age_s=7_200), peak("x", 2_000)], id="one that held half of its budget once"),
        pytest.param([loaded("x", age_s=599), peak("x", 10)], id="one that may not have been used yet"),
        pytest.param([loaded("slow", age_s=3_599), peak("slow", 10)], id="one that may still be loading"),
        pytest.param([loaded("x", age_s=None), peak("x", 10)], id="one of unknown age"),
        pytest.param([loaded("x", stopped=True, age_s=7_200), peak("x", 10)], id="one that is stopped"),
        pytest.param([loaded("small", age_s=7_200), peak("small", 10)], id="one whose budget keeps nobody out"),
    ],
)
def test_an_ordinary_look_warns_of_nothing(seen: list[Seen]) -> None:
    assert ledger(WORLD, *seen).warnings == ()


def test_mentions_are_no_processes_of_the_service() -> None:
    derived = ledger(WORLD, mentioned("x"), loaded("y"), mentioned("y"))
    x, y = derived.accounts["x"], derived.accounts["y"]
    assert (x.mention_only, x.processes) == (True, ())
    assert not y.mention_only
    assert [process.id.pid for process in y.processes] == [pid_of("y")]
    # Whatever is unloaded, what mentions it stays, and its charge with that.
    assert all(account.stays and "mentions it" in account.stays for account in (x, y))


def test_a_check_that_says_yes_makes_a_mention_more_than_that() -> None:
    assert not ledger(WORLD, mentioned("both"), check("both", True)).accounts["both"].mention_only
    assert ledger(WORLD, mentioned("both"), check("both", False)).accounts["both"].mention_only


def test_those_who_wait_stand_by_priority_then_arrival() -> None:
    derived = ledger(WORLD, waiting("x", 0, 1.0), waiting("y", 5, 3.0), waiting("both", 5, 2.0))
    assert [waiter.service for waiter in derived.waiters] == ["both", "y", "x"]


def test_sightings_of_undeclared_services_are_nobodys_charge() -> None:
    derived = ledger(WORLD, loaded("nobody"), footprint("nobody", 9_000), check("nobody", True))
    assert set(derived.accounts) == {"vm"}


def test_what_passes_by_itself_can_be_thought_away() -> None:
    loading = [reserved("x", 4_000), reserved("vm", 2_000), reserved("else"), reserved("both", 9_000)]
    rest = ledger(WORLD, *loading, mentioned("both"), loaded("y"), unread(9, 10)).without_what_passes()
    assert {name: (account.state, mb(account.charge)) for name, account in rest.accounts.items()} == {
        "y": (State.LOADED, 6_000),
        "both": (State.LOADED, 4_000),
        "vm": (State.STOPPED, 2_000),
    }
    assert rest.extras == ()
    assert rest.reservations == ()
