"""checks: runs every loaded_check_cmd of one look, all at once, two seconds each; a late one goes with its children."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from admitd import actuator
from admitd.core.terms import Check, Command

BOUND_S: Final = 2.0
OUTPUT_KEPT: Final = 2000
_TICK_S: Final = 0.005


@dataclass(slots=True)
class _Running:
    service: str
    process: subprocess.Popen[bytes]
    late_at: float
    said: bytearray = field(default_factory=bytearray)


def run_all(commands: Mapping[str, Command], bound_s: float = BOUND_S) -> dict[str, Check]:
    """Exit 0 within the bound means loaded. What could not be started is None: neither yes nor no."""
    results: dict[str, Check] = {}
    running: dict[int, _Running] = {}
    with selectors.DefaultSelector() as selector:
        for service, command in commands.items():
            started = _start(service, command, bound_s)
            if isinstance(started, Check):
                results[service] = started
                continue
            pipe = started.process.stdout
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, started)
            running[started.process.pid] = started
        while running:
            for key, _ in selector.select(_TICK_S):
                if not _drain(key.data):
                    selector.unregister(key.fileobj)
            for pid, each in list(running.items()):
                check = _ended(each)
                if check is not None:
                    results[each.service] = check
                    _close(each, selector)
                    del running[pid]
    return results


def _start(service: str, command: Command, bound_s: float) -> _Running | Check:
    try:
        process = actuator.start_helper(command, subprocess.PIPE)
    except actuator.CannotStart as problem:
        return Check(service, None, str(problem))
    return _Running(service, process, time.monotonic() + bound_s)


def _drain(each: _Running) -> bool:
    """Read what it said; False at the end of its output. What is beyond OUTPUT_KEPT is read and dropped."""
    pipe = each.process.stdout
    if pipe is None or pipe.closed:
        return False
    try:
        said = os.read(pipe.fileno(), 65_536)
    except BlockingIOError:
        return True
    except OSError:
        return False
    each.said += said[: OUTPUT_KEPT - len(each.said)]
    return bool(said)


def _close(each: _Running, selector: selectors.BaseSelector) -> None:
    if each.process.stdout is not None:
        with contextlib.suppress(KeyError):
            selector.unregister(each.process.stdout)
        each.process.stdout.close()


def _ended(each: _Running) -> Check | None:
    code = each.process.poll()
    late = code is None and time.monotonic() > each.late_at
    if code is None and not late:
        return None
    if late:
        actuator.end_session(each.process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            each.process.wait(timeout=1.0)
    _drain(each)
    said = each.said.decode("utf-8", "replace").strip()
    if late:
        return Check(each.service, False, f"no answer in {BOUND_S:g} s, ended" + (f": {said}" if said else ""))
    if code in (126, 127):  # what a shell ends with when it can't run the command (POSIX, 2.8.2)
        return Check(each.service, None, f"exit {code}" + (f": {said}" if said else ""))
    return Check(each.service, code == 0, actuator.exit_text(code or 0) + (f": {said}" if said else ""))
