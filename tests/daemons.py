"""daemons: a real daemon to talk to, with a home of its own; the same server inside this process, where the world
behind it must be replaced; and requests as bytes, since no HTTP library sends the ones that matter here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from admitd import serving
from admitd.doorkeeper import App
from admitd.handover import ALONE, Handed

ROOT = Path(__file__).parents[1]
ADMIT = Path(sys.executable).with_name("admit")
CAPACITY = """\
hosts:
  box: {ram_physical_mb: 16384, ram_reserved_mb: 4096, ram_safety_mb: 2048}
live_veto: off
services:
"""
POOL_MB = 10240

Found = TypeVar("Found")


def until(look: Callable[[], Found], within_s: float = 15.0) -> Found:
    """What `look` finds, once it finds something."""
    end = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"nothing came within {within_s} s"
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nap(number: int) -> str:
    """A command line that no other test and no other run has."""
    return f"sleep {7_000_000 + os.getpid()}.{number:04d}"


def service(name: str, budget_mb: int = 1000, **keys: Any) -> str:
    """A service of capacity.yaml. Values are written as JSON, which YAML reads."""
    lines = [f'  "{name}":', f"    ram_budget_mb: {budget_mb}"]
    lines += [f"    {key}: {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def sleeper(name: str, number: int, budget_mb: int = 1000, **keys: Any) -> str:
    """A service that is a sleeping process."""
    line = nap(number)
    keys = {"load_cmd": f"exec {line}", "process_pattern": f"^{line.replace('.', '[.]')}$", **keys}
    return service(name, budget_mb, **keys)


def flagged(name: str, folder: Path, budget_mb: int = 1000, **keys: Any) -> str:
    """A service that is a file: loaded and unloaded at once."""
    flag = folder / f"{name}.flag"
    keys = {
        "loaded_check_cmd": ["test", "-e", str(flag)],
        "load_cmd": ["touch", str(flag)],
        "unload_cmd": ["rm", "-f", str(flag)],
        **keys,
    }
    return service(name, budget_mb, **keys)


@dataclass(frozen=True)
class Reply:
    """One answer. `headers` has lower-case names."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


def parse(raw: bytes, *, head_only: bool = False) -> list[Reply]:
    """All answers in `raw`. The server here always says how long its bodies are."""
    replies = []
    while raw:
        head, blank, raw = raw.partition(b"\r\n\r\n")
        assert blank, f"cut off: {head[:200]!r}"
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        code = int(status.split()[1])
        size = 0 if head_only or code in (100, 204) else int(dict(headers)["content-length"])
        assert len(raw) >= size, f"cut off: {raw!r}"
        replies.append(Reply(code, headers, raw[:size]))
        raw = raw[size:]
    return [reply for reply in replies if reply.status != 100]


def request(
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    host: str | None = "localhost",
    close: bool = True,
) -> bytes:
    """A request as bytes; a body that is not bytes goes as JSON."""
    lines = [f"{method} {path} HTTP/1.1"] + ([f"Host: {host}"] if host is not None else [])
    named = {name.lower() for name in headers or {}}
    content = b""
    if body is not None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if "content-type" not in named:
            lines.append("Content-Type: application/json")
        if not named & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(content)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


@dataclass
class Door:
    """Where a server listens."""

    port: int
    token: str = ""

    @contextlib.contextmanager
    def line(self, timeout_s: float = 20.0) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout_s) as open_line:
            yield open_line

    def raw(self, sent: bytes, timeout_s: float = 20.0) -> bytes:
        """Send, and read until the other side closes."""
        with self.line(timeout_s) as line:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                line.sendall(sent)
            return read_all(line)

    def exchange(self, sent: bytes, timeout_s: float = 20.0) -> Reply:
        """Send one request; its one answer."""
        (reply,) = parse(self.raw(sent, timeout_s), head_only=sent.startswith(b"HEAD "))
        return reply

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Reply:
        return self.exchange(request(method, path, body, **more))

    def act(self, path: str, body: Any = None, *, timeout_s: float = 30.0) -> Reply:
        """POST with the token."""
        sent = request("POST", path, {} if body is None else body, headers={"Authorization": f"Bearer {self.token}"})
        return self.exchange(sent, timeout_s)

    def capacity(self) -> dict[str, Any]:
        reply = self.ask("GET", "/capacity")
        assert reply.status == 200, reply
        found: dict[str, Any] = reply.json()
        return found

    def state(self, name: str) -> str:
        (found,) = [each["state"] for each in self.capacity()["services"] if each["name"] == name]
        return str(found)


