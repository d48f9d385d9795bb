"""`admit explain`: which processes match and why, which were passed over, what the check said."""

from __future__ import annotations

import signal

from tests.cli.conftest import Desk, wait_until


def test_what_is_it_and_what_merely_mentions_it(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    by_hand = desk.start_by_hand("coder")
    tail = desk.started.start("tail", "-f", desk.program("coder"), "/dev/null")
    wait_until(lambda: len(desk.admit("explain", "coder", "--json").json["matches"]) == 2)
    said = desk.admit("explain", "coder").must(0).out
    assert f"  {by_hand.pid}  {desk.program('coder').name}: is it\n" in said
    assert f"  {tail.pid}  tail: mentions it in an argument: charged, never signalled\n" in said
    assert f"      tail -f {desk.program('coder')} /dev/null" in said
    by_pid = {each["pid"]: each for each in desk.admit("explain", "coder", "--json").must(0).json["matches"]}
    assert (by_pid[by_hand.pid]["mention"], by_pid[tail.pid]["mention"]) == (False, True)


def test_what_would_make_the_service_of_a_mention_is_a_command_that_does(desk: Desk) -> None:
    config = desk.declare(desk.service("coder"), path=desk.home / "o ther.yaml")
    tail = desk.started.start("tail", "-f", desk.program("coder"), "/dev/null")
    named = ["--config", str(config)]
    wait_until(lambda: desk.admit(*named, "explain", "coder", "--json").json["matches"])
    said = desk.admit(*named, "explain", "coder").must(0).out.splitlines()
    assert said[-1] == (
        f"If tail really is the service, declare it:   admit --config '{config}' service edit coder program=tail"
    )
    desk.shell(said[-1].partition(":   ")[2]).must(0)
    (found,) = desk.admit(*named, "explain", "coder", "--json").must(0).json["matches"]
    assert (found["pid"], found["mention"]) == (tail.pid, False)


def test_a_program_narrows_it_and_who_is_left_out_is_named(desk: Desk) -> None:
    desk.declare(desk.service("coder", program=desk.program("coder").name))
    tail = desk.started.start("tail", "-f", desk.program("coder"), "/dev/null")
    wait_until(lambda: desk.admit("explain", "coder", "--json").json["passed_over"])
    found = desk.admit("explain", "coder", "--json").must(0).json
    assert [each["pid"] for each in found["passed_over"]] == [tail.pid]
    assert found["state"] == "stopped"
    assert f"{tail.pid}  tail: matches, not counted:" in desk.admit("explain", "coder").must(0).out


def test_what_the_check_said(desk: Desk) -> None:
    command = "echo 'no \033[31mserver'; exit 1"
    desk.declare(desk.service("lm", process_pattern=..., loaded_check_cmd=command))
    assert "loaded_check_cmd: not loaded; exit 1: no ?[31mserver" in desk.admit("explain", "lm").must(0).out
    found = desk.admit("explain", "lm", "--json").must(0).json
    assert found["check"]["loaded"] is False
    desk.declare(desk.service("lm", process_pattern=..., loaded_check_cmd="no-such-command"))
    assert "loaded_check_cmd: could not be run; exit 127" in desk.admit("explain", "lm").must(0).out


def test_a_stopped_one_is_marked(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    by_hand = desk.start_by_hand("coder")
    by_hand.send_signal(signal.SIGSTOP)
    says = f"is it, stopped (state T); to continue it: kill -CONT {by_hand.pid}\n"
    wait_until(lambda: says in desk.admit("explain", "coder").must(0).out)


def test_a_hostile_command_line_cannot_paint_the_terminal(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    desk.start_by_hand("coder", "--marker", "\x1b[2J" + "x" * 5000)
    done = desk.admit("explain", "coder").must(0)
    assert "\x1b" not in done.out
    assert max(map(len, done.out.splitlines())) < 250


def test_an_unknown_one_is_66(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    done = desk.admit("explain", "coda", "--json").must(66)
    assert done.json["title"] == "No such service"
    assert "Did you mean coder?" in done.err
