"""clients: raw HTTP clients, cheap enough not to be what is measured; and the two servers they talk to."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench.measuring import Skipped, end, wait_until
from bench.world import World, free_port, python

HERE: Final = Path(__file__).parent


def request(method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    """One HTTP/1.1 request."""
    content = json.dumps(body).encode() if body is not None else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._got = b""
        self.body = b""
        self.sent_at = 0.0

    def send(self, message: bytes) -> None:
        self._got = b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(message)

    def receive(self) -> bool:
        """Take what has come; whether the answer is whole. Raises Skipped for any answer but 200 and 409."""
        part = self.socket.recv(262_144)
        if not part:
            raise Skipped("the server closed the connection")
        self._got += part
        head, blank, self.body = self._got.partition(b"\r\n\r\n")
        if not blank:
            return False
        if head[9:12] not in (b"200", b"409"):
            raise Skipped(f"the server answered {head[9:12].decode()}: {self.body[:200].decode()}")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return len(self.body) >= int(length.partition(b":")[2])

    def ask(self, message: bytes) -> float:
        """Seconds from sending a request to its whole answer."""
        self.send(message)
        while not self.receive():
            pass
        return time.perf_counter() - self.sent_at

    def close(self) -> None:
        self.socket.close()


class Many:
    """Several connections at once, in one thread."""

    def __init__(self, port: int, count: int) -> None:
        self.clients = [Client(port) for _ in range(count)]
        self._by_fd = {client.socket.fileno(): client for client in self.clients}
        self._poll = select.poll()
        for fd in self._by_fd:
            self._poll.register(fd, select.POLLIN)

    def burst(self, message: bytes) -> float:
        """All ask at once: seconds until the last has its answer."""
        began = time.perf_counter()
        for client in self.clients:
            client.send(message)
        waiting = len(self.clients)
        while waiting:
            waiting -= sum(self._by_fd[fd].receive() for fd, _ in self._poll.poll())
        return time.perf_counter() - began

    def flood(self, message: bytes, for_s: float) -> tuple[list[float], float]:
        """Each asks again as soon as it is answered: the seconds of each answer, and answers per second."""
        latencies: list[float] = []
        began = time.perf_counter()
        for client in self.clients:
            client.send(message)
        waiting = len(self.clients)
        while waiting:
            for fd, _ in self._poll.poll():
                client = self._by_fd[fd]
                if not client.receive():
                    continue
                now = time.perf_counter()
                latencies.append(now - client.sent_at)
                if now - began < for_s:
                    client.send(message)
                else:
                    waiting -= 1
        return latencies, len(latencies) / (time.perf_counter() - began)

    def close(self) -> None:
        for client in self.clients:
            client.close()


def daemon_command(port: int) -> list[str]:
    """How the daemon is started here."""
    return python("-c", "from admit_cli.main import admitd; admitd()", "--port", str(port))


def bare_command(port: int) -> list[str]:
    """How bare FastAPI and uvicorn are started here."""
    return python(str(HERE / "bare.py"), str(port))


def start(command: list[str], port: int, path: str, environ: dict[str, str]) -> tuple[subprocess.Popen[bytes], float]:
    """Start a server; the process, and the seconds until its first 200. Raises Skipped where it comes to nothing."""
    log = Path(environ["HOME"]) / f"server-{port}.log"
    with log.open("wb") as out:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def answers() -> bool:
        if process.poll() is not None:
            raise Skipped(f"a server ended at once: {log.read_text(encoding='utf-8', errors='replace')[-300:]}")
        with suppress(ConnectionError):
            client = Client(port)
            try:
                client.ask(request("GET", path))
            finally:
                client.close()
            return True
        return False

    try:
        wait_until("the start of a server", answers, 60.0)
    except BaseException:
        stop(process)
        raise
    return process, time.perf_counter() - began


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to one server, and wait for its end."""
    process.terminate()
    end(process)


@contextmanager
def daemon(home: World) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A real daemon with a home of its own: its port and its process."""
    port = free_port()
    process, _ = start(daemon_command(port), port, "/healthz", home.environ)
    try:
        yield port, process
    finally:
        stop(process)


@contextmanager
def bare(home: World) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Bare FastAPI and uvicorn: port and process."""
    port = free_port()
    process, _ = start(bare_command(port), port, "/", home.environ)
    try:
        yield port, process
    finally:
        stop(process)
