"""hosts: a machine of its own for a test: a capacity file, a folder of records, and real daemons and commands on it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from admitd.core.terms import ProcessId
from tests.gates import PATIENCE_S, REAL, until

ADMIT = Path(sys.executable).parent / "admit"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command_lines() -> dict[int, bytes]:
    """The command line of each process there is, words parted by a space: of what is forked meanwhile, too."""
    lines: dict[int, bytes] = {}
    while new := {int(entry) for entry in os.listdir("/proc") if entry.isdecimal()} - lines.keys():
        lines.update({pid: _command_line(pid) for pid in new})
    return lines


def _command_line(pid: int) -> bytes:
    """Nothing for what is gone, a zombie or the kernel's; in the middle of an exec there is none for a moment."""
    with contextlib.suppress(OSError):
        while os.readlink(f"/proc/{pid}/exe"):
            if line := Path(f"/proc/{pid}/cmdline").read_bytes():
                return line.replace(b"\0", b" ")
    return b""


@dataclass
class Host:
    """A machine with a pool of 1,000 MB, and services whose servers are `sleep` with a number of their own.

    `budgets` are in MB; `starts` stands before the server in each load command.
    """

    home: Path
    budgets: dict[str, int]
    starts: str = ""
    load_timeout_s: int = 60
    priorities: dict[str, int] = field(default_factory=dict)
    tag: str = field(default_factory=lambda: str(random.randrange(10**6, 10**7)))

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.state.mkdir(mode=0o700, exist_ok=True)
        lines = [
            "hosts:",
            "  here: {ram_physical_mb: 1002, ram_reserved_mb: 1, ram_safety_mb: 1}",
            "host: here",
            "live_veto: off",
            "services:",
        ]
        for name, budget in self.budgets.items():
            lines += [
                f"  {name}:",
                f"    ram_budget_mb: {budget}",
                f"    priority: {self.priorities.get(name, 0)}",
                f"    process_pattern: 'sleep {self.number(name)}'",
                f"    load_cmd: '{self.starts}exec sleep {self.number(name)}'",
                f"    load_timeout_s: {self.load_timeout_s}",
            ]
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def config(self) -> Path:
        return self.home / "capacity.yaml"

    def number(self, name: str) -> str:
        """How many seconds the server of a service sleeps: nothing else on this machine sleeps so long."""
        return f"{self.tag}{list(self.budgets).index(name):02d}"

    def environ(self, home: str = "home", port: int = 1) -> dict[str, str]:
        """The environment of a command; `home` and `port` tell which daemon's socket it would find."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ADMIT_", "XDG_"))}
        (self.home / home).mkdir(exist_ok=True, mode=0o700)
        return {
            **kept,
            "HOME": str(self.home / home),
            "ADMIT_STATE_DIR": str(self.state),
            "ADMIT_CONFIG": str(self.config),
            "ADMIT_PORT": str(port),
            "ADMIT_QUIET": "1",
        }

    def processes(self) -> dict[int, str]:
        """Which processes are, or will become, the server of which service."""
        names = {self.number(name).encode(): name for name in self.budgets}
        found: dict[int, str] = {}
        for pid, line in command_lines().items():
            for number, name in names.items():
                if b"sleep " + number in line:
                    found[pid] = name
        return found

    def servers(self) -> list[str]:
        """The services whose server, or whose load command, is alive."""
        return sorted(set(self.processes().values()))

    def commands(self) -> list[int]:
        """`admit load` on this host; what a killed one has forked that has not become its load command yet, too."""
        found = []
        for pid, line in command_lines().items():
            with contextlib.suppress(OSError):
                ours = os.fsencode(self.config) in Path(f"/proc/{pid}/environ").read_bytes()
                if ours and b"admit load " in line:
                    found.append(pid)
        return found

    def clear(self) -> None:
        """End every server, and whatever would start one; what is ending has no command line, but is charged still."""
        ended: set[ProcessId] = set()

        def are_gone() -> bool:
            for pid in (found := self.processes()):
                if process := REAL.identify(pid):
                    ended.add(process)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            return not found and not any(REAL.identify(each.pid) == each for each in ended)

        until(are_gone)


@dataclass
class Daemon:
    """`admit daemon run`, listening."""

    process: subprocess.Popen[bytes]
    port: int

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and body of one answer."""
        with contextlib.closing(connect(self.port)) as connection:
            send(connection, method, path, body)
            return answer(connection)

    def admit(self, service: str, **body: object) -> tuple[int, Any]:
        return self.ask("POST", "/admit", {"service": service, **body})

    def waiting(self) -> list[str]:
        return [each["service"] for each in self.ask("GET", "/capacity")[1]["waiting"]]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def connect(port: int, patience_s: float = PATIENCE_S) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=patience_s)


def send(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> None:
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})


def answer(connection: http.client.HTTPConnection) -> tuple[int, Any]:
    response = connection.getresponse()
    content = response.read()
    return response.status, json.loads(content) if content else None


def start(host: Host, home: str = "home") -> Daemon:
    """Start a daemon that nobody stops; see `daemon`."""
    port = free_port()
    process = subprocess.Popen(
        [str(ADMIT), "daemon", "run"], env=host.environ(home, port), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stderr is not None
    said = b""
    give_up = time.monotonic() + PATIENCE_S
    while b"goes by" not in said:
        ready, _, _ = select.select([process.stderr], [], [], max(0.0, give_up - time.monotonic()))
        part = os.read(process.stderr.fileno(), 4096) if ready else b""
        if not part:
            process.kill()
            process.communicate()
            raise AssertionError(f"the daemon did not start: {said.decode()}")
        said += part
    return Daemon(process, port)


@contextlib.contextmanager
def daemon(host: Host, home: str = "home") -> Iterator[Daemon]:
    """A daemon for as long as the block lasts."""
    running = start(host, home)
    try:
        yield running
    finally:
        running.process.terminate()
        try:
            running.process.wait(timeout=PATIENCE_S)
        finally:
            running.kill()
            if running.process.stderr is not None:
                running.process.stderr.close()
