"""`admit` of a service account whose HOME is no folder: what needs no private file works."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from admitd.app import furnish
from tests.cli.conftest import INSIDE, Desk
from tests.daemons import served

NOWHERE = {"HOME": "/dev/null"}
WHAT_TO_SET = (
    "/dev/null/.local/state/admit cannot be made: Not a directory; set XDG_STATE_HOME to a folder that you may"
)


def test_run_becomes_the_command(desk: Desk) -> None:
    desk.declare(desk.service("third"))
    done = desk.admit("run", "third", "--", "echo", "ran", env=NOWHERE).must(0)
    assert done.out == "ran\n"
    assert INSIDE in done.err


def test_run_is_refused_as_anybody_is(desk: Desk) -> None:
    desk.declare(desk.service("big"), desk.service("third"))
    desk.start_by_hand("big")
    done = desk.admit("run", "third", "--", "echo", "ran", env=NOWHERE).must(2)
    assert "make room:  admit unload big" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status"], "third"),
        (["plan", "third"], "third"),
        (["explain", "third"], "third: stopped"),
        (["config", "check"], "fine; host box"),
        (["events"], "nothing of that kind was written down yet"),
        (["unload", "third"], "third is not loaded"),
    ],
)
def test_what_only_looks_works(desk: Desk, words: Sequence[str], said: str) -> None:
    desk.declare(desk.service("third"))
    done = desk.admit(*words, env=NOWHERE).must(0)
    assert said in done.out + done.err


def test_unload_ends_what_is_loaded_and_says_what_is_not_remembered(desk: Desk) -> None:
    desk.declare(desk.service("third", unload_cmd="exit 3"))
    by_hand = desk.start_by_hand("third")
    done = desk.admit("unload", "third", env=NOWHERE).must(1)
    assert "journal.jsonl cannot be written (Not a directory): what happens is not remembered" in done.err
    desk.admit("unload", "third", "--kill", env=NOWHERE).must(0)
    assert by_hand.wait() != 0


def test_doctor_says_that_nobody_remembers(desk: Desk) -> None:
    desk.declare(desk.service("third"))
    done = desk.admit("doctor", env=NOWHERE)
    assert "/dev/null/.local/state/admit/journal.jsonl can't be written, so that nobody remembers" in done.out
    assert "ls -ld /dev/null\n" in done.out


@pytest.mark.parametrize("door", ["inside", "daemon"])
def test_a_load_needs_a_place_for_its_log_and_says_what_to_set(desk: Desk, door: str) -> None:
    desk.declare(desk.service("third"))
    env = {**NOWHERE, "XDG_STATE_HOME": ""}
    done = desk.admit("load", "third", env=env).must(78)
    assert WHAT_TO_SET in done.err
    assert (desk.held(), desk.pids("third")) == ([], [])
    there = {**NOWHERE, "XDG_STATE_HOME": str(desk.home / "there")}
    if door == "daemon":
        desk.daemon(env=there)
    desk.admit("load", "third", env=there).must(0)
    assert len(desk.pids("third")) == 1
    assert (desk.home / "there" / "admit" / "logs" / "third.log").exists()


@pytest.mark.parametrize("words", [["--evict", "--yes"], ["--wait", "5m"]])
def test_for_a_load_that_could_not_start_nobody_is_unloaded_and_nobody_waits(desk: Desk, words: Sequence[str]) -> None:
    desk.declare(desk.service("big"), desk.service("third", priority=9))
    by_hand = desk.start_by_hand("big")
    assert WHAT_TO_SET in desk.admit("load", "third", *words, env=NOWHERE).must(78).err
    assert by_hand.poll() is None


def test_the_daemon_says_at_its_start_what_it_wants(desk: Desk) -> None:
    desk.declare(desk.service("third"))
    assert WHAT_TO_SET in desk.admit("daemon", "run", env=NOWHERE).must(78).err


def test_who_decides_by_himself_acts_for_nobody_who_comes_with_a_token(desk: Desk) -> None:
    """Without a daemon nobody holds a token, so that none is right, the empty one included."""
    desk.declare(desk.service("third"))
    house = furnish({**desk.env, **NOWHERE})
    with served(house.application) as server:
        for token in ("", "None", "x" * 43):
            headers = {"Authorization": f"Bearer {token}"}
            assert server.ask("POST", "/services/third/load", {}, headers=headers).status == 401
    assert desk.pids("third") == []
