"""capacity_files: small capacity files to be right or wrong in, and what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest

from admitd import capacity
from admitd.capacity import ConfigError
from admitd.core.terms import Capacity

GIB = 1 << 30

HOSTS = "hosts:\n  box: {ram_physical_mb: 16384, ram_reserved_mb: 4096, ram_safety_mb: 2048}\n"
TWO = "hosts:\n  Attic: {ram_physical_mb: 8192, ram_reserved_mb: 1, ram_safety_mb: 1}\n" + HOSTS.removeprefix(
    "hosts:\n"
)


class Write(Protocol):
    """Writes a file that only its owner may write to."""

    def __call__(self, text: str, name: str = "capacity.yaml") -> Path: ...


def writer(folder: Path) -> Write:
    def write(text: str, name: str = "capacity.yaml") -> Path:
        path = folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return path

    return write


def load(path: Path, hostname: str = "elsewhere.local", physical: int = 64 * GIB) -> Capacity:
    return capacity.load(path, detect_physical=lambda: physical, names=lambda: [hostname])


def service(**keys: Any) -> str:
    """One service called x, in a file with a pool of 10,240 MB."""
    keys = {"ram_budget_mb": 100, "process_pattern": "server-x", **keys}
    lines = "".join(f"    {key}: {value}\n" for key, value in keys.items() if value is not ...)
    return f"{HOSTS}services:\n  x:\n{lines}"


def complaints(path: Path, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, **options)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]
