"""`admit load` that waits for its turn, or makes room for itself."""

from __future__ import annotations

import signal

import pytest

from tests.cli.conftest import BIN, Desk, wait_until
from tests.cli.terminals import terminal

# The queue.


def test_wait_shows_the_position_and_gets_in_when_room_appears(desk: Desk, door: str) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    desk.open_for(door)
    by_hand = desk.start_by_hand("big")
    waiting = desk.begin("load", "small", "--wait", "50s")
    assert waiting.stderr is not None
    seen = ""
    while "position 1 of 1" not in seen:
        line = waiting.stderr.readline()
        assert line, seen
        seen += line
    assert "admit: small waits, position 1 of 1 in the queue\n" in seen
    by_hand.kill()
    by_hand.wait()
    desk.finish(waiting).must(0)
    assert len(desk.pids("small")) == 1
    assert desk.held() == []


def test_wait_that_is_in_vain_is_75(desk: Desk, door: str) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    desk.open_for(door)
    desk.start_by_hand("big")
    done = desk.admit("load", "small", "--wait", "1s", "--json").must(75)
    assert done.json["reason"] == "no-headroom"
    assert "it waited in the queue, to the end at position 1" in done.err
    assert "make room:  admit unload big" in done.err
    assert desk.held() == []


def test_a_wait_through_which_nothing_could_be_decided_is_75_too(desk: Desk) -> None:
    """It never was in the queue, and is not a no either."""
    desk.declare(desk.service("small", 5000))
    desk.daemon()
    away = desk.state.rename(desk.home / "away")
    desk.state.write_text("in the way")
    try:
        desk.admit("run", "small", "--", "true").must(2)
        done = desk.admit("run", "small", "--wait", "1s", "--", "true").must(75)
        assert "small is refused (not-recorded)" in done.err and str(desk.state) in done.err
    finally:
        desk.state.unlink()
        away.rename(desk.state)


def test_a_wait_of_nothing_is_a_plain_refusal(desk: Desk) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    desk.daemon()
    desk.start_by_hand("big")
    desk.admit("load", "small", "--wait", "0").must(2)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_queue_leaves_it(desk: Desk, door: str, sig: signal.Signals) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    desk.open_for(door)
    desk.start_by_hand("big")
    waiting = desk.begin("load", "small", "--wait", "5m", "--json")
    wait_until(lambda: any("waiting~" in name for name in desk.held()))
    done = desk.interrupt(waiting, sig).must(130)
    assert "admit: interrupted; nothing is reserved for small, and nothing was started" in done.err
    assert done.json["exit_code"] == 130
    assert desk.admit("status", "--json").must(0).json["waiting"] == []


# Making room.


def two_and_room_for_one(desk: Desk, **keys: object) -> None:
    desk.declare(desk.service("big", **keys), desk.service("small", 5000))
    desk.daemon()
    desk.start_by_hand("big")


def test_evict_without_a_terminal_needs_yes(desk: Desk) -> None:
    two_and_room_for_one(desk)
    done = desk.admit("load", "small", "--evict").must(2)
    assert "To make room, these would be unloaded, in this order:\n  big  6000 MB" in done.err
    assert "agreed to on a terminal, or with --yes" in done.err
    assert len(desk.pids("big")) == 1


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"])
def test_evict_asks_on_a_terminal_and_takes_no_for_an_answer(desk: Desk, answer: str) -> None:
    two_and_room_for_one(desk)
    done = desk.terminal("load", "small", "--evict", answer=answer, when="[y/N]").must(2)
    assert "nothing was unloaded" in done.out
    assert len(desk.pids("big")) == 1
    assert desk.pids("small") == []


def test_evict_asks_on_a_terminal_and_then_does_it(desk: Desk) -> None:
    two_and_room_for_one(desk)
    done = desk.terminal("load", "small", "--evict", answer="y\n", when="[y/N]").must(0)
    assert "big is unloaded after" in done.out
    assert done.out.splitlines()[-1].endswith("of 5000 MB")
    assert (desk.pids("big"), len(desk.pids("small"))) == ([], 1)


@pytest.mark.parametrize("gone", ["a", "b"])
def test_nobody_goes_for_room_that_came_free_while_it_asked(desk: Desk, gone: str) -> None:
    desk.declare(desk.service("a", 3000), desk.service("b", 3000), desk.service("small", 5000))
    by_hand = {name: desk.start_by_hand(name) for name in ("a", "b")}
    with terminal([str(BIN / "admit"), "load", "small", "--evict"], desk.env, 80, 24) as screen:
        assert "  a  3000 MB" in screen.sees("[y/N]")
        by_hand[gone].kill()
        by_hand[gone].wait()
        screen.type("y", "Enter")
        assert screen.code() == 0, screen.screen()
        assert "small is loaded" in screen.screen() and "is unloaded" not in screen.screen()
    assert [len(desk.pids(name)) for name in ("a", "b", "small")] == [int(gone != "a"), int(gone != "b"), 1]


