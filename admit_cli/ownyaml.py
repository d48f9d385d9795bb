"""ownyaml: the user's capacity.yaml, found and read by a command that needs nothing else of the application."""

from __future__ import annotations

import os
from pathlib import Path

from admitd import capacity, memory, places


def find(config: str | None) -> Path:
    """The file that commands go by. Raises capacity.NotFound."""
    return capacity.find(config, os.environ, Path(places.home(os.environ)))


def load(path: Path) -> capacity.Capacity:
    """Read it for this machine. Raises ConfigError."""
    return capacity.load(path, detect_physical=memory.for_this_system().physical)
