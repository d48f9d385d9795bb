"""door: asks the daemon, over its unix socket or its port, within a bound; the answer is a verdict or that there is no
daemon. For a thread that may wait: never for one that allocates."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from admitd import places
from admitd.core.units import from_mb, to_mb

ANSWER_S: Final = 2.0
_LARGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Granted:
    """The daemon keeps `budget` bytes for this app while it lives, or until it asks again."""

    budget: int


@dataclass(frozen=True, slots=True)
class Denied:
    """It does not: why, with the numbers, and the command that would make room (empty: none would)."""

    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class NoDaemon:
    """Nobody answers, or nobody who knows of apps. `listens`: there is one, and it did not get to answering."""

    why: str
    listens: bool = False


Told = Granted | Denied | NoDaemon


def ask(environ: Mapping[str, str], name: str, budget_bytes: int, held_bytes: int) -> Told:
    """Ask that so much be kept for this process. Never raises for what a daemon may do."""
    body = {
        "pid": os.getpid(),
        "budget_mb": to_mb(budget_bytes),
        "held_mb": to_mb(held_bytes),
    }
    try:
        status, said = _post(environ, f"/apps/{name}", body)
    except TimeoutError:
        return NoDaemon(f"the daemon gave no answer in {ANSWER_S:g} s", listens=True)
    except (OSError, ValueError, http.client.HTTPException) as problem:
        return NoDaemon(f"no daemon answers: {problem or type(problem).__name__}")
    if status == 200 and type(said.get("budget_mb")) is int:
        return Granted(from_mb(said["budget_mb"]))
    if status == 409:
        return Denied(str(said.get("detail", "")), str(said.get("remedy") or ""))
    return NoDaemon(f"the daemon answered {status}: {said.get('detail', 'nothing')}", listens=status >= 500)


def _post(environ: Mapping[str, str], path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    connection = _connection(environ)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = json.loads(answer.read(_LARGEST))
        if not isinstance(said, dict):
            raise ValueError("it is no object")
        return answer.status, said
    finally:
        connection.close()


def _connection(environ: Mapping[str, str]) -> http.client.HTTPConnection:
    """Over the user's own socket where there is one, which nobody else can have put there; else by the port."""
    port = places.port(environ)
    path = places.socket_path(environ, port)
    if path is not None and os.path.exists(path):
        return _OverSocket(path)
    return http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(self._path)