def test_who_was_not_agreed_to_is_asked_for_anew(desk: Desk) -> None:
    desk.declare(desk.service("a", 3000), desk.service("b", 3000), desk.service("small", 5000))
    by_hand = desk.start_by_hand("b")
    desk.start_by_hand("a")
    with terminal([str(BIN / "admit"), "load", "small", "--evict"], desk.env, 80, 24) as screen:
        assert "  a  3000 MB" in screen.sees("[y/N]")
        desk.declare(desk.service("a", 3000, pinned=True), desk.service("b", 3000), desk.service("small", 5000))
        screen.type("y", "Enter")
        assert "  b  3000 MB" in screen.sees("would be unloaded, in this order:\n  b")
        screen.type("n", "Enter")
        assert screen.code() == 2, screen.screen()
    assert len(desk.pids("a")) == 1 and by_hand.poll() is None


def test_evict_unloads_one_victim_at_a_time_and_no_more_than_needed(desk: Desk, door: str) -> None:
    names = ["a", "b", "c"]
    desk.declare(*(desk.service(name, 3000, priority=1) for name in names), desk.service("big", 7000, priority=9))
    desk.open_for(door)
    for name in names:
        desk.start_by_hand(name)
    done = desk.admit("load", "big", "--evict", "--yes", "--json").must(0)
    assert done.json["outcome"] == "loaded"
    assert done.err.count("SIGTERM to") == 2
    assert done.err.index("a is unloaded") < done.err.index("SIGTERM to", done.err.index("a is unloaded"))
    assert sum(len(desk.pids(name)) for name in names) == 1


def test_evict_stops_where_a_victim_does_not_go(desk: Desk) -> None:
    desk.declare(desk.service("big", unload_timeout_s=1), desk.service("small", 5000))
    desk.daemon()
    desk.start_by_hand("big", "--stubborn")
    done = desk.admit("load", "small", "--evict", "--yes", "--json").must(75)
    assert "still there" in done.json["detail"]
    assert "end it for certain: admit unload big --kill" in done.err
    assert desk.pids("small") == []


@pytest.mark.parametrize("more", [["--evict", "--yes"], ["--wait", "5m"]])
def test_nobody_goes_and_nobody_waits_for_what_cannot_be_started(desk: Desk, door: str, more: list[str]) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000, load_cmd=...))
    desk.open_for(door)
    desk.start_by_hand("big")
    done = desk.admit("load", "small", *more).must(1)
    assert "small has no load_cmd; start it with: admit run small -- CMD" in done.err
    assert len(desk.pids("big")) == 1
    desk.admit("load", "big", *more).must(0)


def test_ctrl_c_while_room_is_made_says_what_became_of_each(desk: Desk) -> None:
    desk.declare(
        desk.service("a", 3000), desk.service("b", 3000, unload_timeout_s=60), desk.service("big", 8000, priority=9)
    )
    desk.daemon()
    desk.start_by_hand("a")
    stays = desk.start_by_hand("b", "--stubborn")
    making = desk.begin("load", "big", "--evict", "--yes", "--json")
    assert making.stderr is not None
    while f"SIGTERM to {stays.pid} (b)" not in (line := making.stderr.readline()):
        assert line
    done = desk.interrupt(making).must(130)
    nothing = "nothing is reserved for big, and nothing was started"
    left = f"interrupted; {nothing}; a is unloaded; b (process {stays.pid}) was sent SIGTERM, and may be there still"
    assert done.err == f"admit: {left}\n"
    assert done.json["detail"] == left


def test_evict_cannot_help_where_nobody_may_go(desk: Desk) -> None:
    desk.declare(desk.service("big", evictable=False), desk.service("small", 5000))
    desk.daemon()
    desk.start_by_hand("big")
    done = desk.admit("load", "small", "--evict", "--yes").must(2)
    assert "pinned or not evictable" in done.err


def test_evict_and_wait_waits_where_eviction_cannot_help(desk: Desk) -> None:
    desk.declare(desk.service("big", evictable=False), desk.service("small", 5000))
    desk.daemon()
    by_hand = desk.start_by_hand("big")
    waiting = desk.begin("load", "small", "--evict", "--yes", "--wait", "50s")
    wait_until(lambda: any("waiting~small" in name for name in desk.held()))
    by_hand.kill()
    by_hand.wait()
    desk.finish(waiting).must(0)
