"""The live veto: what the system says of itself may refuse what the ledger would admit."""

from __future__ import annotations

import pytest

from admitd.core.admission import decide, promises, settle
from admitd.core.ledger import Ledger
from admitd.core.terms import Capacity, Level, Reading
from admitd.core.verdict import Admitted, Reason, Unload, Wait
from tests.core.worlds import (
    MB,
    QUIET,
    Seen,
    ask,
    capacity,
    footprint,
    holding,
    ledger,
    loaded,
    mb,
    ram,
    reading,
    refusal,
    request,
    reserved,
    service,
    words,
)

VETOED = capacity(
    service("new", 8_000), service("young", 6_000, load_timeout_s=300.0), service("z", 4_000), pool_mb=40_000
)
WARNED, ALARMED = reading(None, Level.WARN, "7% available"), reading(90_000, Level.CRITICAL, "2% available")


@pytest.mark.parametrize(
    ("now", "seen", "word"),
    [
        pytest.param(QUIET, [], "Admitted", id="a system that says nothing does not object"),
        pytest.param(Reading(problem="unreadable"), [], "Admitted", id="nor does one that cannot be asked"),
        pytest.param(reading(12_096, Level.NORMAL), [], "Admitted", id="budget and safety floor available is enough"),
        pytest.param(reading(12_095, Level.NORMAL), [], "no-available-memory", id="one megabyte less is not"),
        pytest.param(reading(12_095), [], "no-available-memory", id="even where the level is not known"),
        pytest.param(WARNED, [], "pressure", id="pressure warn refuses"),
        pytest.param(ALARMED, [], "pressure", id="pressure critical refuses, whatever is available"),
        pytest.param(reading(16_095), [reserved("z", 4_000)], "no-available-memory", id="a promise is subtracted"),
        pytest.param(reading(16_096), [reserved("z", 4_000)], "Admitted", id="and once only"),
        pytest.param(
            reading(16_095), [reserved("app", 4_000)], "no-available-memory", id="an app's or another file's as well"
        ),
        pytest.param(
            reading(15_095),
            [reserved("app", 4_000, 41), holding(41, 1_000)],
            "no-available-memory",
            id="but for what its holder has filled, which is in the measured memory",
        ),
        pytest.param(reading(15_096), [reserved("app", 4_000, 41), holding(41, 1_000)], "Admitted", id="and no more"),
        pytest.param(
            reading(13_095),
            [reserved("app", 4_000, 41), reserved("too", 2_000, 41, id="r"), holding(41, 5_000)],
            "no-available-memory",
            id="what fills one promise of its holder fills no other",
        ),
        pytest.param(
            reading(13_096),
            [reserved("app", 4_000, 41), reserved("too", 2_000, 41, id="r"), holding(41, 5_000)],
            "Admitted",
            id="nor is it lost to the other",
        ),
        pytest.param(
            reading(12_096),
            [reserved("app", 4_000, 41), holding(41, 5_000)],
            "Admitted",
            id="an app past its budget owes nothing",
        ),
        pytest.param(
            reading(15_095),
            [loaded("young", age_s=10), footprint("young", 3_000)],
            "no-available-memory",
            id="what a young service has not filled yet is subtracted",
        ),
        pytest.param(
            reading(15_096),
            [loaded("young", age_s=10), footprint("young", 3_000)],
            "Admitted",
            id="what it has filled is in the measured memory already",
        ),
        pytest.param(
            reading(12_096),
            [loaded("young", age_s=300), footprint("young", 3_000)],
            "Admitted",
            id="a service past its load_timeout_s has what it needs",
        ),
        pytest.param(
            reading(12_096),
            [loaded("young", 11, age_s=10), loaded("young", 12, age_s=900), footprint("young", 3_000)],
            "Admitted",
            id="a new worker does not make an old service young",
        ),
        pytest.param(
            reading(12_096), [loaded("young", age_s=10)], "Admitted", id="what was not measured is not guessed"
        ),
        pytest.param(
            reading(12_096),
            [loaded("young", age_s=10), footprint("young", 7_000)],
            "Admitted",
            id="a young service past its budget owes nothing",
        ),
        pytest.param(WARNED, [loaded("new")], "AlreadyLoaded", id="what is loaded already is not vetoed"),
        pytest.param(WARNED, [reserved("new", 8_000, 1)], "Admitted", id="nor is what was admitted already"),
        pytest.param(
            ALARMED, [loaded("z"), footprint("z", 39_000)], "no-headroom", id="the ledger's own reason comes first"
        ),
        pytest.param(
            Reading(available={"vram0": 0}),
            [],
            "Admitted",
            id="of a resource that the reading leaves out nothing is said",
        ),
    ],
)
def test_the_live_veto(now: Reading, seen: list[Seen], word: str) -> None:
    assert words([ask(VETOED, "new", *seen, now=now)]) == [word]
    off = Capacity(VETOED.host, VETOED.services, live_veto=False)
    expected = "Admitted" if word in ("pressure", "no-available-memory") else word
    assert words([ask(off, "new", *seen, now=now)]) == [expected]


