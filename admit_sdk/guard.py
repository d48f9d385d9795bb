"""guard: one allocation that was granted, and how it ends.

A guard is nothing but a number that its governor knows. It ends when it is released, when its `with` block ends in
whatever way, when the thread that it belongs to dies, and at the latest when it is collected; the governor takes the
number out of its record once, so that none of these can count twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from admit_sdk.governor import MemoryGovernor


class AllocationGuard:
    """Bytes that are kept for one holder. Safe to use from any thread."""

    __slots__ = ("__weakref__", "_governor", "_holder", "_measure", "_serial", "_used")

    def __init__(self, governor: MemoryGovernor, holder: str) -> None:
        """Made by a governor only, before it grants anything; one that never was granted ends without a word."""
        self._serial = 0
        self._governor = governor
        self._holder = holder

    @property
    def holder(self) -> str:
        """Whoever it was asked for: a model's name, say."""
        return self._holder

    @property
    def reserved_bytes(self) -> int:
        """What is kept for it; 0 once it is released."""
        return self._governor.reserved_by(self._serial)

    @property
    def used_bytes(self) -> int | None:
        """What is really used, as it was last reported or is measured now; None where nobody said."""
        measure: Callable[[], int] | None = getattr(self, "_measure", None)
        return getattr(self, "_used", None) if measure is None else measure()

    @property
    def released(self) -> bool:
        return self._governor.reserved_by(self._serial) == 0

    def report_used(self, used_bytes: int) -> None:
        """Say what is really used. It changes nothing of what is kept: `resize` does that."""
        self._used: int = used_bytes

    def measure_by(self, measure: Callable[[], int]) -> None:
        """Have `measure` called whenever somebody asks what is really used."""
        self._measure: Callable[[], int] = measure

    def resize(self, size_bytes: int) -> None:
        """Replace an estimate by what was measured. Shrinking always works.

        Raises Exhausted or RequiresEviction where it cannot grow, and then nothing has changed; GuardReleased.
        """
        self._governor.resize(self._serial, size_bytes, self._holder)

    def hand_over(self) -> AllocationGuard:
        """Take it from the thread that it belongs to: it belongs to nobody but whoever holds this object.

        It outlives the thread then, until another thread takes it over, and ends at the latest when it is collected.
        Raises GuardReleased.
        """
        self._governor.belongs_to(self._serial, 0)
        return self

    def take_over(self) -> AllocationGuard:
        """From now on it belongs to the thread that calls this, and ends at the latest with that. Raises GuardReleased.

        `with guard.take_over(): ...`
        """
        self._governor.belongs_to(self._serial, self._governor.this_thread())
        return self

    def release(self) -> None:
        """Give it back. The second time, and after whatever else has ended it, nothing happens."""
        if self._serial:
            # In this order: interrupted in between, it is given back once more, which changes nothing.
            self._governor.give_back(self._serial)
            self._serial = 0

    def __enter__(self) -> AllocationGuard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._serial:
            self._governor.give_back(self._serial)
            self._serial = 0

    def __del__(self) -> None:
        if not self._serial:
            return
        governor, serial = self._governor, self._serial
        held = 0
        try:
            held = governor.reserved_at_a_glance(serial)
        finally:
            governor.give_back(serial)
        if held and not sys.is_finalizing():
            import warnings

            warnings.warn(
                f"{held} bytes kept for {self._holder or 'nobody in particular'} were never released: "
                "use the guard as a context manager, or call release()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        state = f"{self.reserved_bytes} bytes" if not self.released else "released"
        return f"<AllocationGuard {self._holder or 'unnamed'}: {state}>"
