"""actuator: the only file that starts services' commands and sends signals. It acts; it decides nothing.

Before each signal the process is looked at again: same start, and still the service itself. What only mentions a
service is never signalled, nor is anyone whose pid was reused meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from admitd.core.terms import Command, Process, ProcessId
from admitd.processes.matching import HELPER_TAIL, SHELL, Matcher, Role
from admitd.processes.ps import NotTold, identify
from admitd.processes.table import ProcessTable

LOG_MAX: Final = 10 * 1024 * 1024
LOG_KEPT: Final = 2
_LOOK_EVERY_S: Final = 0.1


class CannotStart(Exception):
    """A command could not be started; the text says why and is fit for users."""


def argv(command: Command) -> list[str]:
    """What runs a command of capacity.yaml: a string goes through /bin/sh, a list runs as it is."""
    return [SHELL, "-c", command] if isinstance(command, str) else list(command)


def start_helper(command: Command, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a check or unload command in a session of its own, so that it can be ended with its children."""
    line = argv(command + HELPER_TAIL if isinstance(command, str) else command)
    return _start(line, output)


def start_load(command: Command, log: Path, lease: int | None) -> subprocess.Popen[bytes]:
    """Start a load command in a session of its own, its output appended to `log`, which is rotated first.

    Environment and working folder are the caller's. `lease` keeps the reservation standing while what was started
    lives, whatever becomes of the caller.
    """
    try:
        rotate(log)
        output = log.open("ab")
    except OSError as problem:
        raise CannotStart(f"its log {log} cannot be written: {problem.strerror}") from problem
    with output:
        return _start(argv(command), output, () if lease is None else (lease,))


def start_foreground(command: Sequence[str], output: IO[str] | None) -> subprocess.Popen[bytes]:
    """Start a command as a shell would: in our own group, so that Ctrl-C is for it, too; its input is ours. `output`
    takes its output where ours is spoken for."""
    try:
        return subprocess.Popen(list(command), stdout=output)
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise CannotStart(f"{command[0]} cannot be run: {why}") from problem


