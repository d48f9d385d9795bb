"""A broken edit of capacity.yaml while the daemon runs: it loads and unloads by the last good file; without a daemon it
is an error as ever."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import pytest

from tests.cli.conftest import Desk, wait_until

STANDS_IN = "admit: until that is mended, the daemon goes by the last good one, and does what is asked\n"


def with_daemon(desk: Desk, *services: str) -> None:
    """A daemon that has read a good file, which is broken now."""
    desk.declare(*services)
    desk.daemon()
    desk.config.write_text("services: [\n")


def test_unload(desk: Desk) -> None:
    with_daemon(desk, desk.service("coder"))
    by_hand = desk.start_by_hand("coder")
    done = desk.admit("unload", "coder").must(0)
    assert by_hand.wait() == -signal.SIGTERM
    assert f"admit: {desk.config}:1: not YAML" in done.err and done.err.count(STANDS_IN) == 1
    assert done.out.startswith("coder is unloaded after ")
    done = desk.admit("unload", "coder", "--json").must(0)
    assert (done.json["outcome"], done.json["service"]) == ("not_loaded", "coder")


def test_unload_by_a_file_that_is_gone(desk: Desk) -> None:
    with_daemon(desk, desk.service("coder"))
    by_hand = desk.start_by_hand("coder")
    desk.config.unlink()
    desk.admit("unload", "coder").must(0)
    assert by_hand.wait() == -signal.SIGTERM


def test_what_cannot_be_unloaded_is_said_with_what_ends_it(desk: Desk) -> None:
    with_daemon(desk, desk.service("a", 2000, unload_cmd="exit 3"), desk.service("b", 2000, unload_timeout_s=1))
    desk.start_by_hand("a")
    by_hand = desk.start_by_hand("b", "--stubborn")
    done = desk.admit("unload", "a", "b", "--json").must(1)
    assert [each["outcome"] for each in done.json["services"]] == ["failed", "timed_out"]
    assert "a could not be unloaded: its unload_cmd ended with exit 3" in done.err
    assert done.err.count(STANDS_IN) == 1
    done = desk.admit("unload", "b").must(75)
    desk.shell(done.err.split("end it for certain: ")[1].strip()).must(0)
    assert by_hand.wait() == -signal.SIGKILL


def test_a_name_that_is_not_declared_is_66_and_nothing_is_touched(desk: Desk) -> None:
    with_daemon(desk, desk.service("coder"))
    by_hand = desk.start_by_hand("coder")
    done = desk.admit("unload", "coder", "codr").must(66)
    assert "the last good capacity.yaml declares no service 'codr'. Did you mean coder?" in done.err
    assert by_hand.poll() is None


def test_ctrl_c_leaves_it_to_the_daemon(desk: Desk) -> None:
    asked, go, done = (desk.home / name for name in ("asked", "go", "done"))
    command = f"touch {asked}; until test -e {go}; do sleep 0.1; done; touch {done}"
    with_daemon(desk, desk.service("coder", unload_cmd=command))
    desk.start_by_hand("coder")
    unloading = desk.begin("unload", "coder")
    wait_until(asked.exists)
    assert "interrupted; the daemon goes on to unload coder" in desk.interrupt(unloading).must(130).err
    go.touch()
    wait_until(done.exists)


@pytest.mark.parametrize("words", [[], ["--wait", "5m"], ["--evict", "--yes"]])
def test_load(desk: Desk, words: Sequence[str]) -> None:
    with_daemon(desk, desk.service("coder"))
    done = desk.admit("load", "coder", *words).must(0)
    (pid,) = desk.pids("coder")
    assert done.out.startswith(f"coder is loaded (pid {pid}) after ")
    assert done.err.count(STANDS_IN) == 1
    assert desk.admit("load", "coder", *words).must(0).out == "coder is loaded already\n"
    assert desk.held() == []


def test_load_in_json(desk: Desk) -> None:
    with_daemon(desk, desk.service("coder"), desk.service("other"))
    done = desk.admit("load", "coder", "--json").must(0)
    assert (done.json["verdict"], done.json["outcome"], done.json["pids"]) == ("admitted", "loaded", desk.pids("coder"))
    assert desk.admit("load", "other", "--json").must(2).json["reason"] == "no-headroom"


def test_load_makes_room(desk: Desk) -> None:
    with_daemon(desk, desk.service("big", priority=1), desk.service("coder", priority=9))
    by_hand = desk.start_by_hand("big")
    desk.admit("load", "coder", "--evict", "--yes").must(0)
    assert by_hand.wait() == -signal.SIGTERM
    assert len(desk.pids("coder")) == 1


def test_a_load_that_fails_is_said_as_ever(desk: Desk) -> None:
    late = desk.service("late", 1000, load_timeout_s=1, process_pattern="never-to-be-[s]een")
    with_daemon(desk, desk.service("bad", 1000, load_cmd="echo no weights; exit 3"), late)
    done = desk.admit("load", "bad", "--json").must(1)
    assert (done.json["outcome"], done.json["tail"]) == ("failed", ["no weights"])
    assert "admit: bad failed to load: load_cmd ended with exit 3\n  | no weights\n" in done.err
    for words in ([], ["--cleanup"]):
        done = desk.admit("load", "late", "--json", *words).must(75)
        assert done.json["outcome"] == "timed_out"
        left = "its load_cmd may go on under the daemon" if words else "goes on under the daemon; end it: admit unload"
        assert left in done.json["left"]


def test_what_this_load_left_behind_is_cleaned_up_and_what_was_there_before_is_not(desk: Desk) -> None:
    options = {"loaded_check_cmd": "false", "load_timeout_s": 1}
    with_daemon(desk, desk.service("mine", 1000, **options), desk.service("theirs", 1000, **options))
    by_hand = desk.start_by_hand("theirs")
    done = desk.admit("load", "theirs", "--cleanup", "--json").must(75)
    assert (done.json["verdict"], done.json["outcome"]) == ("already_loaded", "timed_out")
    assert done.json["left"] == "end it: admit unload theirs"
    assert by_hand.poll() is None
    done = desk.admit("load", "mine", "--cleanup", "--json").must(75)
    assert done.json["left"].startswith("cleaned up: mine is unloaded")
    assert desk.pids("mine") == []


def test_a_wait_in_vain_is_75(desk: Desk) -> None:
    with_daemon(desk, desk.service("big"), desk.service("coder"))
    desk.start_by_hand("big")
    done = desk.admit("load", "coder", "--wait", "1", "--json").must(75)
    assert done.json["reason"] == "no-headroom"


def test_what_is_loaded_already_is_awaited(desk: Desk) -> None:
    up = desk.home / "up"
    with_daemon(desk, desk.service("coder", loaded_check_cmd=f"test -e {up}"))
    desk.start_by_hand("coder")
    loading = desk.begin("load", "coder")
    assert loading.stderr is not None
    while loading.stderr.readline() != STANDS_IN:
        assert loading.poll() is None
    up.touch()
    assert desk.finish(loading).must(0).out == "coder is loaded already\n"


@pytest.mark.parametrize("words", [["unload", "coder"], ["load", "coder"], ["load", "coder", "--wait", "1m"]])
def test_without_a_daemon_it_is_78(desk: Desk, words: Sequence[str]) -> None:
    desk.declare(desk.service("coder"))
    desk.config.write_text("services: [\n")
    by_hand = desk.start_by_hand("coder")
    assert "not YAML" in desk.admit(*words).must(78).err
    assert by_hand.poll() is None


def test_a_daemon_of_another_file_does_not_stand_in(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    desk.daemon()
    by_hand = desk.start_by_hand("coder")
    other = desk.home / "other.yaml"
    other.write_text("services: [\n")
    other.chmod(0o600)
    desk.admit("unload", "coder", "--config", other).must(78)
    assert by_hand.poll() is None
