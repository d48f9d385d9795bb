"""errors: what went wrong, as one sentence on stderr and an exit code. No stack trace ever reaches a user."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from admit_cli.door import BadSetting, NoAnswer, NoService, Strange
from admit_cli.tell import tell
from admit_sdk.cache.errors import CacheError, CacheUnusable, NotCached
from admitd.actuator import CannotStart
from admitd.capacity import ConfigError, NotFound
from admitd.core import wire
from admitd.gate import Unknown
from admitd.installing.wanted import KeeperFailed, NoSupervisor, NotInstalled
from admitd.places import UnsafePlace
from admitd.problem import ByHand, Taken
from admitd.processes.table import CannotSee
from admitd.reservations import Busy, NotRecorded

INTERRUPTED: Final = 130
_CODES: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (ConfigError, wire.BAD_CONFIG, "The configuration is wrong"),
    (UnsafePlace, wire.BAD_CONFIG, "A private place cannot be used"),
    (NotFound, wire.NO_SUCH, "No such file"),
    (NoService, wire.NO_SUCH, "No such service"),
    (Unknown, wire.NO_SUCH, "No such service"),
    (BadSetting, wire.USAGE, "Wrong usage"),
    (Busy, wire.TIMED_OUT, "No decision could be made in time"),
    (NoAnswer, wire.TIMED_OUT, "The daemon does not answer"),
    (Strange, wire.FAILED, "The daemon could not do it"),
    (NotRecorded, wire.FAILED, "The reservations cannot be used"),
    (CannotSee, wire.FAILED, "The machine cannot be seen"),
    (ByHand, wire.FAILED, "A person has to write it"),
    (Taken, wire.FAILED, "There is a file already"),
    (CannotStart, wire.FAILED, "The command could not be started"),
    (NotInstalled, wire.NO_SUCH, "The daemon is not installed as a service"),
    (NoSupervisor, wire.FAILED, "There is no supervisor"),
    (KeeperFailed, wire.FAILED, "The supervisor would not do it"),
    (NotCached, wire.NO_SUCH, "No such file"),
    (CacheUnusable, wire.BAD_CONFIG, "The model cache cannot be used"),
    (CacheError, wire.FAILED, "The model cache could not do it"),
    (OSError, wire.FAILED, "The system would not do it"),
)


def told(error: Exception, *, as_json: bool = False) -> int:
    """Say what went wrong; the exit code. ADMIT_DEBUG=1 shows the stack trace as well."""
    if os.environ.get("ADMIT_DEBUG"):
        import traceback

        tell("".join(traceback.format_exception(error)), end="")
    for kind, code, title in _CODES:
        if isinstance(error, kind):
            return _told(code, title, sentence(error), error, as_json)
    detail = f"{type(error).__name__}: {error}"
    tell(
        f"admit: a fault in admit itself ({detail}). What it had reserved ends with it. ADMIT_DEBUG=1 shows where; "
        "please report it."
    )
    if as_json:
        _print(wire.FAILED, "A fault in admit itself", detail)
    return wire.FAILED


def interrupted(detail: str = "interrupted", *, as_json: bool = False) -> int:
    """Say that Ctrl-C or SIGTERM ended the command, and what that leaves; the exit code."""
    tell(f"{_over_the_echo()}admit: {detail}")
    if as_json:
        _print(INTERRUPTED, "Interrupted", detail)
    return INTERRUPTED


def sentence(error: Exception) -> str:
    """What went wrong, fit for users."""
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _told(code: int, title: str, detail: str, error: Exception, as_json: bool) -> int:
    tell(f"admit: {detail}")
    if as_json:
        more: dict[str, Any] = {}
        if isinstance(error, ConfigError):
            more["problems"] = [
                {"file": p.file, "path": p.path, "line": p.line, "what": p.what, "instead": p.instead}
                for p in error.problems
            ]
        _print(code, title, detail, **more)
    return code


def _print(code: int, title: str, detail: str, **more: Any) -> None:
    from admit_cli.render import print_json

    print_json({"title": title, "detail": detail, "exit_code": code, **more})


def _over_the_echo() -> str:
    """Where a terminal shows ^C, the sentence takes its place."""
    if not sys.stderr.isatty():
        return ""
    return "\n" if os.environ.get("TERM") == "dumb" else "\r\x1b[2K"
