"""errors: what went wrong, as one sentence on stderr and an exit code. No stack trace ever reaches a user."""

from __future__ import annotations

import os
import sys
from typing import Final

from admit_cli.door import NoService, Strange
from admitd.actuator import CannotStart
from admitd.capacity import ConfigError, NotFound
from admitd.core import wire
from admitd.gate import Unknown
from admitd.places import UnsafePlace
from admitd.processes.table import CannotSee
from admitd.reservations import Busy, NotRecorded

_CODES: Final[tuple[tuple[type[Exception], int], ...]] = (
    (ConfigError, wire.BAD_CONFIG),
    (NotFound, wire.NO_SUCH),
    (NoService, wire.NO_SUCH),
    (Unknown, wire.NO_SUCH),
    (UnsafePlace, wire.BAD_CONFIG),
    (NotRecorded, wire.FAILED),
    (CannotSee, wire.FAILED),
    (CannotStart, wire.FAILED),
    (Busy, wire.TIMED_OUT),
    (Strange, wire.FAILED),
    (ValueError, wire.USAGE),
    (OSError, wire.FAILED),
)


def told(error: Exception) -> int:
    """Print what went wrong; the exit code. ADMIT_DEBUG=1 shows the stack trace as well."""
    if os.environ.get("ADMIT_DEBUG"):
        import traceback

        traceback.print_exception(error)
    for kind, code in _CODES:
        if isinstance(error, kind):
            print(f"admit: {error}", file=sys.stderr)
            return code
    print(
        f"admit: a fault in admit itself ({type(error).__name__}: {error}). Nothing was admitted. "
        "ADMIT_DEBUG=1 shows where; please report it.",
        file=sys.stderr,
    )
    return wire.FAILED
