"""Progress: one line that changes on a terminal and never wraps; elsewhere nothing but what is new."""

from __future__ import annotations

import io
import os
import re
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from admit_cli import follow, render
from tests.cli.conftest import Desk, free_port


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    shown = Terminal()
    monkeypatch.setattr(follow, "sys", SimpleNamespace(stderr=shown))
    monkeypatch.setattr(follow, "tell", lambda text, end="\n": shown.write(text + end))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(render, "terminal_width", lambda: 40)
    return shown


def test_a_line_is_replaced_and_taken_away(terminal: Terminal) -> None:
    line = follow.Line()
    line.show("first")
    line.show("second")
    line.end()
    assert terminal.getvalue() == "\r\x1b[2Kfirst\r\x1b[2Ksecond\r\x1b[2K"


def test_a_line_never_wraps_and_never_breaks(terminal: Terminal) -> None:
    follow.Line().show("no answer:\nweights \x1b[31m" + "x" * 100)
    shown = terminal.getvalue().removeprefix("\r\x1b[2K")
    assert len(shown) == 39
    assert shown.startswith("no answer: weights ?[31m")
    assert shown.endswith("...")


@pytest.mark.parametrize("term", ["dumb", None])
def test_nothing_moves_where_nothing_can(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], term: str | None
) -> None:
    if term is None:
        monkeypatch.undo()
    else:
        monkeypatch.setenv("TERM", term)
    line = follow.Line()
    line.show("first")
    line.end()
    assert terminal.getvalue() + capsys.readouterr().err == ""


class Doorway:
    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def capacity(self) -> dict[str, Any]:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"waiting": [{"holder_pid": pid} for pid in answer]}


def test_a_place_in_the_queue_is_said_once_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow.os, "getpid", lambda: 7)
    queue = follow.Queue(Doorway([5, 7], [5, 7], OSError("gone"), [9], [7], [7]), "coder")  # type: ignore[arg-type]
    for _ in range(6):
        queue.show()
    assert capsys.readouterr().err.splitlines() == [
        "admit: coder waits, position 2 of 2 in the queue",
        "admit: coder waits, position 1 of 1 in the queue",
    ]


def test_on_a_real_terminal_it_shows_time_memory_and_what_it_waits_for(desk: Desk) -> None:
    port, not_ready = free_port(), desk.home / "not-ready"
    probe = {"url": f"http://127.0.0.1:{port}/", "timeout_s": 2}
    desk.declare(desk.service("coder", options=f"--hold-mb 60 --port {port} --not-ready {not_ready}", probe=probe))
    desk.daemon()
    done = desk.terminal("load", "coder").must(0)
    frames = done.out.split("\r\x1b[2K")
    first = "coder is admitted, 6000 MB are reserved\r\n  log: ~/.local/state/admit/logs/coder.log\r\n"
    assert frames[0] == first
    assert any(re.match(r"coder +\d+ s  \[[#.]{20}\] \d+ of 6000 MB  ", frame) for frame in frames)
    assert re.fullmatch(r"coder is loaded \(pid \d+\) after \d+\.\d s, holds \d+ of 6000 MB\r\n", frames[-1])
    assert all(len(frame) < 80 for frame in frames[1:])


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_is_being_started_is_heeded_when_it_is_known_what_was(sig: signal.Signals) -> None:
    begun = []

    def start() -> None:
        with follow._heeded_after():
            os.kill(os.getpid(), sig)
            begun.append("known")

    before = signal.getsignal(sig)
    with pytest.raises(KeyboardInterrupt):
        start()
    assert begun == ["known"]
    assert signal.getsignal(sig) is before


def test_the_same_with_no_color_has_no_colour(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    desk.daemon()
    done = desk.terminal("load", "coder", env={"NO_COLOR": "1"}).must(0)
    assert re.search(r"\x1b\[\d*m", done.out) is None
