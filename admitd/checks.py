"""checks: runs every loaded_check_cmd of one look, all at once, two seconds each; a late one goes with its children."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from admitd import actuator
from admitd.core.terms import Capacity, Check, Command

BOUND_S: Final = 2.0
REAP_S: Final = 0.5
"""How long an ended check is waited for; one that hangs in the kernel is left to end by itself."""
OUTPUT_KEPT: Final = 2000
_TICK_S: Final = 0.005
_NOT_FOUND: Final = re.compile(r"^/bin/sh: (?:.*: )?(?:command not found|not found|Permission denied)$", re.MULTILINE)
"""What dash, and bash as sh, say of a command that they cannot run; in a pipeline no exit code tells it."""
_NO_SUCH: Final = re.compile(r"^/bin/sh: (?:line \d+: )?[^:]*/[^:]*: No such file or directory$", re.MULTILINE)
"""What bash as sh (macOS) says of a program by its path that is not there, and of a file that is to be redirected."""
_READS_FILES: Final = re.compile(r"<(?!&)|>(?!&|>?\s*/dev/null\b)|(?:^|[;&|(])\s*(?:\.|source)\s", re.MULTILINE)
"""What in a command may be meant by that just as well: redirections, and files that are sourced."""

_changed: Final = threading.Condition()
_under_way: Final[list[object]] = []
_stopped: Final = threading.Event()


class Stopped(Exception):
    """This process is about to end: no check runs any more."""


def stop(within_s: float = BOUND_S) -> None:
    """End the checks that run in other threads, for good, and wait until they have ended: they have sessions of their
    own, and would outlive a process that merely ends."""
    _stopped.set()
    with _changed:
        _changed.wait_for(lambda: not _under_way, within_s)


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    mine = object()
    with _changed:
        _under_way.append(mine)
    try:
        yield
    finally:
        with _changed:
            _under_way.remove(mine)
            _changed.notify_all()


@dataclass(slots=True)
class _Running:
    service: str
    command: Command
    process: subprocess.Popen[bytes]
    late_at: float
    ended_at: float | None = None
    said: bytearray = field(default_factory=bytearray)


def run_all(commands: Mapping[str, Command], bound_s: float = BOUND_S) -> dict[str, Check]:
    """Exit 0 within the bound means loaded. What could not be started is None: neither yes nor no. Raises Stopped."""
    results: dict[str, Check] = {}
    running: list[_Running] = []
    with _counted(), selectors.DefaultSelector() as selector:
        try:
            for service, command in commands.items():
                _go_on()
                started = _start(service, command, bound_s, selector)
                if isinstance(started, Check):
                    results[service] = started
                else:
                    running.append(started)
            while running:
                _go_on()
                for key, _ in selector.select(_TICK_S):
                    if not _drain(key.data):
                        selector.unregister(key.fileobj)
                for each in list(running):
                    check = _ended(each, bound_s)
                    if check is not None:
                        results[each.service] = check
                        running.remove(each)
                        _close(each, selector)
        finally:
            for each in running:  # interrupted, or stopped: nothing is left behind
                actuator.end_session(each.process.pid)
                _close(each, selector)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    each.process.wait(timeout=REAP_S)
    return {service: results[service] for service in commands}


def _go_on() -> None:
    if _stopped.is_set():
        raise Stopped


def _start(service: str, command: Command, bound_s: float, selector: selectors.BaseSelector) -> _Running | Check:
    try:
        process = actuator.start_helper(command, subprocess.PIPE)
    except actuator.CannotStart as problem:
        return Check(service, None, str(problem))
    started = _Running(service, command, process, time.monotonic() + bound_s)
    if process.stdout is not None:
        os.set_blocking(process.stdout.fileno(), False)
        selector.register(process.stdout, selectors.EVENT_READ, started)
    return started


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


def _ended(each: _Running, bound_s: float) -> Check | None:
    """What it says, once it has ended. A late one is killed, and waited for while the others go on."""
    now = time.monotonic()
    code = each.process.poll()
    if code is None and each.ended_at is None and now > each.late_at:
        actuator.end_session(each.process.pid)
        each.ended_at = now
    if code is None and (each.ended_at is None or now < each.ended_at + REAP_S):
        return None
    _drain(each)
    said = each.said.decode("utf-8", "replace").strip()
    if each.ended_at is not None:
        return Check(each.service, False, f"no answer in {bound_s:g} s, ended" + (f": {said}" if said else ""))
    detail = actuator.exit_text(code or 0) + (f": {said}" if said else "")
    # 126 and 127: what a shell ends with when it can't run the command (POSIX, 2.8.2)
    if code in (126, 127) or (code != 0 and _says_not_run(said, each.command)):
        return Check(each.service, None, detail)
    return Check(each.service, code == 0, detail)


def _says_not_run(said: str, command: Command) -> bool:
    if _NOT_FOUND.search(said):
        return True
    text = command if isinstance(command, str) else "\n".join(command)
    return _NO_SUCH.search(said) is not None and not _READS_FILES.search(text)


@dataclass(slots=True)
class _Run:
    commands: Mapping[str, Command]
    ended: threading.Event = field(default_factory=threading.Event)
    found: dict[str, Check] | None = None


class Together:
    """One run for all who ask at once, each answered from a run that began after he asked: who comes while one is under
    way shares the next. No check runs twice at a time for them, and nobody waits for more than two runs."""

    def __init__(self) -> None:
        self._boarding: _Run | None = None
        self._changing = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def run(self, commands: Mapping[str, Command], bound_s: float = BOUND_S) -> dict[str, Check]:
        """As `run_all`."""
        while True:
            mine = _Run(commands)
            try:
                with self._changing:
                    shared = self._boarding
                    if shared is None or shared.commands != commands or shared.ended.is_set():
                        self._boarding = shared = mine
                if shared is mine:
                    return self._lead(mine, bound_s)
            finally:  # interrupted: nobody may wait for it
                mine.ended.set()
            shared.ended.wait()
            if shared.found is not None:
                return shared.found

    def _lead(self, mine: _Run, bound_s: float) -> dict[str, Check]:
        with self._one_at_a_time:
            with self._changing:
                if self._boarding is mine:
                    self._boarding = None
            mine.found = run_all(mine.commands, bound_s)
        return mine.found


class Lately:
    """What the checks said, for who looks all the time: they are commands, and are run once a probe_interval_s."""

    def __init__(self) -> None:
        self._known: tuple[Capacity, float, Mapping[str, Check]] | None = None

    def of(self, capacity: Capacity, now: float) -> Mapping[str, Check]:
        """As of the last time that they ran; never older than the interval, or than the file in force."""
        if not capacity.check_commands:
            return {}
        known = self._known
        if known is None or known[0] is not capacity or now - known[1] >= capacity.sentinel.probe_interval_s:
            known = self._known = (capacity, now, run_all(capacity.check_commands))
        return known[2]