def test_a_refusal_under_pressure_names_the_level_and_its_numbers() -> None:
    refused = refusal(ask(VETOED, "new", loaded("z"), now=WARNED))
    assert "under memory pressure (warn: 7% available)" in refused.message
    assert (refused.remedy, refused.retry_after_s, refused.victims) == (Wait("new", 300.0), 30.0, ())
    assert [blocker.label for blocker in refused.blockers] == ["z"]


def test_a_refusal_for_want_of_available_memory_names_all_its_numbers() -> None:
    refused = refusal(ask(VETOED, "new", reserved("z", 4_000), now=reading(14_000)))
    assert "needs 8000 MB and fits the pool" in refused.message
    assert "14000 MB available, 5904 MB of it beyond the safety floor" in refused.message
    assert "2096 MB short" in refused.message
    assert (mb(refused.shortfall), refused.retry_after_s) == (2_096, 30.0)


ROOMY = capacity(
    service("new", 8_000, priority=5),
    service("high", 6_000, priority=9),
    service("kept", 6_000, evictable=False),
    service("pinned", 6_000, pinned=True),
    service("a", 6_000),
    service("b", 6_000),
    service("low", 6_000, priority=-5),
    pool_mb=60_000,
)


@pytest.mark.parametrize(
    ("seen", "victims"),
    [
        pytest.param([loaded("a"), footprint("a", 2_000)], ("a",), id="one who holds as much as is short"),
        pytest.param([loaded("a"), footprint("a", 1_999)], (), id="and not one who holds less"),
        pytest.param([loaded("a")], (), id="nor one of whom that is not known"),
        pytest.param([reserved("a", 6_000), footprint("a", 5_000)], (), id="nor one who is being loaded"),
        pytest.param([loaded("high"), footprint("high", 5_000)], (), id="nor one of a higher priority"),
        pytest.param([loaded("kept"), footprint("kept", 5_000)], (), id="nor one who is never chosen"),
        pytest.param([loaded("pinned"), footprint("pinned", 5_000)], (), id="nor one who is pinned"),
        pytest.param(
            [*map(loaded, "ab"), footprint("a", 3_000), footprint("b", 2_500)], ("b",), id="the largest is spared"
        ),
        pytest.param(
            [*map(loaded, ("a", "b", "low")), *(footprint(name, 1_000) for name in ("a", "b", "low"))],
            ("low", "a"),
            id="several where one is not enough, the lowest first",
        ),
        pytest.param(
            [loaded("a", age_s=1.0), footprint("a", 500)], ("a",), id="what is kept for it to take yet comes back too"
        ),
    ],
)
def test_where_unloading_makes_up_for_it_that_is_the_remedy(seen: list[Seen], victims: tuple[str, ...]) -> None:
    derived = ledger(ROOMY, *seen)
    available = 10_096 + sum(mb(each) for each in promises(derived))
    refused = refusal(decide(derived, reading(available), request(ROOMY, "new")))
    assert (refused.reason, mb(refused.shortfall)) == (Reason.NO_AVAILABLE_MEMORY, 2_000)
    assert refused.victims == victims
    if victims:
        assert (refused.remedy, refused.retry_after_s) == (Unload(victims), None)
        assert refused.message.endswith(f"holds the rest; unloading {', '.join(victims)} would make up for it.")
    else:
        assert (refused.remedy, refused.retry_after_s) == (Wait("new", 300.0), 30.0)
        assert refused.message.endswith("Something that is not declared holds the rest.")


def test_a_reading_of_ram_alone_says_nothing_of_a_gpu() -> None:
    gpu = capacity(service("new", budget=ram(1_000, vram0=8_000)), pool=ram(9_000, vram0=24_000))
    assert isinstance(ask(gpu, "new", now=reading(60_000)), Admitted)
    short = refusal(ask(gpu, "new", now=Reading(available=ram(60_000, vram0=7_999))))
    assert short.reason is Reason.NO_AVAILABLE_MEMORY
    assert short.shortfall == {"vram0": MB}


def test_an_app_past_what_was_kept_leaves_less_room_without_the_veto_too() -> None:
    off = capacity(service("new", 8_000), pool_mb=16_000, live_veto=False)
    app = reserved("app", 4_000, 41)
    assert isinstance(ask(off, "new", app, holding(41, 8_000)), Admitted)
    refused = refusal(ask(off, "new", app, holding(41, 8_001)))
    assert (refused.reason, mb(refused.shortfall)) == (Reason.NO_HEADROOM, 1)
    assert [(each.label, mb(each.charge)) for each in refused.blockers] == [("app", 8_001)]


def test_what_is_admitted_in_one_look_is_promised_to_the_next() -> None:
    declared = capacity(service("a", 4_000, priority=1), service("b", 4_000))
    requests = [request(declared, "a", 0.0, 1), request(declared, "b", 0.0, 2)]
    assert words(settle(ledger(declared), reading(12_095), requests)) == ["Admitted", "no-available-memory"]
    assert words(settle(ledger(declared), reading(12_096), requests)) == ["Admitted", "Admitted"]


def test_every_promise_of_a_service_is_subtracted() -> None:
    derived: Ledger = ledger(VETOED, reserved("z", 4_000, 1, id="a"), reserved("z", 4_000, 2, id="b"))
    assert [mb(each) for each in promises(derived)] == [8_000]