def start_apart(command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, all that it prints in `output`: it goes on when we end."""
    return _start(list(command), output)


def end_child(process: subprocess.Popen[bytes], family: Iterable[ProcessId], patience_s: float) -> None:
    """End a child of ours and what it started, its `family`: SIGTERM, and SIGKILL to who is still there in the end."""
    give_up_at = time.monotonic() + patience_s
    with contextlib.ExitStack() as held:
        others = [held.enter_context(_Aim(each.pid, each)) for each in family if each.pid != process.pid]
        for other in others:
            other.signal(signal.SIGTERM)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
        for other in others:
            other.wait(give_up_at)
            other.signal(signal.SIGKILL)
        process.kill()
        process.wait()


class _Aim:
    """One process that is to be signalled, and no other: a pidfd holds it; where there are none, it is looked at again
    before each signal. `expected`: who it is to be; by default, who has the pid now."""

    def __init__(self, pid: int, expected: ProcessId | None = None) -> None:
        self._fd = _pidfd(pid)
        found = _identify(pid)
        self._id = found if expected in (None, found) else None

    def __enter__(self) -> _Aim:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def signal(self, sig: signal.Signals) -> bool:
        """Signal it; whether it was there, and ours to signal."""
        if self._id is None:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._fd is not None:
                signal.pidfd_send_signal(self._fd, sig)
                return True
            if _identify(self._id.pid) == self._id:
                os.kill(self._id.pid, sig)
                return True
        return False

    def wait(self, until_s: float) -> None:
        """Wait until it has ended, or the monotonic clock says `until_s`."""
        if self._id is None:
            return
        if self._fd is not None:
            ends = select.poll()  # select knows no descriptor above 1,023
            ends.register(self._fd, select.POLLIN)
            ends.poll(max(0.0, until_s - time.monotonic()) * 1000)
            return
        while _identify(self._id.pid) == self._id and time.monotonic() < until_s:
            time.sleep(_LOOK_EVERY_S)


def _identify(pid: int) -> ProcessId | None:
    try:
        return identify(pid)
    except NotTold:
        return None


def become(command: Sequence[str]) -> None:
    """Become `command`: same pid, same environment. Returns only by raising CannotStart."""
    # Python ignores these two, and what is ignored stays so across exec: `CMD | head` would never end.
    ignored = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        os.execvp(command[0], list(command))  # noqa: S606
    except (OSError, ValueError) as problem:
        for number, before in ignored.items():
            signal.signal(number, before)
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise CannotStart(f"{command[0]} cannot be run: {why}") from problem


def _start(line: list[str], output: int | IO[bytes], keep: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=keep,
        )
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise CannotStart(f"{line[0]} cannot be run: {why}") from problem


def answer(command: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Run a command of the system's to its end: its exit code, and what it printed. Raises CannotStart, also where it
    does not end in time."""
    process = start_helper(tuple(command), subprocess.PIPE)
    try:
        printed, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        end_session(process.pid)
        process.communicate()
        raise CannotStart(f"{command[0]} {command[1]} did not end in {timeout_s:g} s") from None
    return process.returncode, printed.decode("utf-8", "replace")


def run_bounded(
    command: Command, timeout_s: float, said: bytes = b"", environ: Mapping[str, str] | None = None
) -> str | None:
    """Run a command to its end, with `said` on stdin; None where it went well, else why not.

    Neither the command nor its output is in the answer: both may hold secrets.
    """
    with tempfile.TemporaryFile() as document:
        document.write(said)
        document.seek(0)
        line = argv(command + HELPER_TAIL if isinstance(command, str) else command)
        try:
            process = subprocess.Popen(
                line,
                stdin=document,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=None if environ is None else dict(environ),
            )
        except OSError as problem:
            return f"it cannot be run: {problem.strerror}"
    try:
        code = process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        end_session(process.pid)
        process.wait()
        return f"it did not end in {timeout_s:g} s"
    return None if code == 0 else f"it ended with {exit_text(code)}"


def end_session(leader: int) -> None:
    """End what `start_helper` started, children and all. Its leader must not have been waited for yet: then no other
    process can have its pid."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    _signal_session(leader, signal.SIGKILL)


def ask_session(leader: int, patience_s: float) -> tuple[int, ...]:
    """SIGTERM to all of a session that was started here, and `patience_s` to go; who is still there then. Its leader
    must not have been waited for yet."""
    give_up_at = time.monotonic() + patience_s
    # A stopped process gets no other signal until it is continued.
    for sig in (signal.SIGTERM, signal.SIGCONT):
        if not _signal_session(leader, sig):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(leader, sig)
    while (left := _living(leader)) and time.monotonic() < give_up_at:
        time.sleep(_LOOK_EVERY_S)
    return left


def _signal_session(leader: int, sig: signal.Signals) -> int:
    """How many of a session were reached: a shell with job control gives each of its jobs a group of its own."""
    reached = 0
    for pid in _pids():
        if _is_of(pid, leader):
            with _Aim(pid) as aim:
                reached += _is_of(pid, leader) and aim.signal(sig)
    return reached


def _living(leader: int) -> tuple[int, ...]:
    """Who lives of a session; where the system lists nobody, its leader alone."""
    return tuple(pid for pid in _pids() or [leader] if _is_of(pid, leader) and _identify(pid) is not None)


def _is_of(pid: int, leader: int) -> bool:
    try:
        return os.getsid(pid) == leader
    except (ProcessLookupError, PermissionError):
        return False


def _pids() -> list[int]:
    if sys.platform == "darwin":
        from admitd.processes import darwin

        return darwin.pids(darwin.load())
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def send(process: Process, service: str, sig: signal.Signals, table: ProcessTable, matcher: Matcher) -> str | None:
    """Signal one process of a service, after a second look; None when it was sent, else why not.

    On Linux through a pidfd, opened before the second look: the signal can reach no other process.
    """
    pid = process.id.pid
    if pid <= 1 or pid in (os.getpid(), os.getppid()):
        return f"process {pid} is never signalled"
    fd = _pidfd(pid)
    try:
        judgement = table.again(process, matcher)
        if judgement is None:
            still_there = table.identify(pid) == process.id
            return f"process {pid} is no longer {service}" if still_there else f"process {pid} is gone"
        if judgement.role is not Role.FOREIGN:
            return f"process {pid} is {judgement.role.value} now, and not {service}"
        if not any(c.service == service and not c.mention and not c.other_program for c in judgement.claims):
            return f"process {pid} is no longer {service}"
        if fd is None:
            os.kill(pid, sig)
        else:
            signal.pidfd_send_signal(fd, sig)
    except ProcessLookupError:
        return f"process {pid} is gone"
    except PermissionError:
        return f"process {pid} belongs to another user (uid {process.uid}): it cannot be signalled"
    finally:
        if fd is not None:
            os.close(fd)
    return None


def interrupt_own_main_thread() -> None:
    """As Ctrl-C does, to this process alone: its main thread is woken from whatever it waits for, and unwinds. Where
    that is ignored, as shells have it for what they start in the background, SIGTERM."""
    main = threading.main_thread().ident
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        terminate_this_process()
    elif main is not None:
        signal.pthread_kill(main, signal.SIGINT)


def terminate_this_process() -> None:
    """SIGTERM, as `kill` sends it: at once the end, unless the app has a handler of its own."""
    os.kill(os.getpid(), signal.SIGTERM)


def _pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def rotate(log: Path) -> None:
    """Keep a log under LOG_MAX: NAME.log becomes NAME.log.1 and so on, LOG_KEPT of them."""
    try:
        if log.stat().st_size < LOG_MAX:
            return
    except FileNotFoundError:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return
    _push(log, log)


def rotate_in_use(log: Path) -> None:
    """The same for a log that somebody writes to: what it ends with is copied, and it begins anew. Its writer holds it
    open for appending, so that he goes on at its beginning. A line that comes in between is lost. Raises OSError."""
    try:
        if log.stat().st_size < LOG_MAX:
            return
    except FileNotFoundError:
        return
    with log.open("r+b") as grown:
        grown.seek(-LOG_MAX, os.SEEK_END)
        copy = log.with_name(f"{log.name}.new")
        copy.write_bytes(grown.read(LOG_MAX))
        _push(log, copy)
        grown.truncate(0)


def _push(log: Path, newest: Path) -> None:
    """`newest` becomes NAME.log.1, and each older one moves on by one."""
    for number in range(LOG_KEPT, 0, -1):
        newer = log.with_name(f"{log.name}.{number - 1}") if number > 1 else newest
        with contextlib.suppress(FileNotFoundError):
            newer.replace(log.with_name(f"{log.name}.{number}"))


def exit_text(returncode: int) -> str:
    """What a return code says: exit 3, or killed by SIGKILL."""
    if returncode >= 0:
        return f"exit {returncode}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-returncode).name}"
    return f"killed by signal {-returncode}"
