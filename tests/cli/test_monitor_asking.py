"""When `admit top` asks: never whoever types into the filter, and one question after the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from textual.events import AppBlur, AppFocus

from admit_cli.monitor.source import Done
from tests.cli.monitored import PATIENCE_S, Fixed, Watcher, watch

WAITS = "Enter or Esc leaves the filter"


@dataclass
class Late(Fixed):
    """Plans, and what is run, come only when the test lets them."""

    answers: threading.Event = field(default_factory=threading.Event)

    def plan(self, name: str) -> dict[str, Any]:
        self.answers.wait(PATIENCE_S)
        return self.planned

    def run(self, *commands: tuple[str, ...]) -> Done:
        self.ran.append(commands)
        self.answers.wait(PATIENCE_S)
        return self.done


def test_letters_for_the_filter_answer_no_question_about_a_load() -> None:
    source = Late()

    async def look(watcher: Watcher) -> None:
        await watcher.press("down", "l", "slash", *"com")
        source.answers.set()
        await watcher.sees(f"Load coder? {WAITS}")
        await watcher.press(*"fy")
        await watcher.sees("filter: comfy")
        await watcher.press("enter")
        await watcher.sees("coder fits: 9000 MB are free.")
        await watcher.press("escape")
        await watcher.sees_no("Load coder?")

    watch(source, look)
    assert source.ran == []


def test_letters_for_the_filter_kill_nothing() -> None:
    source = Late(done=Done(75, "chat is still there"))

    async def look(watcher: Watcher) -> None:
        await watcher.press("u")
        await watcher.sees("Unload chat?")
        await watcher.press("y", "slash", "k")
        source.answers.set()
        await watcher.sees(WAITS)
        await watcher.press(*"imik")
        await watcher.sees("filter: kimik")
        await watcher.press("escape")
        await watcher.sees("SIGKILL what is left")

    watch(source, look)
    assert source.ran == [(("unload", "chat"),)]


def test_a_filter_that_is_typed_into_in_another_window_is_still_the_filter() -> None:
    source = Late()

    async def look(watcher: Watcher) -> None:
        await watcher.press("down", "l", "slash", "c")
        watcher.app.post_message(AppBlur())
        await watcher.until(lambda: not watcher.app.app_focus)
        source.answers.set()
        await watcher.sees(WAITS)
        watcher.app.post_message(AppFocus())
        await watcher.until(lambda: watcher.app.app_focus)
        await watcher.press("y")
        await watcher.sees("filter: cy")
        await watcher.press("escape")
        await watcher.sees("coder fits: 9000 MB are free.")

    watch(source, look)
    assert source.ran == []


def test_a_question_waits_for_the_one_that_stands_there() -> None:
    source = Late()

    async def look(watcher: Watcher) -> None:
        await watcher.press("down", "l", "up", "u")
        await watcher.sees("Unload chat?")
        source.answers.set()
        await watcher.until(lambda: watcher.app._held)
        assert "Load coder?" not in await watcher.sees("Unload chat?")
        await watcher.press("y", "y")
        await watcher.sees("coder fits: 9000 MB are free.")
        await watcher.until(lambda: source.ran)
        await watcher.press("n")
        await watcher.sees_no("Load coder?")

    watch(source, look)
    assert source.ran == [(("unload", "chat"),)]
