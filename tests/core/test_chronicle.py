"""What is remembered of verdicts, loads and unloads: sentences for people, and the numbers behind them."""

from __future__ import annotations

import pytest

from admitd.core import chronicle
from admitd.core.events import KINDS, Event, Severity
from admitd.core.ledger import derive
from admitd.core.terms import RAM, Capacity, Host, Level, ProcessId, Reading, Reservation, Service, View
from admitd.core.verdict import Admitted

MIB = 1 << 20
X = Service("x", {RAM: 100 * MIB}, process_pattern="x")
CAPACITY = Capacity(Host("box", {RAM: 1000 * MIB}, {RAM: 100 * MIB}, {RAM: 100 * MIB}), {"x": X})
HELD = Reservation("0123456789abcdef", "x", X.budget, ProcessId(42, 7), 300.0)


def test_an_admission_tells_what_it_was_decided_on() -> None:
    verdict = Admitted("x", X.budget, {RAM: 750 * MIB}, HELD)
    reading = Reading({RAM: 640 * MIB}, Level.WARN)
    event = chronicle.admitted(verdict, derive(CAPACITY, View()), reading)
    assert event.text == "x was admitted: 100 MB reserved, 750 of 800 MB were free; the system had 640 MB available"
    assert event.numbers == {
        "budget_mb": 100,
        "free_mb": 750,
        "pool_mb": 800,
        "charged_mb": 50,
        "available_mb": 640,
        "pressure": "warn",
        "reservation": "0123456789abcdef",
        "holder_pid": 42,
    }


def test_what_the_system_would_not_say_is_left_out() -> None:
    verdict = Admitted("x", X.budget, {RAM: 800 * MIB}, HELD)
    event = chronicle.admitted(verdict, derive(CAPACITY, View()), Reading())
    assert event.text == "x was admitted: 100 MB reserved, 800 of 800 MB were free"
    assert (event.numbers["available_mb"], event.numbers["pressure"]) == (None, None)


@pytest.mark.parametrize(
    ("event", "text", "severity", "command"),
    [
        (chronicle.given_back("x", "0123"), "the reservation of x was given back", Severity.INFO, None),
        (
            chronicle.loaded("x", 12.34, {RAM: 90 * MIB}, (7, 8)),
            "x is loaded after 12.3 s and holds 90 MB",
            "info",
            None,
        ),
        (chronicle.loaded("x", 12.34, {}, ()), "x is loaded after 12.3 s", "info", None),
        (
            chronicle.load_failed("x", "load_cmd ended with exit 3"),
            "x failed to load: load_cmd ended with exit 3",
            "warning",
            "admit load x",
        ),
        (
            chronicle.load_timed_out("x", 300.0, "no answer yet", holds_memory=True),
            "x was not loaded within 300 s: no answer yet",
            "warning",
            "admit unload x",
        ),
        (
            chronicle.unloaded("x", 1.0, {RAM: 80 * MIB}),
            "x was unloaded after 1.0 s; 80 MB more are available",
            "info",
            None,
        ),
        (
            chronicle.unloaded("x", 1.0, {RAM: -80 * MIB}),
            "x was unloaded after 1.0 s; 0 MB more are available",
            "info",
            None,
        ),
        (chronicle.unloaded("x", 1.0, None), "x was unloaded after 1.0 s", "info", None),
        (
            chronicle.unload_failed("x", "it is still there", (7,)),
            "x could not be unloaded: it is still there",
            "warning",
            "admit unload x --kill",
        ),
    ],
)
def test_each_is_a_sentence_with_the_next_command(event: Event, text: str, severity: str, command: str | None) -> None:
    assert (event.text, event.severity, event.next, event.service) == (text, severity, command, "x")
    assert event.kind in KINDS


def test_what_a_command_printed_is_kept_to_its_first_line() -> None:
    event = chronicle.unload_failed("x", "its unload_cmd ended with exit 1: cannot\npassword=hunter2\n" + "y" * 5000)
    assert event.text == "x could not be unloaded: its unload_cmd ended with exit 1: cannot"
    assert len(chronicle.load_failed("x", "y" * 5000).text) < 400
