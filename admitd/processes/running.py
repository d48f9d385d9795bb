"""running: runs `ps`, one at a time and no longer than a bound, and keeps no more of a line than is looked at.

It never waits for a ps that hangs in the kernel: that would take this process along. Nor does it start another beside
it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import threading
import time
from typing import IO, Final

from admitd.processes.naming import LOOKED_AT
from admitd.processes.table import CannotSee

PS: Final = "/bin/ps"
BOUND_S: Final = 2.0
ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
_LINE_MAX: Final = LOOKED_AT + 256
_COMPLAINT_MAX: Final = 2000
_KILLED_WITHIN_S: Final = 0.05


class Ps:
    """One way to run ps. `program` is an absolute path."""

    def __init__(self, program: str = PS, bound_s: float = BOUND_S) -> None:
        self._program = program
        self._bound_s = bound_s
        self._late: subprocess.Popen[bytes] | None = None
        self._one_at_a_time = threading.Lock()

    def run(self, arguments: tuple[str, ...]) -> bytes:
        """What ps prints; nothing where none of the processes asked for is there.

        Raises CannotSee where it cannot be run, fails, or takes longer than the bound.
        """
        with self._one_at_a_time:
            give_up = time.monotonic() + self._bound_s
            self._end_of_the_late(give_up)
            process = self._start(arguments)
            printed, complaint = _Lines(_LINE_MAX), _Lines(_COMPLAINT_MAX)
            in_time = False
            try:
                in_time = _read(process, printed, complaint, give_up)
            finally:
                if not in_time:
                    self._leave(process)
            if not in_time:
                raise CannotSee(f"{self._program} gave no answer in {self._bound_s:g} s")
        said = complaint.text.decode("utf-8", "replace").strip()[:200]
        # 1 is also what it ends with where no process was selected.
        if process.returncode not in (0, 1) or (process.returncode == 1 and (printed.text or said)):
            raise CannotSee(f"{self._program} ended with {process.returncode}: {said or 'it does not say why'}")
        return bytes(printed.text)

    def _start(self, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                (self._program, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
            )
        except OSError as problem:
            raise CannotSee(f"{self._program} cannot be run: {problem.strerror}") from problem

    def _leave(self, process: subprocess.Popen[bytes]) -> None:
        """Kill it, and remember it where that does not end it at once."""
        with contextlib.suppress(PermissionError):
            process.kill()
        for pipe in _pipes(process):
            pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_WITHIN_S)
        if process.returncode is None:
            self._late = process

    def _end_of_the_late(self, give_up: float) -> None:
        if self._late is not None:
            try:
                self._late.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise CannotSee(f"an earlier {self._program} hangs and cannot be killed") from None
            self._late = None


class _Lines:
    """Output as it comes in, each line of it cut."""

    def __init__(self, line_max: int) -> None:
        self.text = bytearray()
        self._line_max = line_max
        self._room = line_max

    def take(self, chunk: bytes) -> None:
        for number, piece in enumerate(chunk.split(b"\n")):
            if number:
                self.text += b"\n"
                self._room = self._line_max
            self.text += piece[: self._room]
            self._room -= min(len(piece), self._room)


def _pipes(process: subprocess.Popen[bytes]) -> list[IO[bytes]]:
    return [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]


def _read(process: subprocess.Popen[bytes], printed: _Lines, complaint: _Lines, give_up: float) -> bool:
    """Read until it has ended; False where it has not by `give_up`."""
    with selectors.DefaultSelector() as selector:
        for pipe, lines in zip(_pipes(process), (printed, complaint), strict=True):
            selector.register(pipe, selectors.EVENT_READ, lines)
        while selector.get_map():
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 65_536)
                if chunk:
                    key.data.take(chunk)
                else:
                    selector.unregister(key.fileobj)
    try:
        process.wait(max(0.0, give_up - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    for pipe in _pipes(process):
        pipe.close()
    return True
