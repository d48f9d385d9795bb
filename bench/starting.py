"""starting: how long a command takes until its request is on its way and until it has ended, and the daemon until its
first answer, beside bare Python and bare FastAPI."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from admitd import places
from bench.clients import bare_command, daemon, daemon_command, start, stop
from bench.measuring import Plan, Results, Skipped, figures, take_turns
from bench.world import World, free_port, python, service_name, world


def measure(plan: Plan) -> Results:
    """Seconds of `admit status` and `admit load NAME`, and of a cold start of the daemon."""
    with world(10) as home:
        return {"command": _commands(plan, home), "daemon": _daemons(plan, home)}


def admit_command() -> str:
    """The installed command. Raises Skipped where there is none."""
    path = Path(sysconfig.get_path("scripts")) / "admit"
    if not os.access(path, os.X_OK):
        raise Skipped("the command `admit` is not installed in this Python's environment")
    return str(path)


def _commands(plan: Plan, home: World) -> Results:
    admit = admit_command()
    with ExitStack() as stack:
        port, _ = stack.enter_context(daemon(home))
        # As people start it: installed, and without a path of the bench's own to search.
        bare_environ = {name: value for name, value in home.environ.items() if not name.startswith("PYTHON")}
        environ = {**bare_environ, "ADMIT_PORT": str(port)}
        fake_port = free_port()
        fake_environ = {**bare_environ, "ADMIT_PORT": str(fake_port)}
        fake = stack.enter_context(Listener(places.socket_path(fake_environ, fake_port) or ""))
        name = service_name(9)
        turns: dict[str, Callable[[], float]] = {
            "python -I -S -c pass": lambda: _whole(python("-I", "-S", "-c", "pass"), bare_environ),
            "python -c pass": lambda: _whole(python("-c", "pass"), bare_environ),
            "admit status, until its request": lambda: fake.until_request([admit, "status"], fake_environ),
            "admit load, until its request": lambda: fake.until_request([admit, "load", name], fake_environ),
            "admit status, whole": lambda: _whole([admit, "status"], environ),
            "admit plan NAME, whole": lambda: _whole([admit, "plan", name], environ),
            "admit --help, whole": lambda: _whole([admit, "--help"], environ),
        }
        found = take_turns(turns, plan.starts, frozenset({"admit --help, whole"}), 4)
        return {name: figures(each) for name, each in found.items()}


def _whole(command: Sequence[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise Skipped(f"{' '.join(command[1:])} exits {done.returncode}: {done.stderr.decode()[-200:]}")
    return took


class Listener:
    """A unix socket where a daemon's would be: notes when a request arrives, refuses it, and that is all."""

    def __init__(self, path: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        self._socket.listen(8)
        self._arrived: list[float] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        os.unlink(self._path)

    def until_request(self, command: Sequence[str], environ: dict[str, str]) -> float:
        """Seconds from starting a command to its request's arrival."""
        self._arrived.clear()
        began = time.perf_counter()
        done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if not self._arrived:
            raise Skipped(f"{' '.join(command[1:])} asked nothing: {done.stderr.decode()[-200:]}")
        return self._arrived[0] - began

    def _serve(self) -> None:
        body = json.dumps({"type": "about:blank", "title": "No", "status": 503, "detail": "Only a bench."}).encode()
        answer = b"HTTP/1.1 503 No\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                if connection.recv(65_536):
                    self._arrived.append(time.perf_counter())
                    connection.sendall(answer)


def _daemons(plan: Plan, home: World) -> Results:
    """Cold starts: a process that has nothing, until its first 200."""

    def ours() -> float:
        port = free_port()
        return _cold(daemon_command(port), port, "/healthz", home)

    def bare() -> float:
        port = free_port()
        return _cold(bare_command(port), port, "/", home)

    found = take_turns({"admitd": ours, "bare FastAPI + uvicorn": bare}, max(2, plan.starts // 4))
    return {name: figures(each) for name, each in found.items()}


def _cold(command: list[str], port: int, path: str, home: World) -> float:
    process, seconds = start(command, port, path, home.environ)
    stop(process)
    return seconds
