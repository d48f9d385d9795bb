"""dialogs: what stands over the monitor for a while: a question with its answers, and what a command said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.markup import escape
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Button, Static


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer, and the key that gives it."""

    key: str
    label: str


CLOSE = Choice("escape", "Close")


class Dialog(ModalScreen[str | None]):
    """A text, and what can be answered to it: ends with the key of the answer, None for the last one: to do nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("left", "app.focus_previous", "Back"),
        ("right", "app.focus_next", "Forth"),
    ]
    CSS = """
    Dialog { align: center middle; background: transparent; }
    Dialog > Vertical {
        width: 90%; max-width: 110; height: auto; max-height: 90%;
        border: round ansi_cyan; padding: 0 1; background: ansi_default;
    }
    Dialog VerticalScroll { height: auto; max-height: 100%; }
    Dialog Horizontal { height: auto; align-horizontal: right; margin-top: 1; }
    Dialog Button { margin-left: 2; }
    """

    def __init__(self, title: str, text: str, choices: Sequence[Choice] = (), nothing: Choice = CLOSE) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._choices = (*choices, nothing)
        self._answered = False

    def compose(self) -> ComposeResult:
        """The text above, the answers below."""
        frame = Vertical()
        frame.border_title = escape(self._title)
        with frame:
            with VerticalScroll():
                yield Static(self._text, markup=False)
            with Horizontal():
                for each in self._choices:
                    yield Button(Content(f"{_named(each.key)}  {each.label}"), id=f"key-{each.key}", compact=True)

    def on_mount(self) -> None:
        """Whoever presses Enter without reading does nothing."""
        self.query_one(f"#key-{self._choices[-1].key}", Button).focus()

    def on_key(self, event: Key) -> None:
        """The key of an answer gives it; q and n never do anything."""
        if event.key in {each.key for each in self._choices}:
            event.stop()
            self._answer(event.key)
        elif event.key in ("escape", "q", "n"):
            event.stop()
            self._answer(self._choices[-1].key)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answered by Enter or by the mouse."""
        self._answer((event.button.id or "").removeprefix("key-"))

    def _answer(self, key: str) -> None:
        """Once: a second key may come before this is gone."""
        if not self._answered:
            self._answered = True
            self.dismiss(None if key == self._choices[-1].key else key)


def _named(key: str) -> str:
    return "Esc" if key == "escape" else key
