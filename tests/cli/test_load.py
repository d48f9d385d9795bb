"""`admit load`: admission, the command, the following, and every way it can end, by daemon and in-process."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Desk, free_port, wait_until

INSIDE = "deciding in this process, by the same rules"


def open_for(desk: Desk, door: str) -> None:
    if door == "daemon":
        desk.daemon()


# It fits.


def test_it_loads_and_says_so_on_one_line(desk: Desk, door: str) -> None:
    desk.declare(desk.service("coder", options="--hold-mb 40"))
    open_for(desk, door)
    done = desk.admit("load", "coder").must(0)
    (pid,) = desk.pids("coder")
    assert done.out.startswith(f"coder is loaded (pid {pid}) after ")
    assert done.out.endswith(" of 6000 MB\n")
    assert done.out.count("\n") == 1
    if door == "inside":
        assert done.err == f"admit: no daemon listens; {INSIDE}\n"
    else:
        assert done.err == ""
    assert desk.held() == []


def test_json_says_the_same(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    desk.daemon()
    body = desk.admit("load", "coder", "--json").must(0).json
    assert (body["verdict"], body["outcome"], body["service"]) == ("admitted", "loaded", "coder")
    assert body["pids"] == desk.pids("coder")
    again = desk.admit("load", "coder", "--json").must(0).json
    assert (again["verdict"], again["state"], again["mention_only"]) == ("already_loaded", "loaded", False)


def test_it_runs_in_a_session_of_its_own_where_admit_was_called_with_its_environment(desk: Desk) -> None:
    told = desk.home / "told"
    desk.declare(desk.service("coder", options=f"--tell {told}"))
    where = desk.home / "work"
    where.mkdir()
    desk.shell(f"cd {where} && A_WORD='two words' admit load coder").must(0)
    cwd, session, pid, word = told.read_text().split("\n")
    assert (cwd, session, word) == (str(where), pid, "two words")


def test_a_list_runs_without_a_shell(desk: Desk) -> None:
    command = [*desk.command("coder").split()[1:], "--marker", "$HOME;*"]
    desk.declare(desk.service("coder", load_cmd=command))
    desk.admit("load", "coder").must(0)
    (pid,) = desk.pids("coder")
    assert Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1] == [word.encode() for word in command]


def test_its_output_goes_to_a_log_that_rotates(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    log = desk.home / ".local/state/admit/logs/coder.log"
    log.parent.mkdir(parents=True, mode=0o700)
    log.write_bytes(b"x" * (10 * 1024 * 1024))
    desk.admit("load", "coder").must(0)
    wait_until(lambda: log.read_text() == "coder begins\n")
    assert log.with_name("coder.log.1").stat().st_size == 10 * 1024 * 1024
    desk.admit("unload", "coder").must(0)
    desk.admit("load", "coder").must(0)
    wait_until(lambda: log.read_text() == "coder begins\n" * 2)


def test_with_a_probe_it_is_ready_only_when_it_answers(desk: Desk) -> None:
    port, not_ready = free_port(), desk.home / "not-ready"
    not_ready.touch()
    probe = {"url": f"http://127.0.0.1:{port}/health", "timeout_s": 5}
    desk.declare(desk.service("coder", options=f"--port {port} --not-ready {not_ready}", probe=probe))
    desk.daemon()
    loading = desk.begin("load", "coder")
    wait_until(lambda: desk.pids("coder"))
    status = desk.admit("status", "--json").must(0).json
    assert status["services"][0]["state"] == "loaded"  # what is there is charged, whether it answers or not
    assert loading.poll() is None
    not_ready.unlink()
    assert desk.finish(loading).must(0).out.startswith("coder is loaded (pid ")


def test_a_service_with_only_a_check_is_loaded_when_the_check_says_so(desk: Desk) -> None:
    flag = desk.home / "flag"
    desk.declare(desk.service("lm", process_pattern=..., loaded_check_cmd=f"test -e {flag}", load_cmd=f"touch {flag}"))
    desk.daemon()
    done = desk.admit("load", "lm").must(0)
    assert done.out.startswith("lm is loaded after ")
    assert desk.admit("load", "lm").must(0).out == "lm is loaded already\n"


def test_a_load_cmd_that_daemonises(desk: Desk) -> None:
    command = desk.command("coder").removeprefix("exec ")
    desk.declare(desk.service("coder", load_cmd=f"{command} & exit 0"))
    assert desk.admit("load", "coder").must(0).out.startswith("coder is loaded (pid ")


# It is there already.


def test_loaded_already_starts_nothing(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    desk.daemon()
    by_hand = desk.start_by_hand("coder")
    assert desk.admit("load", "coder").must(0).out == "coder is loaded already\n"
    assert desk.pids("coder") == [by_hand.pid]


def test_half_loaded_is_said(desk: Desk) -> None:
    desk.declare(desk.service("coder", loaded_check_cmd="false"))
    desk.start_by_hand("coder")
    done = desk.admit("load", "coder").must(0)
    assert "coder is loaded already, but its process is there, but its check says it is not loaded" in done.err
    assert done.out == ""


def test_suspended_is_said(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    by_hand = desk.start_by_hand("coder")
    by_hand.send_signal(signal.SIGSTOP)
    wait_until(lambda: desk.admit("status", "--json").json["services"][0]["state"] == "suspended")
    done = desk.admit("load", "coder", "--json").must(0)
    assert done.json["state"] == "suspended"
    assert "it is stopped (state T): it holds its memory" in done.err


def test_a_mere_mention_is_not_passed_off_as_loaded(desk: Desk, door: str) -> None:
    desk.declare(desk.service("coder"))
    open_for(desk, door)
    desk.started.start("tail", "-f", desk.program("coder"), "/dev/null")
    wait_until(lambda: desk.admit("status", "--json").json["services"][0]["mentioned_by"])
    done = desk.admit("load", "coder").must(1)
    assert "so nothing was started; but only because a process mentions it" in done.err
    assert desk.pids("coder") == []


# It does not fit.


def test_refused_is_2_with_the_blocker_and_the_remedy_on_stderr_and_the_remedy_works(desk: Desk, door: str) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    open_for(desk, door)
    desk.start_by_hand("big")
    done = desk.admit("load", "small").must(2)
    assert done.out == ""
    assert "small is refused (no-headroom): small needs 5000 MB and 4000 MB of the 10000 MB pool are free" in done.err
    assert "in the way: big  6000 MB" in done.err
    assert desk.pids("small") == []
    (remedy,) = (line.split("make room:")[1].strip() for line in done.err.splitlines() if "make room:" in line)
    assert remedy == "admit unload big"
    desk.shell(remedy).must(0)
    desk.admit("load", "small").must(0)


def test_refused_in_json(desk: Desk) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    desk.daemon()
    desk.start_by_hand("big")
    body = desk.admit("load", "small", "--json").must(2).json
    assert (body["reason"], body["shortfall_mb"], body["victims"]) == ("no-headroom", 1000, ["big"])
    assert body["remedy"] == "admit unload big"


def test_a_named_file_is_in_the_remedy_which_works_when_pasted(desk: Desk, door: str) -> None:
    desk.declare(desk.service("unrelated"))
    open_for(desk, door)  # this daemon goes by another file
    other = desk.home / "other file.yaml"
    desk.declare(desk.service("big"), desk.service("small", 5000), path=other)
    desk.start_by_hand("big")
    done = desk.admit("load", "small", "--config", "other file.yaml").must(2)
    if door == "daemon":
        assert f"the daemon goes by {desk.config}, not by other file.yaml; {INSIDE}" in done.err
    assert done.err.count(INSIDE) == 1
    (remedy,) = (line.split("make room:")[1].strip() for line in done.err.splitlines() if "make room:" in line)
    assert remedy == f"admit --config '{other}' unload big"
    desk.shell(f"cd / && {remedy}").must(0)
    desk.admit("--config", other, "load", "small").must(0)


def test_too_large_for_the_whole_pool(desk: Desk) -> None:
    """A file that declares it is wrong; and so is nothing else."""
    desk.declare(desk.service("huge", 20_000))
    done = desk.admit("load", "huge").must(78)
    assert "huge" in done.err


def test_the_remedy_of_waiting_waits_and_gets_in(desk: Desk, door: str) -> None:
    """Refused because another load is under way: the remedy is to wait, and does."""
    desk.declare(desk.service("one", 6000), desk.service("two", 6000))
    open_for(desk, door)
    holder = desk.begin("run", "one", "--", "sleep", "1000.137")
    wait_until(desk.held)
    done = desk.admit("load", "two", "--json").must(2)
    remedy = done.json["remedy"]
    assert remedy == "admit load two --wait 5m"
    waiting = desk.popen(["/bin/sh", "-c", remedy])
    wait_until(lambda: any("waiting~two" in name for name in desk.held()))
    holder.kill()
    desk.finish(holder)
    assert desk.finish(waiting).must(0).out.startswith("two is loaded (pid ")


# The queue.


def test_wait_shows_the_position_and_gets_in_when_room_appears(desk: Desk, door: str) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    open_for(desk, door)
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
    open_for(desk, door)
    desk.start_by_hand("big")
    done = desk.admit("load", "small", "--wait", "1s", "--json").must(75)
    assert done.json["reason"] == "no-headroom"
    assert "it waited in the queue, to the end at position 1" in done.err
    assert "make room:  admit unload big" in done.err
    assert desk.held() == []


def test_a_wait_of_nothing_is_a_plain_refusal(desk: Desk) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    desk.daemon()
    desk.start_by_hand("big")
    desk.admit("load", "small", "--wait", "0").must(2)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_queue_leaves_it(desk: Desk, door: str, sig: signal.Signals) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    open_for(desk, door)
    desk.start_by_hand("big")
    waiting = desk.begin("load", "small", "--wait", "5m", "--json")
    wait_until(lambda: any("waiting~" in name for name in desk.held()))
    done = desk.interrupt(waiting, sig).must(130)
    assert "admit: interrupted; nothing is reserved for small, and nothing was started" in done.err
    assert done.json["exit_code"] == 130
    assert desk.admit("status", "--json").must(0).json["waiting"] == []


# It fails.


def test_a_load_cmd_that_fails_is_1_with_the_last_lines_of_its_log(desk: Desk, door: str) -> None:
    desk.declare(desk.service("coder", load_cmd="echo first; echo 'no such \033[31mmodel'; exit 2"))
    open_for(desk, door)
    done = desk.admit("load", "coder").must(1)
    assert "admit: coder failed to load: load_cmd ended with exit 2\n" in done.err
    assert "  | first\n  | no such ?[31mmodel\n" in done.err
    assert "  log: " in done.err
    assert desk.held() == []


def test_the_tail_is_of_this_load_only(desk: Desk) -> None:
    desk.declare(desk.service("coder", load_cmd="echo $A_WORD; exit 1"))
    desk.admit("load", "coder", env={"A_WORD": "before"}).must(1)
    body = desk.admit("load", "coder", "--json", env={"A_WORD": "now"}).must(1).json
    assert (body["outcome"], body["tail"]) == ("failed", ["now"])


def test_a_load_cmd_that_is_not_there(desk: Desk) -> None:
    desk.declare(desk.service("coder", load_cmd=["/no/such/server", "--port", "1"]))
    desk.daemon()
    done = desk.admit("load", "coder", "--json").must(1)
    assert "/no/such/server cannot be run: No such file or directory" in done.err
    assert done.json["exit_code"] == 1
    assert desk.held() == []
    desk.declare(desk.service("coder", load_cmd="no-such-server --port 1"))
    done = desk.admit("load", "coder").must(1)
    assert "load_cmd ended with exit 127" in done.err
    assert "no-such-server: not found" in done.err


def test_a_server_that_appears_and_dies(desk: Desk) -> None:
    desk.declare(desk.service("coder", options="--die-after 0.6"))
    desk.daemon()
    done = desk.admit("load", "coder").must(1)
    assert "coder failed to load: load_cmd ended with exit 3; coder was there and is gone" in done.err
    assert "  | the weights are ?[31mtorn?[0m" in done.err
    assert desk.held() == []


def test_no_load_cmd(desk: Desk) -> None:
    desk.declare(desk.service("coder", load_cmd=...))
    desk.daemon()
    done = desk.admit("load", "coder").must(1)
    assert "coder has no load_cmd; start it with: admit run coder -- CMD" in done.err
    assert desk.held() == []


# It takes too long.


def test_a_timeout_says_what_was_seen_and_what_is_left(desk: Desk) -> None:
    desk.declare(desk.service("coder", load_cmd="echo warming up; sleep 1000.138", load_timeout_s=1))
    desk.daemon()
    done = desk.admit("load", "coder", "--json").must(75)
    body = done.json
    assert "admit: coder was not loaded within 1s: waiting for it to appear" in done.err
    assert body["outcome"] == "timed_out"
    assert body["tail"] == ["warming up"]
    assert desk.held() == []
    command = body["left"].split("end it: ")[1]
    assert command.startswith("kill -TERM -")
    desk.shell(command).must(0)
    wait_until(lambda: len(desk.started.alive()) == 1)  # the daemon


def test_a_timeout_of_a_server_that_never_answers(desk: Desk) -> None:
    port, not_ready = free_port(), desk.home / "not-ready"
    not_ready.touch()
    probe = {"url": f"http://127.0.0.1:{port}/", "timeout_s": 1}
    options = f"--port {port} --not-ready {not_ready}"
    desk.declare(desk.service("coder", options=options, probe=probe, load_timeout_s=2))
    desk.daemon()
    done = desk.admit("load", "coder").must(75)
    assert "not loaded within 2s: no answer yet: 503 from http" in done.err
    assert "expected 200: weights?[31m load" in done.err
    (pid,) = desk.pids("coder")
    assert f"left running: process {pid} (its load_cmd); end it: admit unload coder" in done.err


def test_cleanup_unloads_what_came_too_late(desk: Desk) -> None:
    port = free_port()
    probe = {"url": f"http://127.0.0.1:{port}/", "timeout_s": 1}
    desk.declare(desk.service("coder", probe=probe, load_timeout_s=2))
    desk.daemon()
    done = desk.admit("load", "coder", "--cleanup", "--json").must(75)
    assert "cleaned up: coder is unloaded after" in done.json["left"]
    assert desk.pids("coder") == []


def test_cleanup_runs_the_unload_cmd_even_where_nothing_is_to_be_seen(desk: Desk) -> None:
    done_file = desk.home / "done"
    desk.declare(desk.service("coder", load_cmd="sleep 1000.139", unload_cmd=f"touch {done_file}", load_timeout_s=1))
    done = desk.admit("load", "coder", "--cleanup").must(75)
    assert done_file.exists()
    assert "its load_cmd (process " in done.err
    wait_until(lambda: not desk.started.alive())


# Ctrl-C.


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_it_loads_says_what_is_left_running(desk: Desk, sig: signal.Signals) -> None:
    begun = desk.home / "begun"
    desk.declare(desk.service("coder", load_cmd=f"touch {begun}; sleep 1000.140"))
    desk.daemon()
    loading = desk.begin("load", "coder", "--json")
    wait_until(begun.exists)
    done = desk.interrupt(loading, sig).must(130)
    assert "admit: interrupted; nothing is reserved for coder any more; left running: process " in done.err
    assert done.json["exit_code"] == 130
    assert desk.held() == []
    assert desk.admit("status", "--json").json["charged_mb"] == 0
    desk.shell(done.err.split("end it: ")[1]).must(0)


def test_ctrl_c_once_it_is_there_names_the_process_and_how_to_end_it(desk: Desk) -> None:
    port = free_port()
    desk.declare(desk.service("coder", probe={"url": f"http://127.0.0.1:{port}/", "timeout_s": 1}))
    loading = desk.begin("load", "coder")
    wait_until(lambda: desk.pids("coder"))
    (pid,) = desk.pids("coder")
    done = desk.interrupt(loading).must(130)
    assert f"left running: process {pid} (its load_cmd); end it: admit unload coder" in done.err
    desk.shell(done.err.split("end it: ")[1]).must(0)
    assert desk.pids("coder") == []


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_before_the_verdict(desk: Desk, sig: signal.Signals) -> None:
    """The check hangs, so the look takes two seconds: nobody waits for its end."""
    begun = desk.home / "begun"
    desk.declare(desk.service("coder", loaded_check_cmd=f"touch {begun}; sleep 1000.141"))
    loading = desk.begin("load", "coder")
    wait_until(begun.exists)
    done = desk.interrupt(loading, sig).must(130)
    assert "nothing is reserved for coder, and nothing was started" in done.err
    assert desk.pids("coder") == []


def test_a_second_load_of_the_same_is_refused_while_the_first_is_under_way(desk: Desk, door: str) -> None:
    begun = desk.home / "begun"
    desk.declare(desk.service("coder", 2000, load_cmd=f"touch {begun}; sleep 1000.142"))
    open_for(desk, door)
    first = desk.begin("load", "coder")
    wait_until(begun.exists)
    body = desk.admit("load", "coder", "--json").must(2).json
    assert body["reason"] == "loading"
    assert f"being loaded by process {first.pid} already" in body["detail"]
    desk.interrupt(first).must(130)


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


def test_evict_unloads_one_victim_at_a_time_and_no_more_than_needed(desk: Desk, door: str) -> None:
    names = ["a", "b", "c"]
    desk.declare(*(desk.service(name, 3000, priority=1) for name in names), desk.service("big", 7000, priority=9))
    open_for(desk, door)
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


# The file.


def test_no_such_service_is_66_with_the_nearest_name(desk: Desk, door: str) -> None:
    desk.declare(desk.service("coder"))
    open_for(desk, door)
    done = desk.admit("load", "codre", "--json").must(66)
    assert "Did you mean coder?" in done.err
    assert done.json["exit_code"] == 66


@pytest.mark.parametrize("name", ["", "a b", "../../x", "x" * 64, "ünïcode", '"', "a\nb"])
def test_what_cannot_be_a_name_is_66(desk: Desk, name: str) -> None:
    desk.declare(desk.service("coder"))
    desk.daemon()
    desk.admit("load", name).must(66)
    desk.admit("plan", name).must(66)


def test_no_file_is_66_and_a_wrong_one_78(desk: Desk) -> None:
    done = desk.admit("load", "coder", "--json").must(66)
    assert done.json["title"] == "No such file"
    desk.config.write_text("hosts: 3\n")
    desk.config.chmod(0o600)
    done = desk.admit("load", "coder", "--json").must(78)
    assert done.json["problems"][0]["line"] == 1
    assert f"{desk.config}:1" in done.err


def test_the_daemons_file_is_the_one_that_counts(desk: Desk) -> None:
    """A daemon that launchd started goes by a file of its own; what it admitted is loaded by the same file."""
    other = desk.home / "other.yaml"
    desk.declare(desk.service("coder"), path=other)
    env = {"ADMIT_CONFIG": ""}
    desk.daemon("--config", other, env=env)
    desk.admit("load", "coder", env=env).must(0)
    desk.admit("explain", "coder", env=env).must(0)
    desk.admit("unload", "coder", env=env).must(0)
    assert desk.pids("coder") == []


# What may not happen.


def test_a_reader_that_goes_away_does_not_end_a_load(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    done = desk.shell("{ admit load coder; echo $? > code; } 2>&1 | true").must(0)
    assert done.out == ""
    wait_until((desk.home / "code").exists)
    wait_until(lambda: (desk.home / "code").read_text() == "0\n")
    assert len(desk.pids("coder")) == 1


def test_closed_standard_streams(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    desk.shell("admit load coder <&- >&- 2>&-").must(0)
    assert len(desk.pids("coder")) == 1


def test_the_daemon_dies_while_one_waits(desk: Desk) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    daemon = desk.daemon()
    by_hand = desk.start_by_hand("big")
    waiting = desk.begin("load", "small", "--wait", "50s")
    wait_until(lambda: any("waiting~small" in name for name in desk.held()))
    daemon.kill()
    daemon.wait()
    by_hand.kill()
    by_hand.wait()
    done = desk.finish(waiting).must(0)
    assert done.err.count(INSIDE) == 1


def test_what_a_killed_admit_started_keeps_its_reservation(desk: Desk, door: str) -> None:
    """kill -9 of `admit load` while the server is not visible yet: the memory will be used, so it stays charged."""
    begun = desk.home / "begun"
    desk.declare(desk.service("coder", load_cmd=f"touch {begun}; sleep 1000.143"), desk.service("small", 5000))
    open_for(desk, door)
    loading = desk.begin("load", "coder")
    wait_until(begun.exists)
    loading.kill()
    desk.finish(loading)
    assert desk.admit("load", "small", "--json").must(2).json["blockers"][0]["service"] == "coder"


def test_a_daemon_that_does_not_answer_is_75(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    code = (
        "import admit_cli.door as d, admit_cli.load as l; d.ANSWER_S = l.PATIENCE_S = 1.0; "
        "from admit_cli.main import main; main(['load', 'coder', '--json'])"
    )
    daemon = desk.daemon()
    os.kill(daemon.pid, signal.SIGSTOP)
    done = desk.finish(desk.popen([sys.executable, "-c", code])).must(75)
    assert "the daemon listens, but gave no answer in 1 s" in done.err
    assert json.loads(done.out)["exit_code"] == 75
