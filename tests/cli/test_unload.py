"""`admit unload`: asked politely, by identity, until the memory is back; and what is said when it does not go."""

from __future__ import annotations

import signal
import time

import psutil
import pytest

from tests.cli.conftest import Desk, wait_until


def test_sigterm_and_gone(desk: Desk, door: str) -> None:
    desk.declare(desk.service("coder"))
    if door == "daemon":
        desk.daemon()
    by_hand = desk.start_by_hand("coder")
    done = desk.admit("unload", "coder").must(0)
    assert by_hand.wait() == -signal.SIGTERM
    assert done.err == f"admit: SIGTERM to {by_hand.pid} (coder)\n"
    assert done.out.startswith("coder is unloaded after ")


def test_json(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    desk.start_by_hand("coder", "--hold-mb", "100")
    done = desk.admit("unload", "coder", "--json").must(0)
    assert (done.json["outcome"], done.json["service"]) == ("unloaded", "coder")
    assert done.err == ""
    assert desk.admit("unload", "coder", "--json").must(0).json["outcome"] == "not_loaded"


def test_what_is_not_loaded_is_done(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    assert desk.admit("unload", "coder").must(0).out == "coder is not loaded\n"


def test_its_own_command_string_or_list(desk: Desk) -> None:
    for name, command in (("lm", "rm $HOME/flag"), ("lm", ["/bin/rm", str(desk.home / "flag")])):
        flag = desk.home / "flag"
        flag.touch()
        desk.declare(desk.service(name, process_pattern=..., loaded_check_cmd=f"test -e {flag}", unload_cmd=command))
        done = desk.admit("unload", name).must(0)
        assert done.err == "admit: running the unload_cmd of lm\n"
        assert not flag.exists()


def test_a_command_that_fails_is_1_with_what_it_said(desk: Desk) -> None:
    desk.declare(desk.service("coder", unload_cmd="echo 'no connection' >&2; exit 2"))
    by_hand = desk.start_by_hand("coder")
    done = desk.admit("unload", "coder", "--json").must(1)
    assert "coder could not be unloaded: its unload_cmd ended with exit 2: no connection" in done.err
    assert done.json["outcome"] == "failed"
    assert by_hand.poll() is None


def test_with_kill_a_command_that_fails_is_not_the_last_word(desk: Desk) -> None:
    desk.declare(desk.service("coder", unload_cmd="exit 3"))
    by_hand = desk.start_by_hand("coder")
    desk.admit("unload", "coder", "--kill").must(0)
    assert by_hand.wait() == -signal.SIGKILL


def test_a_command_that_hangs_is_75_and_ended_with_its_children(desk: Desk) -> None:
    desk.declare(desk.service("coder", unload_cmd="sleep 1000.146 & wait", unload_timeout_s=1))
    desk.start_by_hand("coder")
    done = desk.admit("unload", "coder").must(75)
    assert "the unload_cmd of coder did not end in 1 s" in done.err
    assert "end it for certain: admit unload coder --kill" in done.err
    wait_until(lambda: len(desk.started.alive()) == 1)


def test_what_ignores_sigterm_is_75_and_the_advice_works(desk: Desk) -> None:
    other = desk.declare(desk.service("coder", unload_timeout_s=1), path=desk.home / "other.yaml")
    desk.declare()
    by_hand = desk.start_by_hand("coder", "--stubborn")
    began = time.monotonic()
    done = desk.admit("unload", "coder", "--config", "other.yaml").must(75)
    assert time.monotonic() - began >= 1
    assert by_hand.poll() is None
    advice = done.err.split("end it for certain: ")[1].strip()
    assert advice == f"admit --config {other} unload coder --kill"
    killed = desk.shell(f"cd / && {advice}").must(0)
    assert "coder is still there; SIGKILL" in killed.err
    assert by_hand.wait() == -signal.SIGKILL


def test_a_stopped_process_is_continued_to_hear_it(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    by_hand = desk.start_by_hand("coder")
    by_hand.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(by_hand.pid).status() == psutil.STATUS_STOPPED)
    desk.admit("unload", "coder").must(0)
    assert by_hand.wait() == -signal.SIGTERM


def test_all_processes_of_a_service(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    both = [desk.start_by_hand("coder"), desk.start_by_hand("coder")]
    desk.admit("unload", "coder").must(0)
    assert [each.wait() for each in both] == [-signal.SIGTERM] * 2


def test_several_names_one_after_the_other(desk: Desk) -> None:
    desk.declare(desk.service("a", 2000), desk.service("b", 2000, unload_cmd="exit 1"), desk.service("c", 2000))
    a, b, c = (desk.start_by_hand(name) for name in "abc")
    done = desk.admit("unload", "a", "b", "c", "a", "--json").must(1)
    assert [each["outcome"] for each in done.json["services"]] == ["unloaded", "failed", "unloaded"]
    assert (a.wait(), b.poll(), c.wait()) == (-signal.SIGTERM, None, -signal.SIGTERM)


def test_an_unknown_name_is_66_and_nothing_is_touched(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    by_hand = desk.start_by_hand("coder")
    done = desk.admit("unload", "coder", "codr").must(66)
    assert "declares no service 'codr'. Did you mean coder?" in done.err
    assert by_hand.poll() is None


def test_a_mention_is_never_signalled(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    tail = desk.started.start("tail", "-f", desk.program("coder"), "/dev/null")
    wait_until(lambda: desk.admit("status", "--json").json["services"][0]["mentioned_by"])
    done = desk.admit("unload", "coder").must(1)
    assert f"a mention is never signalled: process {tail.pid} (tail)" in done.err
    assert tail.poll() is None
    by_hand = desk.start_by_hand("coder")
    desk.admit("unload", "coder").must(0)
    assert (by_hand.wait(), tail.poll()) == (-signal.SIGTERM, None)


def test_a_mention_does_not_keep_what_its_own_command_has_ended(desk: Desk) -> None:
    desk.declare(desk.service("coder", unload_cmd=f"kill $(cat {desk.home / 'pid'})"))
    tail = desk.started.start("tail", "-f", desk.program("coder"), "/dev/null")
    by_hand = desk.start_by_hand("coder")
    (desk.home / "pid").write_text(str(by_hand.pid))
    wait_until(lambda: desk.admit("status", "--json").json["services"][0]["mentioned_by"])
    assert desk.admit("unload", "coder").must(0).out.startswith("coder is unloaded after ")
    assert (by_hand.wait(), tail.poll()) == (-signal.SIGTERM, None)
    assert '"unload_failed"' not in desk.admit("events", "--json").must(0).out


def test_what_something_starts_again_is_said(desk: Desk) -> None:
    """Nobody is left who could be named: what started it was itself."""
    desk.declare(desk.service("coder"))
    desk.start_by_hand("coder", "--phoenix")
    done = desk.admit("unload", "coder").must(75)
    assert "coder went, and something that has ended since started it again" in done.err
    assert "; see what it is: admit explain coder\n" in done.err
    assert "--kill" not in done.err


@pytest.mark.parametrize("options", [[], ["--kill"]])
def test_its_supervisor_is_named_and_what_it_started_gets_no_signal(desk: Desk, options: list[str]) -> None:
    """A keeper without a pause: the new one is there before anyone looks again."""
    ended = desk.home / "ended"
    script = desk.home / "keeper"
    script.write_text(f"while true; do {desk.command('coder').removeprefix('exec ')}; echo $? >> {ended}; done\n")
    desk.declare(desk.service("coder"))
    keeper = desk.started.start("bash", script)
    wait_until(lambda: "begins" in desk.started.log(keeper))
    (first,) = desk.pids("coder")
    done = desk.admit("unload", "coder", *options).must(75)
    assert f"coder went, and its parent, bash (process {keeper.pid}), started it again (pid " in done.err
    assert ended.read_text().split() == ["143"]
    (second,) = desk.pids("coder")
    assert second != first
    told = desk.admit("events", "--json").must(0).out
    assert '"respawned"' in told
    assert '"unload_failed"' not in told
    advice = done.err.split("this stops it for good: ")[1].strip()
    assert advice == f"kill {keeper.pid}"
    desk.shell(advice).must(0)
    keeper.wait()
    desk.admit("unload", "coder").must(0)


def test_a_check_that_goes_on_saying_yes(desk: Desk) -> None:
    desk.declare(
        desk.service("lm", process_pattern=..., loaded_check_cmd="true", unload_cmd="true", unload_timeout_s=1)
    )
    done = desk.admit("unload", "lm", "--kill").must(75)
    assert "its loaded_check_cmd still says that it is loaded" in done.err
    assert "--kill" not in done.err


def test_a_reader_that_goes_away_does_not_end_it(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    by_hand = desk.start_by_hand("coder")
    desk.shell("admit unload coder 2>&1 | true").must(0)
    assert by_hand.wait() == -signal.SIGTERM


def test_it_waits_until_the_memory_is_back(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    desk.start_by_hand("coder", "--hold-mb", "300")
    body = desk.admit("unload", "coder", "--json").must(0).json
    assert body["back_mb"] >= 225 or body["took_s"] >= 5, "three quarters, or all the time it has"
    assert body["back_mb"] >= 150 or "are back so far" in body["note"]


@pytest.mark.parametrize("line", [["unload", "lm"], ["load", "small", "--evict", "--yes"]])
def test_ctrl_c_names_the_unload_cmd_that_goes_on(desk: Desk, line: list[str]) -> None:
    begun = desk.home / "begun"
    check = {"process_pattern": ..., "loaded_check_cmd": "true"}
    command = f"sleep 0.5; touch {begun}; sleep 1000.145"  # once `admit` knows which process that is
    desk.declare(desk.service("lm", unload_cmd=command, unload_timeout_s=60, **check), desk.service("small", 5000))
    unloading = desk.begin(*line)
    wait_until(begun.exists)
    done = desk.interrupt(unloading).must(130)
    assert "; the unload_cmd of lm (process " in done.err
    assert [each.cmdline()[0] for each in desk.started.alive()] == ["/bin/sh", "sleep"]
    desk.shell(done.err.split("goes on; end it: ")[1]).must(0)
    wait_until(lambda: not desk.started.alive())


def test_ctrl_c_says_who_was_sent_sigterm(desk: Desk) -> None:
    desk.declare(desk.service("coder", unload_timeout_s=60))
    stays = desk.start_by_hand("coder", "--stubborn")
    unloading = desk.begin("unload", "coder")
    assert unloading.stderr is not None
    assert "SIGTERM to" in unloading.stderr.readline()
    done = desk.interrupt(unloading).must(130)
    said = f"interrupted; coder (process {stays.pid}) was sent SIGTERM, and may be there still"
    assert done.err == f"admit: {said}\n"
