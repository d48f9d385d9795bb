"""ownhome: a user with a home, a capacity file and a port of his own, who runs the real `admit` and a real daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from admitd.core.events import Entry, Event
from admitd.journal import NAME, Journal

ROOT = Path(__file__).parents[1]
WAIT_S = 30.0
CAPACITY = """host: box
hosts:
  box: {{ram_physical_mb: 16384, ram_reserved_mb: 4096, ram_safety_mb: 2048}}
live_veto: off
services:
  nap: {{ram_budget_mb: 100, process_pattern: 'sleep 98{mark}', load_cmd: [sleep, "98{mark}"], load_timeout_s: 20}}
  bad: {{ram_budget_mb: 100, process_pattern: 'no-such-server-[x]', load_cmd: "exit 3"}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Home:
    """One user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.said = ""
        self.config = folder / "capacity.yaml"
        # A mark of its own keeps this service apart from those of tests that run at the same time.
        self.write(CAPACITY.format(mark=os.getpid()))
        gone = {"XDG_STATE_HOME", "ADMIT_QUIET", "ADMIT_DEBUG"}
        self.environ = {
            **{name: value for name, value in os.environ.items() if name not in gone},
            "HOME": str(folder),
            "ADMIT_STATE_DIR": str(folder / "machine"),
            "ADMIT_CONFIG": str(self.config),
            "ADMIT_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
            "TZ": "UTC",
        }
        mac = folder / "Library" / "Application Support" / "admit"
        self.state = mac if sys.platform == "darwin" else folder / ".local" / "state" / "admit"
        self.journal = Journal(self.state / NAME)

    def write(self, text: str) -> None:
        self.config.write_text(text, encoding="utf-8")
        self.config.chmod(0o600)

    def remember(self, text: str, service: str | None = "nap", kind: str = "loaded", at: float | None = None) -> None:
        """Write to the journal, as another process would."""
        self.journal.write(Event(kind, text, service=service), at)

    def remembered(self) -> list[Entry]:
        return self.journal.read(limit=1000)

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        line = [sys.executable, "-c", "from admit_cli.main import main; main()", *words]
        return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=self.environ)

    def admit(self, *words: str) -> tuple[int, str, str]:
        """Run `admit`: its exit code, stdout and stderr."""
        process = self.start(*words)
        out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err

    @contextmanager
    def daemon(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A running daemon; it is stopped in the end."""
        process = self.start("daemon", "run", *words)
        assert process.stderr is not None
        self.said = process.stderr.readline()
        while "listens on" not in self.said:
            line = process.stderr.readline()
            assert line, self.said
            self.said += line
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=WAIT_S)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a GET."""
        with self.open(path, **headers) as answer:
            return answer.status, json.loads(answer.read())

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON of a POST, with the token."""
        token = (self.state / "token").read_text().strip()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    @contextmanager
    def open(self, path: str, **headers: str) -> Iterator[HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            with connection.getresponse() as answer:
                yield answer
        finally:
            connection.close()

    def kinds(self) -> list[str]:
        return [entry.event.kind for entry in self.remembered()]


def frames(answer: HTTPResponse) -> Iterator[dict[str, Any]]:
    """What an event stream sends, one after the other: its fields, comments under "comment", data read as JSON."""
    fields: dict[str, Any] = {}
    while line := answer.readline().decode():
        if line == "\n":
            yield fields
            fields = {}
            continue
        name, _, value = line.rstrip("\n").partition(":")
        fields[name or "comment"] = json.loads(value) if name == "data" else value.removeprefix(" ")


def until(true: Any, what: str) -> None:
    """Wait until something that others do is done."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.02)


def plain(text: str) -> str:
    """Without dates and times."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "WHEN", text)
