"""clients: impatient ones, each with one job that it wants done again and again; with `admit` in front, or without."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

IMPATIENCE_S: Final = 0.3
"""How long a client waits before it asks again, whatever the answer was."""
REMEDY_EVERY: Final = 5
"""Every so manieth refusal, a client does what the refusal told it."""
UNLOAD_EVERY_S: Final = 15.0
"""Among all clients, how often what is in the way is unloaded: it throws away the work of another client."""
BOUND_S: Final = 120.0
EX_STOPPED: Final = 143
"""What a job that SIGTERM ended says."""


@dataclass
class Heard:
    """What all clients were told, together."""

    refused: Counter[str] = field(default_factory=Counter)
    without_remedy: list[str] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)
    remedies: Counter[str] = field(default_factory=Counter)
    already: int = 0
    unloaded: int = 0
    failed: list[str] = field(default_factory=list)
    lost_s: float = 0.0
    unload_at_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refusal(self, said: dict[str, Any], text: str) -> None:
        with self.lock:
            self.refused[said["reason"]] += 1
            kind = f"{said['reason']}{': unload' if said['victims'] else ''}"
            self.examples.setdefault(kind, text.strip())
            if not said["remedy"]:
                self.without_remedy.append(text.strip())

    def may_unload(self) -> bool:
        """Whether it is a while ago that somebody had others unloaded; asked by who does so then."""
        with self.lock:
            now = time.monotonic()
            if now < self.unload_at_s:
                return False
            self.unload_at_s = now + UNLOAD_EVERY_S
            return True

    def as_json(self) -> dict[str, Any]:
        return {
            "refused": dict(self.refused),
            "without_remedy": self.without_remedy,
            "examples": self.examples,
            "remedies": dict(self.remedies),
            "already": self.already,
            "unloaded": self.unloaded,
            "failed": self.failed,
            "lost_s": round(self.lost_s, 1),
        }


class Client(threading.Thread):
    """Asks until it is told to stop; then its last job still ends."""

    def __init__(self, name: str, job: Sequence[str], heard: Heard, environ: dict[str, str]) -> None:
        super().__init__(name=name)
        self._job = list(job)
        self._heard = heard
        self._environ = environ
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                self.once()
            except Exception as problem:
                with self._heard.lock:
                    self._heard.failed.append(f"{self.name}: {type(problem).__name__}: {problem}")
            self._over.wait(IMPATIENCE_S)

    def once(self) -> None:
        """Start the job at once, and see it end."""
        began = time.monotonic()
        code = subprocess.run(self._job, env=self._environ, check=False, timeout=BOUND_S).returncode
        if code != 0:
            with self._heard.lock:
                self._heard.lost_s += time.monotonic() - began


class PoliteClient(Client):
    """The same, through `admit`: it starts nothing that was refused. `asks`: the words in front of the job, or the
    words that have `admit` start what capacity.yaml names."""

    def __init__(
        self, name: str, job: Sequence[str], heard: Heard, environ: dict[str, str], admit: str, *, by_load: bool
    ) -> None:
        super().__init__(name, job, heard, environ)
        words = [admit, "load", name, "--json"] if by_load else [admit, "run", name, "--json", "--", *self._job]
        self._words = words
        self._refusals = 0

    def once(self) -> None:
        said = self._ask(self._words)
        if said is None or not said["remedy"]:
            return
        self._refusals += 1
        if self._refusals % REMEDY_EVERY == 0 and (not said["victims"] or self._heard.may_unload()):
            self._do(said["remedy"])

    def _ask(self, words: Sequence[str]) -> dict[str, Any] | None:
        """Ask; where it is refused, what was said."""
        done = subprocess.run(
            words,
            env=self._environ,
            check=False,
            timeout=BOUND_S,
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        said = _json(done.stdout)
        if done.returncode == 2 and said is not None:
            self._heard.refusal(said, done.stderr)
            return said
        with self._heard.lock:
            if said is not None and said.get("verdict") == "already_loaded":
                self._heard.already += 1
            else:
                self._judge(done, self.name)
        return None

    def _do(self, remedy: str) -> None:
        """Run a remedy as it is printed."""
        words = shlex.split(remedy)
        kind = "unload" if "unload" in words else "wait"
        done = subprocess.run(
            remedy,
            shell=True,
            env=self._environ,
            check=False,
            timeout=BOUND_S,
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        with self._heard.lock:
            self._heard.remedies[kind] += 1
            self._judge(done, remedy)

    def _judge(self, done: subprocess.CompletedProcess[str], what: str) -> None:
        """Another client's remedy may unload what was just started: that is no failure."""
        gone = done.returncode == 1 and "was there and is gone" in done.stderr
        if gone or done.returncode in (EX_STOPPED, -signal.SIGTERM):
            self._heard.unloaded += 1
        elif done.returncode != 0:
            self._heard.failed.append(f"{what}: exit {done.returncode}: {done.stdout}{done.stderr}".strip())


def _json(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def on_the_path(environ: dict[str, str], folder: str) -> dict[str, str]:
    """The same, with the programs of `folder` found first: remedies say `admit`."""
    return {**environ, "PATH": os.pathsep.join([folder, environ.get("PATH", os.defpath)])}
