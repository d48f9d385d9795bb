"""source: what the monitor sees, and how it acts: through the same door as `admit status`, and by the same commands.

Everything here may wait, and is called from threads of its own: the terminal never waits for any of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from admit_cli.door import Door
from admit_cli.errors import sentence
from admit_cli.load import trouble
from admit_cli.tell import printable
from admitd import actuator, places, trail
from admitd.core.events import Entry
from admitd.journal import NAME

SHOWN_MAX: Final = 64 * 1024
PAST: Final = 100
"""How many entries of the journal are shown at the start."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look came to. `ledger` is None where it failed, and `problem` says why. `why_inside`: why this process
    looked itself; None where a daemon did."""

    ledger: dict[str, Any] | None
    why_inside: str | None = None
    problem: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended: its exit code, and all that it said."""

    code: int
    said: str


class Sees(Protocol):
    """Where it all comes from, and who runs commands."""

    def look(self) -> Seen: ...
    def events(self) -> list[Entry]: ...
    def plan(self, name: str) -> dict[str, Any]: ...
    def run(self, *commands: tuple[str, ...]) -> Done: ...


class Source:
    """The real one. `config`: the file that the user named, if any."""

    def __init__(self, config: str | None) -> None:
        self._config = config
        self._door = Door(config)
        self._tail: trail.Tail | None = None

    def look_once(self) -> Seen:
        """The ledger as it is now. Raises whatever `admit status` would tell."""
        self._door = self._door.renewed()
        ledger = self._door.capacity()
        return Seen(ledger, self._door.why_inside, at=time.time())

    def look(self) -> Seen:
        """The ledger as it is now, or why it cannot be had."""
        try:
            return self.look_once()
        except Exception as problem:  # it is shown, and the next look may do better
            return Seen(None, self._door.why_inside, _plain(sentence(problem) or type(problem).__name__), time.time())

    def events(self) -> list[Entry]:
        """What was written down since the last call; at first, what was last."""
        path = Path(places.user_folder(os.environ), NAME)
        with contextlib.suppress(OSError):  # one that cannot be read now may be at the next call
            if self._tail is None:
                self._tail = trail.Tail(path)
                return trail.read(path, None, None, PAST)
            return self._tail.more()
        return []

    def plan(self, name: str) -> dict[str, Any]:
        """What would have to go for it to fit. Raises what `admit plan` would tell."""
        reply = self._door.ask("GET", f"/plan?service={name}")
        if reply.status != 200:
            raise trouble(reply)
        found: dict[str, Any] = reply.json()
        return found

    def run(self, *commands: Sequence[str]) -> Done:
        """Run `admit` with these words, one command after the other, until one fails. Each goes on when we end."""
        said = []
        for words in commands:
            with tempfile.TemporaryFile() as output:
                code = actuator.start_apart([_admit(), *self._named(), *words], output).wait()
                output.seek(0)
                said.append(_plain(output.read(SHOWN_MAX).decode("utf-8", "replace")))
            if code:
                break
        return Done(code, "\n".join(said))

    def _named(self) -> list[str]:
        return ["--config", self._config] if self._config else []


def _plain(text: str) -> str:
    """Lines without what would move a terminal's cursor."""
    return "\n".join(printable(line) for line in text.strip().splitlines())


def _admit() -> str:
    """The program that this is: its processes are known for admit's own by that name."""
    beside = Path(sys.executable).with_name("admit")
    named = Path(sys.argv[0])
    if named.name == "admit" and named.is_file():
        return str(named)
    return str(beside) if beside.is_file() else shutil.which("admit") or "admit"
