"""profiles: how much an app may take, by the size of the machine that it runs on; and an app's own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from admitd.core.units import MIB, parse_amount, to_mb

GIB: Final = 1024 * MIB
NEARLY: Final = 0.9
"""A system of 16 GB shows less than that to its programs: what its firmware and its graphics keep is not there."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A budget: idle models go near `soft_bytes`, and beyond `hard_bytes` nothing is loaded and the app has to stop.

    `system_bytes`: the memory of the machines that it is for; 0 where that does not matter. Raises ValueError.
    """

    name: str
    soft_bytes: int
    hard_bytes: int
    system_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.soft_bytes <= self.hard_bytes:
            raise ValueError(
                f"the profile {self.name} has a soft budget of {to_mb(self.soft_bytes)} MB and a hard one of "
                f"{to_mb(self.hard_bytes)} MB; the soft one is more than nothing, and at most the hard one"
            )

    @classmethod
    def of(cls, soft: int | str, hard: int | str) -> Profile:
        """An app's own numbers: bytes, or "6GiB"."""
        return cls("own", _bytes(soft), _bytes(hard))


LOW: Final = Profile("low", 4 * GIB, 5 * GIB, 8 * GIB)
MID: Final = Profile("mid", 8 * GIB, 10 * GIB, 16 * GIB)
HIGH: Final = Profile("high", 20 * GIB, 24 * GIB, 32 * GIB)
PROFILES: Final = (LOW, MID, HIGH)


def profile_for(physical_bytes: int) -> Profile:
    """The largest that is for a machine of so much memory; `low` for anything less."""
    return max(
        (each for each in PROFILES if physical_bytes >= NEARLY * each.system_bytes),
        key=lambda each: each.system_bytes,
        default=LOW,
    )


def profile_for_this_system() -> Profile:
    """The one for the machine, or the container, that this runs in. Raises OSError where the system does not tell."""
    from admitd.memory import for_this_system

    return profile_for(for_this_system().physical())


def _bytes(amount: int | str) -> int:
    return parse_amount(amount) if isinstance(amount, str) else amount
