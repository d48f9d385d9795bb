"""`admit load` where something goes wrong: what it started, what it waits for, whoever asked, or `admit` itself."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from tests.cli.conftest import INSIDE, Desk, free_port, wait_until

# It fails.


def test_a_load_cmd_that_fails_is_1_with_the_last_lines_of_its_log(desk: Desk, door: str) -> None:
    desk.declare(desk.service("coder", load_cmd="echo first; echo 'no such \033[31mmodel'; exit 2"))
    desk.open_for(door)
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


def test_cleanup_lets_a_load_cmd_save_its_work(desk: Desk) -> None:
    saved = desk.home / "saved"
    command = f"trap 'sleep 0.3; touch {saved}; exit 0' TERM; while :; do sleep 0.1; done"
    desk.declare(desk.service("coder", load_cmd=command, load_timeout_s=1))
    done = desk.admit("load", "coder", "--cleanup").must(75)
    assert saved.exists()
    assert "  cleaned up: coder is not loaded; its load_cmd (process " in done.err
    wait_until(lambda: not desk.started.alive())


def test_cleanup_kills_nobody_and_names_who_is_left(desk: Desk) -> None:
    probe = {"url": f"http://127.0.0.1:{free_port()}/", "timeout_s": 1}
    times = {"load_timeout_s": 1, "unload_timeout_s": 1}
    desk.declare(
        desk.service("coder", 2000, options="--stubborn", probe=probe, **times),
        desk.service("lm", 2000, load_cmd="trap '' TERM; sleep 1000.144 & wait", **times),
    )
    done = desk.admit("load", "coder", "--cleanup").must(75)
    (pid,) = desk.pids("coder")
    assert "not all is cleaned up: coder is still there " in done.err
    assert done.err.endswith("end it for certain: admit unload coder --kill\n")
    done = desk.admit("load", "lm", "--cleanup").must(75)
    assert "not all is cleaned up: lm is not loaded; its load_cmd is still there 1s after SIGTERM: process " in done.err
    assert len(desk.started.alive()) == 3
    desk.shell(done.err.split("end it for certain: ")[1]).must(0)
    wait_until(lambda: [each.pid for each in desk.started.alive()] == [pid])


def test_cleanup_ends_by_sigterm_what_an_unload_cmd_could_not(desk: Desk) -> None:
    probe = {"url": f"http://127.0.0.1:{free_port()}/", "timeout_s": 1}
    desk.declare(desk.service("coder", probe=probe, load_timeout_s=1, unload_cmd="exit 3"))
    done = desk.admit("load", "coder", "--cleanup").must(75)
    assert "  cleaned up: its unload_cmd ended with exit 3; but its load_cmd (process " in done.err
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


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_load_that_its_command_handed_over_keeps_its_room_when_admit_ends(
    desk: Desk, door: str, sig: signal.Signals
) -> None:
    """As with launchctl, docker and lms: the command ends at once, and the server comes later, of another parent."""
    asked = desk.home / "asked"
    desk.declare(
        desk.service("coder", load_cmd=f"touch {asked}", unload_cmd=f"rm {asked}", load_timeout_s=90),
        desk.service("other"),
    )
    desk.open_for(door)
    loading = desk.begin("load", "coder")
    wait_until(lambda: any(name.startswith("handed~") for name in desk.held()))
    done = desk.interrupt(loading, sig)
    if sig is not signal.SIGKILL:
        done.must(130)
        assert "interrupted; the load_cmd of coder has ended well, and it may come up yet: its 6000 MB stay" in done.err
        assert "call it off: admit unload coder" in done.err
    assert desk.admit("load", "other", "--json").must(2).json["reason"] == "no-headroom"
    again = desk.admit("load", "coder", "--json").must(2).json
    assert "coder is being loaded by another program (its load_cmd has ended well) already." in again["detail"]

    if sig is signal.SIGINT:
        desk.start_by_hand("coder")
        assert desk.admit("load", "coder", "--json").must(0).json["verdict"] == "already_loaded"
        assert desk.held() == []
        return
    called_off = desk.admit("unload", "coder").must(0)
    assert "coder is not loaded: it was not visible yet; what was reserved for it is given back" in called_off.out
    assert (asked.exists(), desk.held()) == (False, [])
    desk.admit("load", "other").must(0)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_before_the_verdict(desk: Desk, sig: signal.Signals) -> None:
    """The check hangs, so the look takes two seconds: nobody waits for its end, and nothing of it stays."""
    begun = desk.home / "begun"
    desk.declare(desk.service("coder", loaded_check_cmd=f"sleep 1000.141 & touch {begun}; wait"))
    loading = desk.begin("load", "coder")
    wait_until(begun.exists)
    done = desk.interrupt(loading, sig).must(130)
    assert "nothing is reserved for coder, and nothing was started" in done.err
    wait_until(lambda: not desk.started.alive())


def test_a_second_load_of_the_same_is_refused_while_the_first_is_under_way(desk: Desk, door: str) -> None:
    begun = desk.home / "begun"
    desk.declare(desk.service("coder", 2000, load_cmd=f"touch {begun}; sleep 1000.142"))
    desk.open_for(door)
    first = desk.begin("load", "coder")
    wait_until(begun.exists)
    body = desk.admit("load", "coder", "--json").must(2).json
    assert body["reason"] == "loading"
    assert f"being loaded by process {first.pid} already" in body["detail"]
    desk.interrupt(first).must(130)


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
    desk.open_for(door)
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
