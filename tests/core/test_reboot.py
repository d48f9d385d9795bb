"""What the last run's end was: clean, killed, or the machine's own."""

from __future__ import annotations

import pytest

from admitd.core import reboot
from admitd.core.acts import Tell
from admitd.core.reboot import Alive, Finding, Past

OLD, NOW = "boot-1", "boot-2"


def past(at: float, kind: str, service: str | None = "x", boot: str = OLD) -> Past:
    return Past(at, at, boot, kind, service)


ROWS = [
    ("a first start", None, [], None, []),
    ("a clean end, and a boot", None, [past(10, "loaded"), past(20, "daemon_stopped", None)], None, []),
    ("a clean end, no boot", None, [past(10, "loaded", boot=NOW), past(20, "daemon_stopped", None, NOW)], None, []),
    ("it went down while nothing was loaded", Alive(OLD, 1000, 1000), [past(10, "loaded")], "unclean_reboot", []),
    ("within the minute after a load", Alive(OLD, 1000, 1000), [past(941, "admitted"), past(950, "loaded")],
     "unclean_reboot", ["x"]),
    ("more than a minute after it", Alive(OLD, 1000, 1000), [past(939, "loaded")], "unclean_reboot", []),
    ("two loads", Alive(OLD, 1000, 1000), [past(960, "admitted", "a"), past(970, "loaded", "b")],
     "unclean_reboot", ["a", "b"]),
    ("a load of another boot", Alive(OLD, 1000, 1000), [past(960, "loaded", boot="boot-0")], "unclean_reboot", []),
    ("an unload", Alive(OLD, 1000, 1000), [past(990, "unloaded")], "unclean_reboot", []),
    ("a recovery was on its way", Alive(OLD, 1000, 1000), [past(990, "recovering")], "unclean_reboot", ["x"]),
    ("no sign of life, the journal tells", None, [past(5, "daemon_started", None), past(990, "loaded")],
     "unclean_reboot", ["x"]),
    ("the journal tells, and this boot has entries already", None,
     [past(5, "daemon_started", None), past(990, "loaded"), past(1500, "admitted", "y", NOW)], "unclean_reboot", ["x"]),
    ("the journal tells, and a daemon of this boot has told it already", None,
     [past(5, "daemon_started", None), past(990, "loaded"), past(1500, "daemon_started", None, NOW)], None, []),
    ("no daemon was there, only the command line", None, [past(990, "loaded")], None, []),
    ("stopped, and then the command line", None,
     [past(5, "daemon_started", None), past(7, "daemon_stopped", None), past(990, "loaded")], None, []),
    ("the daemon was killed, nothing was under way", Alive(NOW, 1000, 1000), [past(990, "loaded", boot=NOW)], None, []),
    ("killed in a recovery", Alive(NOW, 1000, 1000), [past(990, "recovering", boot=NOW)], "load_failed", []),
    ("killed between its unload and its load", Alive(NOW, 1000, 1000),
     [past(980, "recovering", boot=NOW), past(990, "unloaded", boot=NOW)], "load_failed", []),
    ("killed after a recovery", Alive(NOW, 1000, 1000),
     [past(980, "recovering", boot=NOW), past(990, "recovered", boot=NOW)], None, []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("alive", "history", "kind", "held"), [pytest.param(a, h, k, s, id=why) for why, a, h, k, s in ROWS]
)
def test_how_it_ended(alive: Alive | None, history: list[Past], kind: str | None, held: list[str]) -> None:
    found = reboot.judge(alive, NOW, history, now=2000)
    kinds = [act.event.kind for act in found.acts if isinstance(act, Tell)]
    assert kinds == ([kind] if kind else [])
    assert found.held_back == frozenset(held)


def test_it_says_what_was_loaded_and_that_it_stays_away() -> None:
    found = reboot.judge(
        Alive(OLD, 1000, 1000), NOW, [past(960, "loaded", "qwen")], [1990.0, 1.0, -900_000.0], now=2000
    )
    (told,) = found.acts
    assert isinstance(told, Tell)
    assert told.event.text == (
        "The machine went down without a clean stop, 17 min ago, and there are 2 panic reports of the last 72 hours. "
        "In the minute before, this was loaded: qwen. admit does not load it again by itself."
    )
    assert told.event.next == "admit load qwen"


def test_a_wall_clock_that_was_set_hides_nothing() -> None:
    """What was loaded in the minute before is judged by the boot's own clock."""
    found = reboot.judge(Alive(OLD, 1000, 5.0), NOW, [Past(960, 9_999_999, OLD, "loaded", "qwen")], now=2000)
    assert found.held_back == {"qwen"}


def test_panics_alone_say_nothing() -> None:
    assert reboot.judge(None, NOW, [], [1990.0], now=2000) == Finding()
