"""`admit top`, the real one: on a terminal, beside a daemon that comes and goes, and where there is no terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from admit_cli.monitor.source import Source
from tests.cli.conftest import BIN, Desk, wait_until
from tests.cli.terminals import terminal

TOP = str(BIN / "admit")


def test_without_a_terminal_it_says_what_to_use_instead(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    done = desk.admit("top").must(64)
    assert done.out == ""
    assert "top draws on a terminal, and this is none" in done.err and "admit status --json" in done.err
    assert desk.terminal("top", stdin=subprocess.DEVNULL).code == 64
    assert desk.terminal("top", env={"TERM": "dumb"}).code == 64


def test_what_is_wrong_from_the_start_is_told_as_everywhere(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    assert "write one of file, name, state" in desk.terminal("top", "--sort", "colour").must(64).out
    desk.config.write_text("hosts: [")
    shown = desk.terminal("top").must(78).out
    assert str(desk.config) in shown and "\x1b[?1049h" not in shown, "no screen was opened"


@pytest.mark.slow
def test_a_load_by_key_a_refusal_and_the_way_out_of_it(desk: Desk) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000), desk.service("tiny", 100))
    desk.daemon()
    with terminal([TOP, "top"], desk.env, 80, 24) as screen:
        first = screen.sees("q Quit")
        assert "box: 0 of 10000 MB charged, 10000 MB free" in first and "daemon " in first.splitlines()[0]
        assert all(len(line) <= 80 for line in first.splitlines())
        screen.type("l")
        assert "big fits: 10000 MB are free." in screen.sees("Load big?")
        screen.type("y")
        screen.sees("admit load big: ")
        screen.sees("big is loaded (pid")
        screen.sees("6000 of 10000 MB charged")
        assert len(desk.pids("big")) == 1
        screen.type("Down", "l")
        plan = screen.sees("Load small?")
        assert "1000" in plan and "admit unload big" in plan
        screen.type("y")
        screen.sees("small is loaded (pid")
        screen.sees("5000 of 10000 MB charged")
        assert (len(desk.pids("big")), len(desk.pids("small"))) == (0, 1)
        screen.type("e")
        screen.sees("admit explain small")
        screen.sees("is it")
        screen.type("q", "q")
        wait_until(lambda: "admit explain small" not in screen.screen())
        screen.type("q")
        assert screen.code() == 0, screen.screen()
    assert len(desk.pids("small")) == 1, "what was loaded stays"


@pytest.mark.slow
def test_it_says_when_the_daemon_is_gone_and_recovers(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    daemon = desk.daemon()
    with terminal([TOP, "top"], desk.env, 140, 40) as screen:
        screen.sees("daemon_started")
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
        gone = screen.sees("The daemon is gone since")
        assert "no daemon" in gone.splitlines()[0] and "Next: admit daemon status" in gone
        screen.type("l")
        screen.sees("Load big?")
        screen.type("y")
        screen.sees("6000 of 10000 MB charged")
        wait_until(lambda: len(desk.pids("big")) == 1)
        desk.daemon()
        screen.sees("The daemon answers again.")
        assert "gone since" not in screen.screen()
        screen.type("C-c")
        assert screen.code() == 0, screen.screen()


@pytest.mark.slow
def test_sigterm_leaves_the_terminal_as_it_was(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    with terminal([TOP, "top"], desk.env, 80, 24) as screen:
        screen.sees("There is no daemon")
        (pid,) = _pids_of_top(desk)
        os.kill(pid, signal.SIGTERM)
        assert screen.code() == 0, screen.screen()
        assert "SERVICE" not in screen.screen()


def test_a_fault_is_a_sentence_and_the_terminal_is_as_it_was(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    fault = "import sys, admit_cli.monitor.lines as l; l.bar = lambda *_: {}['torn']\n"
    fault += "from admit_cli.main import main; main(['top'])"
    with terminal([sys.executable, "-c", fault], desk.env, 100, 24) as screen:
        said = screen.sees("a fault in admit itself (KeyError: 'torn')")
        assert "Traceback" not in said and "SERVICE" not in said
        assert screen.code() == 1


def _pids_of_top(desk: Desk) -> list[int]:
    """Those on this desk."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            if (process.info["cmdline"] or [])[1:] == [TOP, "top"] and process.environ().get("HOME") == str(desk.home):
                found.append(process.pid)
    return found


def test_textual_comes_for_top_and_for_nothing_else() -> None:
    code = "import sys, admit_cli.main, admit_cli.status, admit_cli.load, admit_cli.top, admit_cli.inside"
    code += "; sys.exit(any(name in sys.modules for name in ('textual', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_command_says_is_shown_as_text_and_its_lines_stay(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "printf 'one\\033[2J\\ntwo\\n'; exit 3"
    desk.declare(desk.service("broken", load_cmd=said, loaded_check_cmd="false"))
    for name, value in desk.env.items():
        monkeypatch.setenv(name, value)
    source = Source(None)
    done = source.run(("load", "broken"), ("load", "never"))
    assert done.code == 1, "and the second was not begun"
    assert "\x1b" not in done.said
    assert any(line.split()[-1] == "two" for line in done.said.splitlines()), done.said
    assert source.look().ledger is not None
    desk.config.write_text("hosts: [")
    assert f"{desk.config}:1: not YAML" in Source(str(desk.config)).look().problem
