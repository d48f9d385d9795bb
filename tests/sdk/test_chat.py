"""The example chat: it answers, shows memory as users should see it, and goes on after its model was unloaded."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, cast

import pytest

from admit_sdk import MemoryExhausted, MemoryGovernor, Message, ModelPool, Pressure, TextToText
from admit_sdk.lifecycle import State
from admitd.core.units import MIB
from examples.chat import words
from examples.chat.__main__ import Chat, main
from tests.sdk.counting import Counting, Make, model

ROOT = Path(__file__).parents[2]


def chat(home: Path, *options: str | Path, said: str) -> subprocess.CompletedProcess[str]:
    """A whole conversation, in a home of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("ADMIT_", "XDG_"))}
    return subprocess.run(
        [sys.executable, "-m", "examples.chat", *map(str, options)],
        input=said,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=ROOT,
        env={**environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "ADMIT_PORT": "1"},
    )


def test_a_conversation_that_survives_an_eviction(tmp_path: Path, mlx_model: Callable[..., Path]) -> None:
    saved = tmp_path / "turns.json"
    said = "hello\n/status\n/evict\n/status\n\nhello again\n/quit\n"
    done = chat(tmp_path, mlx_model(), "--soft", "2GiB", "--hard", "3GiB", "--save", saved, said=said)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(chat is being loaded)") == 2
    assert "chat was unloaded; the conversation is kept, and your next message loads it again" in done.stdout
    assert re.search(r"\[.*memory \w+: 0 of \d+ MB\]", done.stdout)
    assert "its hard limit is 3072 MB" in done.stdout
    turns = json.loads(saved.read_text())
    assert [each["role"] for each in turns] == ["user", "assistant"] * 2
    assert [each["content"] for each in turns[::2]] == ["hello", "hello again"]


def test_a_budget_that_is_too_small_is_told_with_numbers(tmp_path: Path, mlx_model: Callable[..., Path]) -> None:
    done = chat(tmp_path, mlx_model(), "--soft", "100MiB", "--hard", "1GiB", said="hello\n")
    assert done.returncode == 0, done.stderr
    assert "There is no room to answer: chat needs" in done.stdout
    assert "declare a smaller variant, or raise the budget" in done.stdout


def test_wrong_use_of_the_chat_says_what_is_wrong(tmp_path: Path) -> None:
    done = chat(tmp_path, tmp_path / "nowhere", said="hello\n")
    assert "No answer: chat: " in done.stdout and "nowhere is not there" in done.stdout
    done = chat(tmp_path, tmp_path, "--soft", "much", said="")
    assert done.returncode == 2
    assert "'much' is not an amount of memory" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--soft", "10MiB"), r"this app holds \d+ MB before any model is loaded, and its hard limit is 10 MB"),
        (("--save", "/nowhere/at/all.json"), r"--save /nowhere/at/all\.json: no file can be written there"),
        (("--save", "/"), r"--save /: no file can be written there"),
    ],
)
def test_what_cannot_go_well_is_said_at_the_start(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = chat(tmp_path, tmp_path, *options, said="")
    assert done.returncode == 2
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_a_conversation_that_cannot_be_saved_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full by then, say: here a folder has come to be where the file was to be."""
    saved = tmp_path / "turns.json"
    monkeypatch.setattr(sys, "argv", ["chat", str(tmp_path), "--save", str(saved)])
    monkeypatch.setattr(sys, "stdin", io.StringIO("/quit\n"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("ADMIT_PORT", "1")
    monkeypatch.setattr(Chat, "run", lambda *_: saved.mkdir())
    assert main() == 1
    assert "The conversation is not saved: " in capsys.readouterr().err


def test_pressure_is_a_badge_and_a_banner(capsys: pytest.CaptureFixture[str]) -> None:
    governor = MemoryGovernor(1000 * MIB, watch=False)
    talk = Chat(None)
    governor.on_pressure(talk.hear_pressure)
    with ModelPool(governor, []) as pool:
        assert words.badge(pool) == "[memory low: 0 of 1000 MB]"
        with governor.try_allocate(850 * MIB):
            governor.look()
            assert words.badge(pool) == "[! memory high: 850 of 1000 MB]"
            with governor.try_allocate(140 * MIB):
                governor.look()
                assert words.badge(pool) == "[!! memory critical: 990 of 1000 MB]"
        governor.look()
    talk.tell()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("*** Memory is getting short.")
    assert said[1].startswith("*** Memory is nearly used up.")
    assert said[-1] == "*** Memory is fine again. ***"
    governor.close()


@pytest.mark.parametrize(
    ("state", "said"), [(State.LOADING, True), (State.DEAD, True), (State.FAILED, True), (State.READY, False)]
)
def test_news_of_a_model(state: State, said: bool) -> None:
    assert (words.news("chat", state) is not None) is said


def test_a_refusal_carries_its_suggestion() -> None:
    why = MemoryExhausted("memory", 300 * MIB, 100 * MIB, "ask small instead", what="chat")
    assert words.refusal(why) == (
        "There is no room to answer: chat needs 300 MB of memory, and 100 MB are free: ask small instead."
    )


def test_ctrl_c_stops_an_answer_and_not_the_chat(
    make: Make, backend: Counting, capsys: pytest.CaptureFixture[str]
) -> None:
    """The turn is not kept, and the model answers the next one."""

    def press(token: int) -> None:
        if token == 2:
            signal.raise_signal(signal.SIGINT)

    pool = make(model("chat"))
    talk = Chat(None)
    backend.at_token = press
    talk.answer(pool, "hello")
    assert "(stopped)" in capsys.readouterr().out
    assert not talk.turns
    backend.at_token = lambda _: None
    assert pool.ask("chat", TextToText((Message("user", "x"),), max_tokens=1)).tokens == 1


def test_an_interrupt_because_the_app_has_to_stop_ends_the_chat(capsys: pytest.CaptureFixture[str]) -> None:
    """It comes in the middle of an answer, where the user's own ends the answer alone."""

    class Overrun:
        def stream(self, *_: object, **__: object) -> NoReturn:
            raise KeyboardInterrupt

    talk = Chat(None)
    pool = cast("ModelPool", Overrun())
    talk.answer(pool, "hello")
    talk.save("this app holds too much")
    with pytest.raises(KeyboardInterrupt):
        talk.answer(pool, "hello")
    assert capsys.readouterr().out.splitlines() == ["", "(stopped)", "*** this app holds too much ***", "", "(stopped)"]


def test_what_was_said_is_saved_when_the_app_has_to_stop(tmp_path: Path) -> None:
    talk = Chat(tmp_path / "saved.json")
    talk.turns.append(Message("user", "hello"))
    talk.save("this app holds too much")
    assert json.loads((tmp_path / "saved.json").read_text()) == [{"role": "user", "content": "hello"}]


def test_words_are_there_for_every_level() -> None:
    assert all(words.banner(Pressure.LOW, level) for level in (Pressure.HIGH, Pressure.CRITICAL))
    assert words.banner(Pressure.LOW, Pressure.NORMAL) is None
