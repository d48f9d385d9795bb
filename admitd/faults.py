"""faults: what fails in the sentinel's rounds: counted, told once for a row of it, and no end of the next round."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final, TypeVar

from admitd.core.events import Event, Severity
from admitd.journal import Record

Done = TypeVar("Done")
SAME_ERROR_S: Final = 600.0


class Faults:
    """`tell` writes an event down; `clock` is the sentinel's."""

    def __init__(self, tell: Record, clock: Callable[[], float]) -> None:
        self._tell = tell
        self._clock = clock
        self._last: tuple[str, float] = ("", 0.0)
        self.count = 0

    def attempt(self, what: Callable[[], Done]) -> Done | None:
        """Do it; where it fails, note that, and go on."""
        try:
            return what()
        except Exception as problem:
            self.note(problem)
            return None

    def note(self, problem: Exception) -> None:
        """Count it, and tell it; the same again only after SAME_ERROR_S: a row of failures is one fault."""
        self.count += 1
        what = f"{type(problem).__name__}: {problem}"
        before, at = self._last
        if what != before or self._clock() - at >= SAME_ERROR_S:
            self._last = (what, self._clock())
            text = f"A round of the sentinel failed ({what}); the next one comes."
            with contextlib.suppress(Exception):
                self._tell(
                    Event("sentinel_error", text, Severity.WARNING, None, "admit events", {"errors": self.count})
                )
