"""budgetfile: puts one budget into capacity.yaml: one number changes, and every other byte stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from admitd import changing
from admitd.changing import ByHand, Load

__all__ = ["KEY", "ByHand", "write"]

KEY: Final = "ram_budget_mb"


def write(path: Path, service: str, budget_mb: int, load: Load) -> int:
    """Make `budget_mb` the budget of `service`; the line it stands on. Raises ByHand, ConfigError, OSError."""
    put = changing.Put(("services", service, KEY), budget_mb, only_there=True)
    return changing.change(path, [put], load).lines[0]
