"""What is known of a service beside one look: its activity, its probe, its peak; and how the memory went."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admitd.core import condition, wire
from admitd.core.condition import Answering, Condition, Peak, Sample
from admitd.core.ledger import Account, Ledger
from admitd.core.probing import Course
from admitd.core.terms import RAM, Capacity, Host, Level, Probe, Process, ProcessId, Reading, Service, Sighting, State

MIB = 1 << 20
ONE, TWO = ProcessId(1, 10), ProcessId(2, 20)
PROBED = Service("x", {RAM: MIB}, probe=Probe("http://127.0.0.1:1/", "GET", None, 200, 1.0, 1.0))
PLAIN = Service("x", {RAM: MIB})


def account(mb: int | None, *ids: ProcessId) -> Account:
    seen = tuple(Sighting("x", Process(each, 0)) for each in ids)
    return Account(PLAIN, State.LOADED, {RAM: MIB}, None if mb is None else {RAM: mb * MIB}, seen)


def peak(before: dict[str, Peak], each: Account) -> int | None:
    found = condition.peaks(before, [each]).get("x")
    return None if found is None else found.most[RAM] // MIB


class TestPeaks:
    def test_the_most_is_kept(self) -> None:
        before = condition.peaks({}, [account(300, ONE)])
        assert peak(before, account(200, ONE)) == 300
        assert peak(before, account(400, ONE)) == 400

    def test_a_worker_that_comes_or_goes_does_not_begin_it_anew(self) -> None:
        before = condition.peaks({}, [account(300, ONE)])
        assert peak(before, account(200, ONE, TWO)) == 300

    def test_another_process_begins_it_anew(self) -> None:
        before = condition.peaks({}, [account(300, ONE)])
        assert peak(before, account(200, TWO)) == 200

    def test_what_is_not_measured_or_gone_has_none(self) -> None:
        before = condition.peaks({}, [account(300, ONE)])
        assert peak(before, account(None, ONE)) is None
        assert peak(before, account(9)) is None
        assert condition.peaks(before, []) == {}


@pytest.mark.parametrize(
    ("said", "service", "course", "recovering"),
    [
        (None, PLAIN, None, False),
        (None, PROBED, None, False),
        (None, PROBED, Course(), False),
        (Answering.UNASKED, PROBED, Course(frozenset({ONE})), False),
        (Answering.ANSWERS, PROBED, Course(frozenset({ONE}), answered_once=True), False),
        (Answering.BUSY, PROBED, Course(frozenset({ONE}), answered_once=True, busy=True), False),
        (Answering.SILENT, PROBED, Course(frozenset({ONE}), answered_once=True, failures=1), False),
        (Answering.LEFT_ALONE, PROBED, Course(frozenset({ONE}), failures=3, told="gave up"), False),
        (Answering.LEFT_ALONE, PLAIN, Course(told="left alone"), False),
        (Answering.RECOVERING, PROBED, Course(frozenset({ONE}), failures=3), True),
        (Answering.RECOVERING, PROBED, Course(), True),
    ],
)
def test_what_a_probe_came_to_is_one_word(
    said: Answering | None, service: Service, course: Course | None, recovering: bool
) -> None:
    assert condition.answering(service, course, recovering=recovering) is said


class Working:
    busy = False
    last_active_s = 40.0
    detail = "no work for 60 s"


def test_a_condition_is_all_of_it() -> None:
    course = Course(failures=2)
    whole = condition.condition(100.0, Working(), Answering.SILENT, course, Peak(frozenset({ONE}), {RAM: MIB}))
    assert whole == Condition(False, 60.0, "no work for 60 s", Answering.SILENT, 2, {RAM: MIB})
    assert condition.condition(1.0, None, None, None, None) == Condition(None, None, "not looked at yet", None, 0, None)
    assert condition.condition(30.0, Working(), None, None, None).active_s_ago == 0.0, "a clock that lags is not before"


def test_a_condition_is_shown_beside_its_service() -> None:
    host = Host("box", {RAM: 10 * MIB}, {}, {})
    ledger = Ledger(Capacity(host, {"x": PLAIN}), {RAM: 10 * MIB}, {"x": account(1, ONE)})
    known = Condition(True, 0.04, "working", Answering.ANSWERS, 0, {RAM: 3 * MIB})
    (line,) = wire.capacity(ledger, Reading(), {"x": known, "gone": known})["services"]
    assert line["condition"] == {
        "busy": True,
        "active_s_ago": 0.0,
        "activity": "working",
        "probe": "answers",
        "probe_failures": 0,
        "half_loaded": None,
        "peak_mb": 3,
    }


@pytest.mark.parametrize(
    ("state", "half", "shown"),
    [
        (State.LOADED, "it has never answered its probe", "half_loaded"),
        (State.LOADED, "", "loaded"),
        (State.SUSPENDED, "it has never answered its probe", "suspended"),
    ],
)
def test_what_never_came_to_answer_is_shown_as_half_loaded(state: State, half: str, shown: str) -> None:
    host = Host("box", {RAM: 10 * MIB}, {}, {})
    ledger = Ledger(Capacity(host, {"x": PLAIN}), {RAM: 10 * MIB}, {"x": replace(account(1, ONE), state=state)})
    known = Condition(False, None, "", Answering.SILENT, 3, None, half)
    (line,) = wire.capacity(ledger, Reading(), {"x": known})["services"]
    assert (line["state"], line["condition"]["half_loaded"]) == (shown, half or None)


def test_the_age_of_a_service_is_that_of_its_oldest_process() -> None:
    old, young = Process(ONE, 0, age_s=90.04), Process(TWO, 0, age_s=5.0)
    seen = (Sighting("x", young), Sighting("x", old), Sighting("x", Process(ProcessId(3, 30), 0, age_s=999.0), True))
    ledger = Ledger(
        Capacity(Host("box", {}, {}, {}), {"x": PLAIN}), {}, {"x": Account(PLAIN, State.LOADED, {}, None, seen)}
    )
    assert wire.capacity(ledger, Reading())["services"][0]["age_s"] == 90.0


def test_a_sample_adds_up_what_services_hold() -> None:
    host = Host("box", {RAM: 10 * MIB}, {}, {})
    accounts = {"x": account(3, ONE), "y": account(4, TWO), "z": account(None)}
    ledger = Ledger(Capacity(host, {}), {RAM: 2 * MIB}, accounts)
    kept = condition.sample(5.0, ledger, Reading({RAM: 7 * MIB}, Level.WARN))
    assert kept == Sample(5.0, {RAM: 3 * MIB}, {RAM: -MIB}, {RAM: 7 * MIB}, {RAM: 7 * MIB}, Level.WARN)
    blind = Sample(6.0, {}, {}, {}, None, None)
    assert wire.history([kept, blind])["samples"] == [
        {"at": 5.0, "charged_mb": 3, "free_mb": -1, "measured_mb": 7, "available_mb": 7, "level": "warn"},
        {"at": 6.0, "charged_mb": 0, "free_mb": 0, "measured_mb": 0, "available_mb": None, "level": None},
    ]
