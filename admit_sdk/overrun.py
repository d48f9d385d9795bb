"""overrun: an app beyond its hard limit, with no daemon there to close it, asks itself to save and stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from admit_sdk.told import tell_fault, warn
from admitd.core.units import to_mb

SAVE_S: Final = 5.0
"""What the sentinel gives a runaway to save, too (admitd/core/terms.py, save_grace_s)."""
LOOKS: Final = 2
"""Looks in a row that have to see it: a peak that passes is none."""


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
    """As Ctrl-C does: the main thread unwinds, and whatever it holds is closed on the way."""
    from admitd.actuator import interrupt_own_main_thread

    interrupt_own_main_thread()


@dataclass
class SaveAndStop:
    """`save` gets five seconds; then `stop` is called, whether it is done or not.

    `watched`: whether somebody else closes the app, a daemon's runaway rule; then nothing happens here.
    """

    save: Callable[[Overrun], None] | None = None
    stop: Callable[[], None] = interrupt
    watched: Callable[[], bool] | None = None
    save_s: float = SAVE_S
    _seen: int = field(default=0, init=False)
    _asked: bool = field(default=False, init=False)

    def look(self, held_bytes: int, hard_bytes: int) -> bool:
        """One look; whether the app was asked to stop with it. Once is enough for all time."""
        self._seen = self._seen + 1 if held_bytes > hard_bytes else 0
        if self._asked or self._seen < LOOKS or (self.watched is not None and self.watched()):
            return False
        self._asked = True
        overrun = Overrun(held_bytes, hard_bytes)
        warn(str(overrun))
        if self.save is not None:
            saving = threading.Thread(target=_save, args=(self.save, overrun), name="admit-save", daemon=True)
            saving.start()
            saving.join(self.save_s)
        self.stop()
        return True


def _save(save: Callable[[Overrun], None], overrun: Overrun) -> None:
    try:
        save(overrun)
    except Exception:  # it has to stop all the same
        tell_fault("saving failed")
