"""What is told at once, and what waits to be told together."""

from __future__ import annotations

from admitd.core import grouping
from admitd.core.events import Event, Severity
from admitd.core.grouping import LINES_MAX, WAITING_MAX, WINDOW_S, Outbox

WOKEN = Event("woken", "qemu was woken", Severity.WARNING, "qemu")
CLOSED = Event("closed", "coder was closed", Severity.CRITICAL, "coder", "admit load coder")


def sent(outbox: Outbox, now: float) -> tuple[Outbox, str | None]:
    outbox, message = grouping.take(outbox, now, "box")
    return outbox, None if message is None else message.body


def test_only_what_is_worth_knowing_is_told() -> None:
    assert grouping.is_told(WOKEN)
    assert grouping.is_told(CLOSED)
    assert not grouping.is_told(Event("loaded", "x is loaded"))
    assert not grouping.is_told(Event("channel_failed", "x", Severity.WARNING))


def test_the_first_is_told_at_once() -> None:
    assert grouping.due_at(Outbox()) is None
    outbox, body = sent(grouping.put(Outbox(), WOKEN), 100.0)
    assert body == "qemu was woken"
    assert grouping.due_at(outbox) is None


def test_the_next_ones_wait_and_are_told_together() -> None:
    outbox, _ = sent(grouping.put(Outbox(), WOKEN), 100.0)
    for name in ("a", "b"):
        outbox = grouping.put(outbox, Event("woken", f"{name} was woken", Severity.WARNING, name))
    assert sent(outbox, 100.0 + WINDOW_S - 0.1)[1] is None
    assert grouping.due_at(outbox) == 100.0 + WINDOW_S
    outbox, body = sent(outbox, 100.0 + WINDOW_S)
    assert body == "a was woken\nb was woken"
    assert sent(outbox, 1000.0)[1] is None


def test_what_is_worse_does_not_wait_for_what_is_less() -> None:
    outbox, _ = sent(grouping.put(Outbox(), WOKEN), 100.0)
    outbox = grouping.put(grouping.put(outbox, WOKEN), CLOSED)
    outbox, body = sent(outbox, 101.0)
    assert body == "coder was closed\n  admit load coder\nqemu was woken"


def test_what_is_less_waits_for_what_was_worse() -> None:
    outbox, _ = sent(grouping.put(Outbox(), CLOSED), 100.0)
    outbox = grouping.put(outbox, WOKEN)
    assert sent(outbox, 159.0)[1] is None
    assert sent(outbox, 160.0)[1] == "qemu was woken"


def test_the_same_is_told_once_with_how_often() -> None:
    assert grouping.message((WOKEN, WOKEN, WOKEN), "box").body == "qemu was woken (3 times)"


def test_a_flood_has_an_end() -> None:
    outbox, _ = sent(grouping.put(Outbox(), WOKEN), 0.0)
    for number in range(1000):
        outbox = grouping.put(outbox, Event("woken", f"{number} was woken", Severity.WARNING, f"s{number}"))
    assert len(outbox.waiting) == WAITING_MAX
    outbox, message = grouping.take(outbox, WINDOW_S, "box")
    assert message is not None
    assert len(message.body.splitlines()) == LINES_MAX + 1
    assert message.body.endswith(f"and {1000 - LINES_MAX} more: admit events")
    assert message.title == "admit on box: s0, s1, s10, ..."
    assert outbox.left_out == 0


def test_a_message_is_as_severe_as_its_worst() -> None:
    assert grouping.message((WOKEN, CLOSED), "box").severity is Severity.CRITICAL
    assert grouping.message((WOKEN,), "box").title == "admit on box: qemu"
    assert grouping.message((Event("pressure", "x", Severity.WARNING),), "box").title == "admit on box"
