"""statefile: runtime-state.json: which apps of this user govern their memory at this moment, and with what budget.

Written under a lock, whole and by renaming, so that reading needs none. It is never believed further than the system
bears it out: an entry counts while the process that it names lives, by pid, start and boot. A file that is damaged is
the same as none, and the next one who writes mends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from admitd import places
from admitd.boot import boot_id
from admitd.core.governing import App
from admitd.core.terms import NAME, RAM, ProcessId
from admitd.core.units import from_mb, to_mb
from admitd.machinelock import NotRecorded, take
from admitd.processes.glimpse import glimpse

LOCK_WAIT_S: Final = 1.0
"""Whoever writes holds the lock for a millisecond; whoever holds it longer is stuck, and is not waited for."""
_NUMBERS: Final = ("pid", "started", "budget_mb", "held_mb")
_LARGEST: Final = 1 << 20
_MOST_MB: Final = 1 << 40
_PID_MAX: Final = 0x7FFF_FFFF


class NotWritten(Exception):
    """The file could not be written; the text says why."""


def default_path(environ: Mapping[str, str]) -> Path:
    """In the user's own folder, beside the daemon's socket."""
    return Path(places.user_folder(environ), "runtime-state.json")


def read(path: Path) -> tuple[App, ...]:
    """The apps that run now; none where there is no file, or nothing in it that can be used. Takes no lock."""
    return tuple(app for app in _entries(path) if glimpse(app.process) is not None)


def write(path: Path, app: App) -> tuple[App, ...]:
    """Enter `app`, or what is new of it; returns all that run now. Raises NotWritten."""
    return _rewrite(path, lambda running: [*_others(running, app), app])


def remove(path: Path, app: App) -> None:
    """Take an app out. Raises NotWritten."""
    _rewrite(path, lambda running: _others(running, app))


def _others(running: Iterable[App], app: App) -> list[App]:
    """All but this one; one process may hold several, by different names."""
    return [each for each in running if (each.process, each.name) != (app.process, app.name)]


def _rewrite(path: Path, change: Callable[[list[App]], list[App]]) -> tuple[App, ...]:
    try:
        places.make_private(str(path.parent))
        with _locked(path.with_suffix(".lock")):
            apps = change(list(read(path)))
            _replace(path, apps)
            return tuple(apps)
    except (places.UnsafePlace, NotRecorded) as problem:
        raise NotWritten(str(problem)) from problem
    except OSError as problem:
        raise NotWritten(f"{path} cannot be written: {problem.strerror or problem}") from problem


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        held = f"{path} is held by another process; see: lsof {path}"
        take(fd, time.monotonic() + LOCK_WAIT_S, lambda: NotWritten(held))
        yield
    finally:
        os.close(fd)


def _replace(path: Path, apps: Iterable[App]) -> None:
    making = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    body = {"version": 1, "boot": boot_id(), "apps": [_as_json(app) for app in apps]}
    try:
        with open(making, "x", encoding="utf-8", opener=_for_me_alone) as file:
            json.dump(body, file, indent=1)
        os.replace(making, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(making)
        raise


def _for_me_alone(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _as_json(app: App) -> dict[str, object]:
    return {
        "pid": app.process.pid,
        "started": app.process.started,
        "name": app.name,
        "budget_mb": to_mb(app.budget.get(RAM, 0)),
        "held_mb": to_mb(app.held.get(RAM, 0)),
    }


def _entries(path: Path) -> Iterator[App]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            body = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return
    # Start times are told from the boot on: an entry of another boot may name a process of this one.
    if not isinstance(body, dict) or body.get("boot") != boot_id() or not isinstance(body.get("apps"), list):
        return
    for entry in body["apps"]:
        app = _app(entry)
        if app is not None:
            yield app


def _app(entry: Any) -> App | None:
    if not isinstance(entry, dict):
        return None
    name = entry.get("name")
    numbers = [number for key in _NUMBERS if type(number := entry.get(key)) is int]
    if not isinstance(name, str) or not NAME.match(name) or len(numbers) != len(_NUMBERS):
        return None
    pid, started, budget_mb, held_mb = numbers
    if not (0 < pid <= _PID_MAX and 0 <= budget_mb < _MOST_MB and 0 <= held_mb < _MOST_MB):
        return None
    return App(ProcessId(pid, started), name, {RAM: from_mb(budget_mb)}, {RAM: from_mb(held_mb)})
