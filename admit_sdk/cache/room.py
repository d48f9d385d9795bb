"""room: which files of the cache go, and when: pure rules. Nothing is read or deleted here.

The order of going:
1. What is in use never goes: a file with a reference, one that a process has open or mapped, a running download.
2. What was used longest ago goes first; of two used at the same moment, the one whose hash comes first.
3. No more goes than is needed: as soon as it fits, the rest stays.
What broke off in the middle of a download goes by the same order as a complete file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from admit_sdk.cache.terms import CachedFile, Contents, Leftover

SHARE_OF_FREE: Final = 0.25
IDLE_S: Final = 30 * 86_400.0
SPARE_BYTES: Final = 1 << 30
"""What the cache leaves free on the disk, whatever its own maximum says: others write there too."""

Victim = CachedFile | Leftover


@dataclass(frozen=True, slots=True)
class Fits:
    """It fits once `victims` are gone, in this order."""

    victims: tuple[Victim, ...]


@dataclass(frozen=True, slots=True)
class NotNow:
    """It does not fit even without all that may go; it would once `short_bytes` more were free. `disk`: of the disk,
    and not of the cache's own maximum."""

    short_bytes: int
    disk: bool


@dataclass(frozen=True, slots=True)
class Never:
    """It is larger than the cache may ever be, with what has to be there beside it."""


def max_by_default(free_bytes: int, held_bytes: int) -> int:
    """A quarter of the disk that is free, what the cache itself holds counted as free: else it would shrink by being
    filled. Takes and gives bytes."""
    return int((max(0, free_bytes) + max(0, held_bytes)) * SHARE_OF_FREE)


def may_go(contents: Contents) -> list[Victim]:
    """What is not in use, in the order of going."""
    idle: list[Victim] = [file for file in contents.files if not file.in_use]
    idle += [each for each in contents.downloads if not each.runs]
    return sorted(idle, key=lambda each: (each.used_at, each.sha256))


def make_room(contents: Contents, total_bytes: int, write_bytes: int, beside_bytes: int = 0) -> Fits | NotNow | Never:
    """What has to go for one more file of `total_bytes`, of which `write_bytes` are still to be written.

    `contents` does not count that file itself. `beside_bytes`: other files without which it is of no use, a model's,
    there already or not. With 0 and 0: what has to go for the cache to keep within its bounds.
    """
    if total_bytes + beside_bytes > contents.max_bytes:
        return Never()
    over = contents.held_bytes + total_bytes - contents.max_bytes
    short = contents.unwritten_bytes + write_bytes - (contents.free_bytes - contents.spare_bytes)
    if not total_bytes and not contents.unwritten_bytes:
        short = 0  # a disk that others have filled is no reason to lose models: nobody is about to write
    missing = max(over, short)
    victims: list[Victim] = []
    for each in may_go(contents):
        if missing <= 0:
            break
        victims.append(each)
        missing -= each.size_bytes
    return Fits(tuple(victims)) if missing <= 0 else NotNow(missing, short > over)


def gone_idle(contents: Contents, now: float, idle_s: float = IDLE_S) -> tuple[Victim, ...]:
    """What nobody has used for longer than `idle_s`. A use that lies in the future, by a clock that was set back,
    counts as one of now."""
    return tuple(each for each in may_go(contents) if now - each.used_at > idle_s)


def collect(contents: Contents, now: float, idle_s: float = IDLE_S) -> tuple[Victim, ...]:
    """What goes without anyone asking for room: idle for too long, or beyond the bounds of the cache."""
    idle = gone_idle(contents, now, idle_s)
    keys = {(type(each), each.sha256) for each in idle}
    rest = Contents(
        tuple(each for each in contents.files if (CachedFile, each.sha256) not in keys),
        tuple(each for each in contents.downloads if (Leftover, each.sha256) not in keys),
        contents.max_bytes,
        contents.free_bytes + sum(each.size_bytes for each in idle),
        contents.spare_bytes,
    )
    found = make_room(rest, 0, 0)
    return idle + (found.victims if isinstance(found, Fits) else tuple(may_go(rest)))
