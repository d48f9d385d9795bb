"""messages: what the monitor's threads tell its screen."""

from __future__ import annotations

from collections.abc import Callable

from textual.message import Message

from admit_cli.monitor.source import Seen
from admitd.core.events import Entry


class Looked(Message):
    """A look came back."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen


class Happened(Message):
    """The journal has more."""

    def __init__(self, entries: list[Entry]) -> None:
        super().__init__()
        self.entries = entries


class Call(Message):
    """A thread is done, and `then` goes on from there."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self.then = then
