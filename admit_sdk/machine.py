"""machine: what the whole machine has left for an app that is about to grow, and which app holds the most of it."""

from __future__ import annotations

import os

from admitd.core.terms import RAM
from admitd.memory import Memory, for_this_system

_memory: Memory | None = None


def available() -> int | None:
    """Bytes that the system could still give; None where it does not say."""
    global _memory  # noqa: PLW0603  # one reader for all pools: it keeps what it has opened
    if _memory is None:
        _memory = for_this_system()
    found = _memory.reading().available
    return None if found is None else found.get(RAM)


def largest_app() -> tuple[str, int] | None:
    """Of the other apps on admit_sdk, the one that holds the most: its name, and bytes; None where none runs."""
    from admit_sdk import statefile

    others = [each for each in statefile.read(statefile.default_path(os.environ)) if each.process.pid != os.getpid()]
    largest = max(others, key=lambda each: each.held.get(RAM, 0), default=None)
    return None if largest is None else (largest.name, largest.held.get(RAM, 0))
