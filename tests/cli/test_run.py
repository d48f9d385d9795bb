"""`admit run NAME -- CMD`: admission, then this process is CMD, with all that it was given."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.cli.conftest import BIN, Desk, wait_until

SHOW = (
    "import os, signal, sys; print(os.getpid(), os.getcwd(), os.environ['A_WORD'], sys.stdin.read(), "
    "signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, sys.argv[1:])"
)


def test_it_becomes_the_command_with_the_same_pid_environment_folder_and_files(desk: Desk, door: str) -> None:
    desk.declare(desk.service("job"))
    desk.open_for(door)
    given = desk.home / "given"
    given.write_text("typed")
    with given.open() as stdin:
        line = [sys.executable, "-IS", "-c", SHOW, "--json", "--", "-h", ""]
        process = desk.begin("run", "job", "--", *line, stdin=stdin, env={"A_WORD": "two words"})
    done = desk.finish(process).must(0)
    assert done.out == f"{process.pid} {desk.home} two words typed True ['--json', '--', '-h', '']\n"


@pytest.mark.parametrize("more", [{}, {"LC_CTYPE": "C.UTF-8"}])
def test_the_environment_is_the_callers_to_the_last_variable(desk: Desk, more: dict[str, str]) -> None:
    """Python would add LC_CTYPE where no locale is set, as under cron."""
    desk.declare(desk.service("job"))
    desk.daemon()
    bare = {k: v for k, v in desk.env.items() if k != "LANG" and not k.startswith("LC_")} | more
    words = [str(BIN / "admit"), "run", "job", "--", "/usr/bin/env", "-0"]
    run = subprocess.run(words, env=bare, capture_output=True, text=True, check=True)
    assert dict(line.split("=", 1) for line in run.stdout.split("\0") if line) == bare


def test_its_exit_code_is_the_commands(desk: Desk) -> None:
    desk.declare(desk.service("job"))
    desk.daemon()
    desk.admit("run", "job", "--", "sh", "-c", "exit 7").must(7)


def test_refused_is_2_and_the_command_never_starts(desk: Desk, door: str) -> None:
    desk.declare(desk.service("big"), desk.service("job", 5000))
    desk.open_for(door)
    desk.start_by_hand("big")
    begun = desk.home / "begun"
    done = desk.admit("run", "job", "--", "touch", begun).must(2)
    assert "make room:  admit unload big" in done.err
    assert not begun.exists()
    assert desk.admit("run", "job", "--json", "--", "touch", begun).must(2).json["victims"] == ["big"]


def test_the_remedy_of_waiting_is_to_wait_with_run_and_works(desk: Desk) -> None:
    """Whoever uses `admit run` need not have declared a load_cmd."""
    desk.declare(desk.service("one", 6000, load_cmd=...), desk.service("two", 6000, load_cmd=...))
    desk.daemon()
    holder = desk.begin("run", "one", "--", "sleep", "1000.144")
    wait_until(desk.held)
    done = desk.admit("run", "two", "--", "echo", "two words").must(2)
    (remedy,) = (line.split("try:")[1].strip() for line in done.err.splitlines() if "try:" in line)
    assert remedy == "admit run two --wait 5m -- echo 'two words'"
    waiting = desk.popen(["/bin/sh", "-c", remedy])
    wait_until(lambda: any("waiting~two" in name for name in desk.held()))
    holder.kill()
    desk.finish(holder)
    assert desk.finish(waiting).must(0).out == "two words\n"


def test_a_command_that_is_not_there_is_1_and_gives_back(desk: Desk, door: str) -> None:
    desk.declare(desk.service("job"))
    desk.open_for(door)
    done = desk.admit("run", "job", "--", "/no/such/server").must(1)
    assert "admit: /no/such/server cannot be run: No such file or directory" in done.err
    assert desk.held() == []


def test_the_reservation_ends_when_it_is_visible(desk: Desk) -> None:
    desk.declare(desk.service("job"))
    desk.daemon()
    words = desk.command("job").split()[1:]
    process = desk.begin("run", "job", "--", *words)
    wait_until(lambda: desk.pids("job"))
    status = desk.admit("status", "--json").must(0).json
    assert (status["services"][0]["state"], status["reservations"]) == ("loaded", [])
    assert status["services"][0]["pids"] == [process.pid] == desk.pids("job")
    process.kill()
    desk.finish(process)
    assert desk.admit("status", "--json").must(0).json["charged_mb"] == 0


def test_until_then_it_is_reserved_for_this_process_and_ends_with_it(desk: Desk, door: str) -> None:
    desk.declare(desk.service("job"))
    desk.open_for(door)
    process = desk.begin("run", "job", "--", "sleep", "1000.145")
    wait_until(desk.held)
    status = desk.admit("status", "--json").must(0).json
    assert [held["holder_pid"] for held in status["reservations"]] == [process.pid]
    process.kill()
    desk.finish(process)
    assert desk.admit("status", "--json").must(0).json["reservations"] == []


@pytest.mark.parametrize("prefix", ["", "exec ", "setsid -w ", "env A=b nice "])
def test_it_works_behind_other_launchers(desk: Desk, prefix: str) -> None:
    desk.declare(desk.service("job"))
    desk.daemon()
    command = desk.command("job").removeprefix("exec ")
    process = desk.popen(["/bin/sh", "-c", f"{prefix}admit run job -- {command}"])
    wait_until(lambda: desk.pids("job"))
    desk.admit("unload", "job").must(0)
    assert desk.finish(process).code in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_loaded_already_starts_no_second_one(desk: Desk) -> None:
    desk.declare(desk.service("job"))
    desk.daemon()
    desk.start_by_hand("job")
    begun = desk.home / "begun"
    assert desk.admit("run", "job", "--", "touch", begun).must(0).out == "job is loaded already\n"
    assert not begun.exists()


def test_a_pipe_that_breaks_ends_the_command_as_it_would_without_admit(desk: Desk) -> None:
    """Python ignores SIGPIPE, and what is ignored stays so across exec."""
    desk.declare(desk.service("job"))
    desk.daemon()
    code = desk.home / "code"
    desk.shell(f"{{ admit run job -- yes; echo $? > {code}; }} | head -1").must(0)
    wait_until(lambda: code.exists() and code.read_text())
    assert int(code.read_text()) == 128 + signal.SIGPIPE


def test_an_ignored_sigterm_stays_ignored(desk: Desk) -> None:
    desk.declare(desk.service("job"))
    desk.daemon()
    show = "import signal; print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)"
    line = f"trap '' TERM; exec admit run job -- {sys.executable} -IS -c '{show}'"
    assert desk.shell(line).must(0).out == "True\n"


def test_closed_streams_stay_closed(desk: Desk) -> None:
    desk.declare(desk.service("job"))
    desk.daemon()
    told = desk.home / "told"
    desk.shell(f"admit run job -- sh -c 'ls /proc/self/fd > {told}' <&- 2>&-").must(0)
    assert told.read_text().split() == ["0", "1"]  # 0 is the folder that ls reads: the lowest number that was free


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_queue(desk: Desk, sig: signal.Signals) -> None:
    desk.declare(desk.service("big"), desk.service("job", 5000))
    desk.daemon()
    desk.start_by_hand("big")
    waiting = desk.begin("run", "job", "--wait", "1h", "--", "touch", "begun")
    wait_until(lambda: any("waiting~" in name for name in desk.held()))
    done = desk.interrupt(waiting, sig).must(130)
    assert "nothing is reserved for job, and nothing was started" in done.err
    wait_until(lambda: not desk.held())
    assert not (desk.home / "begun").exists()


def test_no_file_of_admits_own_reaches_the_command(desk: Desk, door: str) -> None:
    desk.declare(desk.service("job"))
    desk.open_for(door)
    done = desk.admit("run", "job", "--", "ls", "-l", "/proc/self/fd").must(0)
    numbers = [int(line.split(" -> ")[0].split()[-1]) for line in done.out.splitlines() if " -> " in line]
    assert sorted(numbers) in ([0, 1, 2, 3], [0, 1, 2])  # 3 is the folder that ls reads


def test_it_is_the_same_in_a_pipeline(desk: Desk) -> None:
    desk.declare(desk.service("job"))
    desk.daemon()
    done = desk.finish(desk.popen(["/bin/sh", "-c", "echo typed | admit run job -- cat"], stdin=subprocess.DEVNULL))
    assert done.must(0).out == "typed\n"
