"""started: the processes that a test started, however deep they went: they carry a mark that all descendants
inherit."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import psutil

MARK = "STARTED_BY_TEST"


class Started:
    """What one test started. Whoever starts something elsewhere hands it `env`."""

    def __init__(self, env: dict[str, str], logs: Path) -> None:
        self._mark = uuid4().hex
        self.env = {**env, MARK: self._mark}
        self._logs = logs
        self._known: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def start(self, *command: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own; what it prints is in `log(process)`."""
        log = (self._logs / f"started-{len(self._known)}.log").open("w+b")
        process = subprocess.Popen(
            [str(part) for part in command],
            env=env or self.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._known.append((process, log))
        # At the end of Popen its exec goes on still, and for a moment it has no command line.
        wait_until(lambda: process.poll() is not None or Path(f"/proc/{process.pid}/cmdline").read_bytes())
        return process

    def log(self, process: subprocess.Popen[bytes]) -> str:
        """What a process from `start` has printed so far."""
        log = next(log for started, log in self._known if started is process)
        return Path(log.name).read_text(encoding="utf-8", errors="replace")

    def alive(self) -> list[psutil.Process]:
        """Those that live. Zombies do not."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            return bool(process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE)
        return False

    def end_all(self) -> None:
        """End them, children that are just being started included."""
        give_up = time.monotonic() + 10
        while (left := self.alive()) and time.monotonic() < give_up:
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=0.5)
        for process, log in self._known:
            process.wait(timeout=10)
            log.close()
        assert not left, f"would not end: {left}"


def wait_until(true: Callable[[], Any], within_s: float = 30) -> None:
    """Poll until `true` is; fails the test after `within_s`."""
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, f"not within {within_s} s"
        time.sleep(0.02)
