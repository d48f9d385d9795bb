"""overrun: an app beyond its hard limit, which nobody else closes, asks itself to save and stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from admit_sdk.told import tell_fault, warn
from admitd.core.units import to_mb

SAVE_S: Final = 5.0
"""What the sentinel gives a runaway to save, too (admitd/core/terms.py, save_grace_s)."""
LOOKS: Final = 2
"""Looks in a row that have to see it: a peak that passes is none."""
AGAIN_S: Final = 10.0
"""How long an app that was asked may take to close what it holds before it is asked again."""
INTERRUPTS: Final = 2
"""As often it is interrupted; the first may have ended only what the app was at, an answer say. Then it is ended."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """What the app is told: what it holds, and what it may."""

    held_bytes: int
    hard_bytes: int

    def __str__(self) -> str:
        return (
            f"this app holds {to_mb(self.held_bytes)} MB, beyond its hard limit of {to_mb(self.hard_bytes)} MB, with "
            "all models unloaded that could go; it has to save and stop"
        )


def interrupt() -> None:
    """As Ctrl-C does: the main thread unwinds, and whatever it holds is closed on the way. Where the app does not hear
    Ctrl-C, as in the background of a script, SIGTERM."""
    from admitd.actuator import interrupt_own_main_thread

    interrupt_own_main_thread()


def _terminate() -> None:
    from admitd.actuator import terminate_this_process

    terminate_this_process()


@dataclass
class SaveAndStop:
    """`save` gets five seconds; then `stop` is called, whether it is done or not, and again every `again_s` for as long
    as the app is there and beyond its limit. From the third time on it is SIGTERM, unless `stop` is the app's own.

    `watched`: whether somebody else closes the app, a daemon's runaway rule; then nothing happens here.
    """

    save: Callable[[Overrun], None] | None = None
    stop: Callable[[], None] = interrupt
    watched: Callable[[], bool] | None = None
    save_s: float = SAVE_S
    again_s: float = AGAIN_S
    _seen: int = field(default=0, init=False)
    _asked: int = field(default=0, init=False)
    _asked_s: float = field(default=float("-inf"), init=False)

    def look(self, held_bytes: int, hard_bytes: int) -> bool:
        """One look; whether the app was asked with it to save and stop. What only asks once more is not told."""
        self._seen = self._seen + 1 if held_bytes > hard_bytes else 0
        if not self._seen:
            self._asked = 0
        if self._seen < LOOKS or time.monotonic() - self._asked_s < self.again_s:
            return False
        if self.watched is not None and self.watched():
            return False
        self._asked += 1
        if self._asked == 1:
            self._have_it_saved(Overrun(held_bytes, hard_bytes))
        self._asked_s = time.monotonic()
        try:
            (_terminate if self.stop is interrupt and self._asked > INTERRUPTS else self.stop)()
        except Exception:  # it is asked again
            tell_fault("stopping failed")
        return self._asked == 1

    def _have_it_saved(self, overrun: Overrun) -> None:
        warn(str(overrun))
        if self.save is not None:
            saving = threading.Thread(target=_save, args=(self.save, overrun), name="admit-save", daemon=True)
            saving.start()
            saving.join(self.save_s)


def _save(save: Callable[[Overrun], None], overrun: Overrun) -> None:
    try:
        save(overrun)
    except Exception:  # it has to stop all the same
        tell_fault("saving failed")