def read_all(line: socket.socket) -> bytes:
    """All that comes until the other side closes; a reset after the answer is its end as well."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := line.recv(65_536):
            parts.append(part)
    return b"".join(parts)


@dataclass
class Daemon(Door):
    """A daemon process and its places."""

    port: int = field(default_factory=free_port)
    folder: Path = Path()
    environ: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def capacity_file(self) -> Path:
        return Path(self.environ["ADMIT_CONFIG"])

    @property
    def state_folder(self) -> Path:
        return Path(self.environ["ADMIT_STATE_DIR"])

    @property
    def places(self) -> Path:
        return Path(self.environ["HOME"]) / ".local" / "state" / "admit"

    @property
    def socket_path(self) -> Path:
        return self.places / f"admitd-{self.port}.sock"

    @property
    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> Daemon:
        """Start it, and wait until it answers."""
        with (self.folder / "daemon.log").open("ab") as log:
            command = [str(ADMIT), "daemon", "run", "--port", str(self.port)]
            self.process = subprocess.Popen(command, env=self.environ, stderr=log, stdin=subprocess.DEVNULL)
        began = len(self.log)

        def is_up() -> bool:
            assert self.process is not None and self.process.poll() is None, self.log
            return "live_veto" in self.log[began:]

        until(is_up, 60.0)
        self.token = (self.places / "token").read_text().strip()
        return self

    def stop(self, sig: signal.Signals = signal.SIGTERM, within_s: float = 20.0) -> int:
        """Signal it; its exit code."""
        assert self.process is not None
        self.process.send_signal(sig)
        return self.process.wait(within_s)

    def write(self, text: str) -> None:
        """Replace capacity.yaml as an editor does."""
        fresh = self.capacity_file.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.replace(self.capacity_file)

    def records(self) -> list[str]:
        """The reservations and places in the queue that are written down."""
        names = [path.name for path in self.state_folder.iterdir()]
        return sorted(name for name in names if "~" in name and not name.startswith("hands~"))

    def admit(self, *words: str) -> subprocess.CompletedProcess[str]:
        environ = {**self.environ, "ADMIT_PORT": str(self.port)}
        command = [str(ADMIT), *words]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def prepared(folder: Path, services: str, home: Path) -> Daemon:
    """A daemon that is not started yet. `home`: short enough for a socket, which pytest's folders are not."""
    home.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "ADMIT_STATE_DIR": str(folder / "state"),
        "ADMIT_CONFIG": str(folder / "capacity.yaml"),
        "PYTHONWARNINGS": "error",
    }
    made = Daemon(folder=folder, environ=environ)
    made.write(CAPACITY + services)
    return made


@contextlib.contextmanager
def running(folder: Path, services: str) -> Iterator[Daemon]:
    """A daemon, and whatever it started, ended at the end."""
    with tempfile.TemporaryDirectory(prefix="a") as home:
        daemon = prepared(folder, services, Path(home))
        try:
            yield daemon.start()
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
            end_naps()


def naps() -> list[int]:
    """The pids of the sleepers that this run's services started."""
    mark = f"sleep\0{7_000_000 + os.getpid()}.".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def end_naps() -> None:
    for pid in naps():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def served(
    app: Callable[[int], App], on_end: Callable[[], None] = lambda: None, handed: Handed = ALONE
) -> Iterator[Door]:
    """The daemon's server in a thread of this process, around an application made for its port."""
    port = free_port()
    ready = threading.Event()
    loops: list[Any] = []

    def on_ready() -> None:
        import asyncio

        loops.append(asyncio.get_running_loop())
        ready.set()

    made = serving.server(app(port), on_ready, on_end, handed)
    thread = threading.Thread(target=serving.serve, args=(made, serving.listen(port, None)))
    thread.start()
    try:
        assert ready.wait(10)
        yield Door(port)
    finally:
        loops[0].call_soon_threadsafe(made.handle_exit, signal.SIGTERM, None)
        thread.join(20)
        assert not thread.is_alive()
