"""Starts real servers for a test, and ends every process that came of it: no more, and no less.

A test does not only start servers itself. It also runs `admit load`, which starts them in sessions of their own and
exits. So each test's processes carry a mark in their environment, which all of their descendants inherit, whatever
session or parent they end up with.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import psutil

GEAR = Path(__file__).parents[2] / "scripts" / "gear"
MARK = "STARTED_BY_TEST"  # `admit` and the quickstart take ADMIT_* for settings


class Servers:
    """The processes of one test. Whoever starts one elsewhere hands it `env`, and it is ended with the rest."""

    def __init__(self, env: dict[str, str], logs: Path) -> None:
        self._mark = uuid4().hex
        self.env = {**env, MARK: self._mark}
        self._logs = logs
        self._started: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start `command` as a user would by hand; what it prints is in `log(process)`."""
        log = (self._logs / f"server-{len(self._started)}.log").open("w+b")
        options = {"env": self.env, "start_new_session": True, "stdout": log, "stderr": subprocess.STDOUT, **options}
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, **options)
        self._started.append((process, log))
        return process

    def log(self, process: subprocess.Popen[bytes]) -> str:
        """What a process from `start` has printed so far, also for the message of an assert."""
        log = next(log for started, log in self._started if started is process)
        return Path(log.name).read_text(errors="replace")

    def answer(self, port: int, within_s: float = 60) -> str:
        """Wait until the model server on `port` completes one token; fails the test if it does not."""
        asked = subprocess.run(
            [sys.executable, GEAR / "ask.py", f"http://127.0.0.1:{port}", "--wait", str(within_s)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert asked.returncode == 0, asked.stderr
        return asked.stdout

    def alive(self) -> list[psutil.Process]:
        """Every live process of this test, however it was started; zombies do not count."""
        return [process for process in psutil.process_iter() if self._carries_mark(process)]

    def _carries_mark(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            return bool(process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE)
        return False

    def stop_all(self, patience_s: float = 10) -> None:
        """End them: SIGTERM, then SIGKILL for those that have not gone; a stopped process is continued to get it."""
        for act in (psutil.Process.terminate, psutil.Process.kill):
            for left in self._rounds(patience_s):
                for process in left:
                    with suppress(psutil.Error):
                        act(process)
                        process.resume()
        left = self.alive()
        for process, log in self._started:
            if not left:
                process.wait()
            log.close()
        assert not left, f"would not end: {left}"

    def _rounds(self, patience_s: float) -> Iterator[list[psutil.Process]]:
        """Look again until none is left: one may have been starting another while it was told to end."""
        give_up_at = time.monotonic() + patience_s
        while (left := self.alive()) and time.monotonic() < give_up_at:
            yield left
            psutil.wait_procs(left, timeout=0.5)


def wait_until(true: Callable[[], Any], within_s: float = 30, explain: Callable[[], object] = str) -> Any:
    """Poll until `true` returns something true, and return that; fails the test after `within_s`, with `explain()`."""
    give_up_at = time.monotonic() + within_s
    while not (result := true()):
        assert time.monotonic() < give_up_at, f"not within {within_s} s. {explain()}"
        time.sleep(0.02)
    return result
