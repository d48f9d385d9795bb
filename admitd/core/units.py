"""units: the only place where amounts change their spelling; inside the code an amount is an int of bytes."""

from __future__ import annotations

import re
from typing import Final

MIB: Final = 1 << 20

_FACTORS: Final = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "kb": 1 << 10,
    "m": MIB,
    "mib": MIB,
    "mb": MIB,
    "g": 1 << 30,
    "gib": 1 << 30,
    "gb": 1 << 30,
    "t": 1 << 40,
    "tib": 1 << 40,
    "tb": 1 << 40,
}
_AMOUNT: Final = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([a-zA-Z]{0,3})\s*\Z")
_DURATION: Final = re.compile(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|min|h|)\s*\Z")
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def from_mb(megabytes: int) -> int:
    """Bytes of `megabytes`, where MB means MiB at every edge of this program."""
    return megabytes * MIB


def to_mb(amount: int) -> int:
    """Whole MiB of `amount` bytes, rounded up, so that no charge is ever shown too small."""
    return -(-amount // MIB)


def free_to_mb(amount: int) -> int:
    """Whole MiB of `amount` bytes, rounded down, so that no room is ever shown too large."""
    return amount // MIB


def parse_amount(text: str) -> int:
    """Bytes of "40 GiB", "45000MB" or "512"; powers of 1024 whatever the spelling. ValueError if it is not one."""
    found = _AMOUNT.match(text)
    if found is None or found[2].lower() not in _FACTORS:
        raise ValueError(f"{text!r} is not an amount of memory; write for example 40GiB")
    return int(float(found[1]) * _FACTORS[found[2].lower()])


def show_amount(amount: int) -> str:
    """An amount for people, to a tenth of its unit: "512 B", "3.5 KiB", "20.0 GiB"."""
    size, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{amount} B" if unit == "B" else f"{size:.1f} {unit}"


def write_amount(amount: int) -> str:
    """A short spelling that `parse_amount` reads back as no less: 5 GiB and a byte -> "6GiB", 300 KiB -> "1MiB"."""
    unit, size = ("GiB", 1 << 30) if amount > MIB << 9 else ("MiB", MIB)
    return f"{-(-amount // size)}{unit}"


def parse_duration(text: str) -> float:
    """Seconds of "10m", "90", "1.5h" or "250ms". ValueError if it is not a duration."""
    found = _DURATION.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration; write for example 90s, 10m or 1h")
    return float(found[1]) * _SECONDS[found[2]]


def show_duration(seconds: float) -> str:
    """The shortest spelling that `parse_duration` reads back: 90 -> "90s", 600 -> "10m"."""
    whole = round(seconds)
    if whole and whole % 3600 == 0:
        return f"{whole // 3600}h"
    if whole and whole % 60 == 0:
        return f"{whole // 60}m"
    return f"{whole}s"
