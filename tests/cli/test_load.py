"""`admit load` that is admitted, or refused, or needless: every answer it may give."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import INSIDE, Desk, free_port, wait_until

FILLS_ITS_LOG = "head -c 10485760 /dev/zero; while :; do echo goes on; sleep 0.1; done;"

# It fits.


def test_it_loads_and_says_so_on_one_line(desk: Desk, door: str) -> None:
    desk.declare(desk.service("coder", options="--hold-mb 40"))
    desk.open_for(door)
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


def test_the_log_of_a_loaded_service_rotates_and_is_written_on(desk: Desk) -> None:
    desk.declare(
        desk.service("coder", load_cmd=f"{{ {FILLS_ITS_LOG} }} & {desk.command('coder')}"),
        head="sentinel: {stopped_interval_s: 1}\n",
    )
    desk.daemon()
    desk.admit("load", "coder").must(0)
    log = desk.home / ".local/state/admit/logs/coder.log"
    wait_until(log.with_name("coder.log.1").exists)
    wait_until(lambda: log.read_bytes().startswith(b"goes on\n"))
    assert log.with_name("coder.log.1").stat().st_size == 10 * 1024 * 1024
    assert b"\0" not in log.read_bytes()  # no hole where the old end was
    assert sorted(each.name for each in log.parent.iterdir()) == ["coder.log", "coder.log.1"]


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


def answers_late(desk: Desk, **keys: Any) -> tuple[Path, str]:
    """Declare coder, with a probe; the file that keeps it from answering, and the options to start it by hand."""
    port, not_ready = free_port(), desk.home / "not-ready"
    not_ready.touch()
    options = f"--port {port} --not-ready {not_ready}"
    desk.declare(desk.service("coder", options=options, probe={"url": f"http://127.0.0.1:{port}/"}, **keys))
    return not_ready, options


def begin_a_second_load(desk: Desk) -> subprocess.Popen[str]:
    second = desk.begin("load", "coder", "--json")
    assert second.stderr is not None
    while "coder is loaded already; waiting for its answer" not in (line := second.stderr.readline()):
        assert line
    return second


def test_a_second_load_is_done_only_when_it_answers(desk: Desk, door: str) -> None:
    not_ready, _ = answers_late(desk, load_timeout_s=60)
    desk.open_for(door)
    first = desk.begin("load", "coder")
    wait_until(lambda: desk.pids("coder"))
    second = begin_a_second_load(desk)
    assert (first.poll(), second.poll()) == (None, None)
    not_ready.unlink()
    desk.finish(first).must(0)
    assert desk.finish(second).must(0).json["verdict"] == "already_loaded"


def test_what_is_loaded_and_does_not_answer_in_time_is_75(desk: Desk) -> None:
    _, options = answers_late(desk, load_timeout_s=1)
    desk.start_by_hand("coder", *options.split())
    done = desk.admit("load", "coder", "--json").must(75)
    assert "coder is loaded already, but did not answer within 1s: 503 from http" in done.err
    assert done.err.endswith("; end it: admit unload coder\n")
    assert (done.json["verdict"], done.json["outcome"]) == ("already_loaded", "timed_out")


def test_what_goes_before_it_has_answered_is_1(desk: Desk) -> None:
    _, options = answers_late(desk, load_timeout_s=60)
    by_hand = desk.start_by_hand("coder", *options.split())
    second = begin_a_second_load(desk)
    by_hand.kill()
    by_hand.wait()
    assert "coder was loaded already, but it was there and is gone" in desk.finish(second).must(1).err


def test_ctrl_c_while_another_loads_it(desk: Desk) -> None:
    _, options = answers_late(desk, load_timeout_s=60)
    desk.start_by_hand("coder", *options.split())
    done = desk.interrupt(begin_a_second_load(desk)).must(130)
    assert done.err.endswith("interrupted; coder was loaded already, goes on, and has not answered yet\n")
    assert len(desk.pids("coder")) == 1


def test_what_is_half_loaded_is_waited_for(desk: Desk, door: str) -> None:
    flag = desk.home / "flag"
    desk.declare(desk.service("coder", loaded_check_cmd=f"test -e {flag}", load_timeout_s=60))
    desk.open_for(door)
    by_hand = desk.start_by_hand("coder")
    second = desk.begin("load", "coder", "--json")
    assert second.stderr is not None
    while "coder is there already; waiting until it is loaded, 1m at most" not in (line := second.stderr.readline()):
        assert line
    assert second.poll() is None
    flag.touch()
    done = desk.finish(second).must(0)
    assert (done.json["verdict"], done.json["state"], done.err) == ("already_loaded", "loaded", "")
    assert desk.pids("coder") == [by_hand.pid]


def test_what_stays_half_loaded_is_75(desk: Desk) -> None:
    desk.declare(desk.service("coder", loaded_check_cmd="false", load_timeout_s=1))
    desk.start_by_hand("coder")
    done = desk.admit("load", "coder", "--json").must(75)
    why = (
        "coder is there already, but was not loaded within 1s: its process is there, its check does not say loaded yet"
    )
    assert done.err.endswith(f"admit: {why}; end it: admit unload coder\n")
    assert (done.json["state"], done.json["outcome"]) == ("half_loaded", "timed_out")


def test_ctrl_c_while_it_is_half_loaded(desk: Desk) -> None:
    desk.declare(desk.service("coder", loaded_check_cmd="false"))
    desk.start_by_hand("coder")
    waiting = desk.begin("load", "coder")
    assert waiting.stderr is not None
    while "waiting until it is loaded" not in (line := waiting.stderr.readline()):
        assert line
    assert (
        desk.interrupt(waiting)
        .must(130)
        .err.endswith("interrupted; coder was there already, goes on, and is not loaded yet\n")
    )
    assert len(desk.pids("coder")) == 1


@pytest.mark.parametrize("words", [["load", "coder"], ["run", "coder", "--", "false"]], ids=["load", "run"])
def test_what_is_stopped_is_1_with_the_command_that_wakes_it(desk: Desk, door: str, words: list[str]) -> None:
    desk.declare(desk.service("coder"))
    desk.open_for(door)
    by_hand = desk.start_by_hand("coder")
    by_hand.send_signal(signal.SIGSTOP)
    wait_until(lambda: desk.admit("status", "--json").json["services"][0]["state"] == "suspended")
    done = desk.admit(*words).must(1)
    assert done.out == "" and "coder is stopped (state T), so nothing was started" in done.err
    (wakes,) = (line.split("wake it:")[1].strip() for line in done.err.splitlines() if "wake it:" in line)
    assert wakes == f"kill -CONT {by_hand.pid}"
    desk.shell(wakes).must(0)
    wait_until(lambda: desk.admit("load", "coder").code == 0)


def test_a_mere_mention_is_not_passed_off_as_loaded(desk: Desk, door: str) -> None:
    desk.declare(desk.service("coder"))
    desk.open_for(door)
    desk.started.start("tail", "-f", desk.program("coder"), "/dev/null")
    wait_until(lambda: desk.admit("status", "--json").json["services"][0]["mentioned_by"])
    done = desk.admit("load", "coder").must(1)
    assert "so nothing was started; but only because a process mentions it" in done.err
    assert desk.pids("coder") == []


# It does not fit.


def test_refused_is_2_with_the_blocker_and_the_remedy_on_stderr_and_the_remedy_works(desk: Desk, door: str) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    desk.open_for(door)
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
    desk.open_for(door)  # this daemon goes by another file
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
    desk.open_for(door)
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


# The file.


def test_no_such_service_is_66_with_the_nearest_name(desk: Desk, door: str) -> None:
    desk.declare(desk.service("coder"))
    desk.open_for(door)
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
