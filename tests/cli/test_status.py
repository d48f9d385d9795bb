"""`admit status` and `admit plan`: what is shown, to whom, and how little is imported for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest

from admit_cli import status
from admit_cli.door import Door, NoAnswer, Strange
from tests.cli.conftest import BIN, Desk, free_port, wait_until
from tests.cli.test_render import LEDGER


def test_the_ledger_on_one_screen(desk: Desk, door: str) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000, pinned=True))
    if door == "daemon":
        desk.daemon()
    by_hand = desk.start_by_hand("big")
    done = desk.admit("status").must(0)
    lines = done.out.splitlines()
    assert lines[0] == "box: 11000 of 10000 MB charged, OVER-COMMITTED by 1000 MB"
    assert lines[1] == "[" + "b" * 42 + "s" * 35 + ">"
    assert "physical 10000 MB = pool 10000 + reserved 0 + safety 0" in lines
    (big,) = (line for line in lines if line.startswith("big "))
    words = [word for word in big.split() if word != "unknown"]  # what it does: the sentinel may have looked just once
    assert words[:3] == ["big", "loaded", "6000"]
    assert big.endswith(f" {by_hand.pid}")
    assert max(map(len, lines[:2] + lines[4:])) <= 80
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err


def test_json_is_what_the_daemon_answers(desk: Desk, door: str) -> None:
    desk.declare(desk.service("big"))
    if door == "daemon":
        desk.daemon()
    body = desk.admit("status", "--json").must(0).json
    assert (body["host"], body["pool_mb"], body["charged_mb"], body["free_mb"]) == ("box", 10_000, 0, 10_000)
    assert body["services"][0]["state"] == "stopped"


def test_a_hung_service_is_not_called_loaded(desk: Desk) -> None:
    port, not_ready = free_port(), desk.home / "not-ready"
    not_ready.touch()
    options = f"--port {port} --not-ready {not_ready}"
    probe = {"url": f"http://127.0.0.1:{port}/", "startup_grace_s": 0.1}
    desk.declare(
        desk.service("coder", options=options, probe=probe, recover=False),
        head="sentinel: {stopped_interval_s: 1, probe_interval_s: 1, probe_failures: 2}\n",
    )
    desk.start_by_hand("coder", *options.split())
    assert "loaded" in desk.admit("status").must(0).out, "nobody watches it"
    desk.daemon()
    wait_until(lambda: "hung" in desk.admit("status").must(0).out)
    said = desk.admit("status").must(0).out
    (row,) = (line for line in said.splitlines() if line.startswith("coder  "))
    assert row.split()[1] == "hung"
    assert "coder is hung and left alone (why: admit events --service coder): admit unload coder\n" in said
    assert "its recover is false" in desk.shell("admit events --service coder").must(0).out


def test_who_holds_and_who_waits_is_shown(desk: Desk) -> None:
    desk.declare(desk.service("one"), desk.service("two"))
    desk.daemon()
    holder = desk.begin("run", "one", "--", "sleep", "1000.147")
    wait_until(desk.held)
    waiting = desk.begin("load", "two", "--wait", "5m")
    wait_until(lambda: any("waiting~" in name for name in desk.held()))
    said = desk.admit("status").must(0).out
    assert f"reserved: one, 6000 MB, for process {holder.pid} (" in said
    assert "waiting, position 1: two (priority 0)" in said
    desk.interrupt(waiting)
    holder.kill()
    desk.finish(holder)


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_that_want_them(desk: Desk, env: dict[str, str], coloured: bool) -> None:
    desk.declare(desk.service("big"))
    desk.daemon()
    assert ("\x1b[" in desk.terminal("status", env=env).must(0).out) is coloured


@pytest.mark.parametrize("line", ["admit status | head -1", "admit status | true", "admit status --json | true"])
def test_a_pipe_that_breaks_is_no_accident(desk: Desk, line: str) -> None:
    desk.declare(*(desk.service(f"s{number}", 10) for number in range(300)))
    desk.daemon()
    code = desk.home / "code"
    done = desk.shell(f"{{ {line.replace(' |', f'; echo $? > {code}; }} |', 1)}").must(0)
    assert done.err == ""
    wait_until(lambda: code.exists() and code.read_text())
    assert code.read_text() == "0\n"


def test_a_full_disk_is_no_success(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    desk.daemon()
    done = desk.shell("admit status > /dev/full").must(1)
    assert done.err == "admit: the answer could not be written to stdout: No space left on device\n"


def test_watch_shows_it_again_until_ctrl_c(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    desk.daemon()
    watching = desk.begin("status", "--watch", "--json")
    assert watching.stdout is not None
    for _ in range(2):
        assert json.loads(watching.stdout.readline())["host"] == "box"  # one document a line
    desk.interrupt(watching).must(0)


def test_watch_goes_on_without_the_daemon_and_back_to_it_when_it_returns(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    watching: subprocess.Popen[str] | None = None
    for _ in range(2):  # it can go away a second time only for one who went back to it
        daemon = desk.daemon()
        watching = watching or desk.begin("status", "--watch", "--json", stderr=subprocess.STDOUT)
        assert watching.stdout is not None
        for _ in range(3):
            assert json.loads(watching.stdout.readline())["host"] == "box"
        daemon.kill()
        daemon.wait()
        line = watching.stdout.readline()
        while line.startswith("{"):
            line = watching.stdout.readline()
        assert line == "admit: no daemon listens; deciding in this process, by the same rules\n"
    assert watching is not None
    desk.interrupt(watching)


def test_watch_says_what_is_wrong_and_looks_again(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    desk.daemon()
    watching = desk.begin("status", "--watch", "--json", stderr=subprocess.STDOUT)
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("{")
    away = desk.state.rename(desk.state.with_name("away"))
    desk.state.write_text("in the way")
    line = watching.stdout.readline()
    while line.startswith("{"):
        line = watching.stdout.readline()
    assert str(desk.state) in line and line.endswith("; it is asked again\n")
    desk.state.unlink()
    away.rename(desk.state)
    assert watching.stdout.readline().startswith("{"), "said once"
    desk.interrupt(watching).must(0)


def test_watch_keeps_what_was_seen_while_no_answer_comes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Moody(Door):
        def __init__(self) -> None:
            self.says = [LEDGER, NoAnswer("the daemon listens, but gave no answer in 30 s"), Strange("no\x1b[2J")]

        def capacity(self) -> dict[str, Any]:
            if not self.says:
                raise KeyboardInterrupt
            said = self.says.pop(0)
            if isinstance(said, Exception):
                raise said
            return said

        def renewed(self) -> Door:
            return self

    monkeypatch.setattr(status, "EVERY_S", 0.0)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert status._watch(Moody(), as_json=False) == 0
    first, second, third = capsys.readouterr().out.split("\x1b[H")[1:]
    assert "10000 MB free" in first and "asked again" not in first
    assert second.startswith("admit: the daemon listens, but gave no answer in 30 s; it is asked again")
    assert third.startswith("admit: no?[2J; it is asked again")
    assert all("10000 MB free" in text for text in (second, third))


def test_watch_ends_when_nobody_reads_it(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    desk.daemon()
    desk.shell("admit status --watch --json | head -1").must(0)


def test_watch_on_a_terminal_stays_on_one_screen(desk: Desk) -> None:
    desk.declare(*(desk.service(f"s{number}", 10) for number in range(60)))
    daemon = desk.daemon()
    primary, secondary = os.openpty()
    try:
        watching = desk.begin("status", "--watch", stdout=secondary)
        shown = b""
        while b"lines more: admit status" not in shown:
            shown += os.read(primary, 65_536)
        watching.send_signal(signal.SIGINT)
        assert watching.wait() == 0
        desk.finish(watching)
    finally:
        os.close(primary)
        os.close(secondary)
    assert shown.startswith(b"\x1b[H")
    assert daemon.poll() is None


def test_a_broken_edit_is_shown_as_a_warning_and_the_last_good_one_stays(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    desk.daemon()
    desk.config.write_text("hosts: [")
    done = desk.admit("status").must(0)
    assert "warning: " in done.out
    assert "the last good one stays in force" in done.out
    assert "big" in done.out


# Plan.


def test_plan_names_who_would_have_to_go(desk: Desk, door: str) -> None:
    desk.declare(desk.service("big"), desk.service("small", 5000))
    if door == "daemon":
        desk.daemon()
    assert desk.admit("plan", "small").must(0).out == "small fits: 10000 MB are free.\n"
    by_hand = desk.start_by_hand("big")
    done = desk.admit("plan", "small").must(0)
    assert "would have to be unloaded: big" in done.out
    assert done.out.splitlines()[-1].strip() == "admit unload big"
    body = desk.admit("plan", "small", "--json").must(0).json
    assert (body["fits"], body["victims"], body["shortfall_mb"]) == (False, ["big"], 1000)
    assert by_hand.poll() is None
    desk.admit("plan", "smal").must(66)


# What goes wrong.


def test_a_wrong_setting_is_64(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    for words in (["status", "--json"], ["daemon", "run"]):
        done = desk.admit(*words, env={"ADMIT_PORT": "many"}).must(64)
        assert "ADMIT_PORT='many' is not a port; write a number from 1 to 65535" in done.err


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_fault_is_a_sentence_and_its_trace_is_for_those_who_ask(desk: Desk, debug: str) -> None:
    desk.declare(desk.service("big"))
    fault = (
        "import admit_cli.render as r; r.status = lambda *_: {}['torn']\n"
        "from admit_cli.main import main; main(['status'])"
    )
    desk.daemon()
    done = desk.finish(desk.popen([sys.executable, "-c", fault], env={"ADMIT_DEBUG": debug}))
    assert done.code == 1
    assert "admit: a fault in admit itself (KeyError: 'torn')." in done.err
    assert ("Traceback" in done.err) is bool(debug)


def test_what_the_daemon_answers_when_it_cannot_see_is_told(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    desk.daemon()
    shutil.rmtree(desk.state)
    desk.state.write_text("in the way")
    done = desk.admit("status", "--json").must(1)
    assert str(desk.state) in done.err
    assert done.json["title"] == "The daemon could not do it"


def test_no_state_folder_is_told(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    desk.state.write_text("in the way")
    done = desk.admit("status", "--json").must(1)
    assert "is not a folder; remove it, or set ADMIT_STATE_DIR" in done.err
    assert done.json["exit_code"] == 1


# Starting.

HEAVY = {"fastapi", "pydantic", "typer", "yaml", "uvicorn", "asyncio", "dataclasses", "re", "typing", "http", "pathlib"}


def imported(desk: Desk, *words: str) -> set[str]:
    line = [sys.executable, "-I", "-X", "importtime", str(BIN / "admit"), *words]
    run = subprocess.run(line, env=desk.env, capture_output=True, text=True, check=False, cwd=desk.home)
    assert run.returncode == 0, run.stderr
    lines = [each for each in run.stderr.splitlines() if each.startswith("import time:")]
    names = [each.rsplit("|", 1)[1].strip() for each in lines]
    return set(names[names.index("site") + 1 :])  # what `site` itself imports is Python's own business


def test_status_over_the_socket_imports_nothing_heavy(desk: Desk) -> None:
    desk.declare(desk.service("big"))
    desk.daemon()
    names = imported(desk, "status")
    assert "admit_cli.status" in names
    assert names.isdisjoint(HEAVY - {"re", "typing"})  # json needs re; it comes when the answer is there


def test_before_the_request_not_even_json_is_imported(desk: Desk) -> None:
    """Asked of the interpreter at the moment when the request goes out."""
    desk.declare(desk.service("big"))
    desk.daemon()
    spy = (
        "import sys; before = set(sys.modules)\n"
        "import admit_cli.door as d, admit_cli.main as m\n"
        "real = d.Door._over_the_socket\n"
        "def spied(*a, **k):\n"
        "    print(sorted(set(sys.modules) - before)); sys.stdout.flush(); return real(*a, **k)\n"
        "d.Door._over_the_socket = spied\n"
        "m.main(sys.argv[1:])"
    )
    for words in (["status"], ["load", "big"], ["run", "big", "--", "true"], ["plan", "big"]):
        line = [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(BIN.parents[1])!r})\n{spy}", *words]
        done = desk.finish(desk.popen(line))
        loaded = set(eval(done.out.splitlines()[0]))
        assert loaded.isdisjoint(HEAVY | {"json", "socket", "signal", "subprocess", "enum", "typing"}), words
        assert len(loaded) < 25, sorted(loaded)
