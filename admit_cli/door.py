"""door: how a command reaches the application: the daemon's unix socket, or, where none listens, the same application
in this process. The same requests, the same answers, the same machine-wide lock behind both.

Before a request is on its way, nothing heavy is imported: raw sockets, no HTTP library.
"""

from __future__ import annotations

import _socket
import os
import sys

from admitd import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from admit_cli.inside import Inside

CONNECT_S = 2.0
ANSWER_S = 30.0
TICK_S = 1.0


class NoService(Exception):
    """The application does not know the service."""


class Strange(Exception):
    """The daemon answered something that this command cannot use."""


class Gone(Exception):
    """The daemon does not listen, or went away before it had answered."""


class Reply:
    """One answer: its status and its body as it came."""

    __slots__ = ("raw", "status")

    def __init__(self, status: int, raw: bytes) -> None:
        self.status = status
        self.raw = raw

    def json(self) -> Any:
        """The body. json is imported here, while nobody waits for anything else."""
        import json

        return json.loads(self.raw)


class Door:
    """Where requests go. `config`: the file that the user named, if any: a daemon that goes by another won't do."""

    def __init__(self, config: str | None) -> None:
        self._environ = os.environ
        self._config = config
        self._inside: Inside | None = None
        self._port = places.port(os.environ)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        patience_s: float = ANSWER_S,
        on_tick: Callable[[], None] | None = None,
    ) -> Reply:
        """Send one request and wait for its answer. `on_tick` is called every second while it is awaited.

        Raises NoService for a 404 that names none, Strange for what cannot be used, and what furnishing raises.
        """
        if self._inside is None:
            try:
                return self._over_the_socket(method, path, body, patience_s, on_tick)
            except Gone:
                self._go_inside()
        assert self._inside is not None
        return self._inside.ask(method, path, body, on_tick)

    def capacity(self) -> dict[str, Any]:
        """The ledger as it is now. Raises Strange where it cannot be had."""
        if self._inside is not None and self._inside.busy:
            # Asked for while another request is under way here: looked at directly, by the same gate.
            return self._inside.capacity()
        reply = self.ask("GET", "/capacity")
        if reply.status != 200:
            raise Strange(reply.json().get("detail", f"the daemon answered {reply.status}"))
        ledger: dict[str, Any] = reply.json()
        return ledger

    def inside(self) -> Inside:
        """The application in this process: for what is done here and not asked for, such as following a load."""
        if self._inside is None:
            from admit_cli.inside import Inside

            return Inside(self._config, self._port)
        return self._inside

    def _go_inside(self) -> None:
        from admit_cli.inside import Inside

        if sys.stderr.isatty() or not os.environ.get("ADMIT_QUIET"):
            print("admit: no daemon listens; deciding in this process, by the same rules", file=sys.stderr)
        self._inside = Inside(self._config, self._port)

    def _over_the_socket(
        self,
        method: str,
        path: str,
        body: bytes | None,
        patience_s: float,
        on_tick: Callable[[], None] | None,
    ) -> Reply:
        connection = self._connect()
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            if body is not None:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            connection.settimeout(CONNECT_S)
            connection.sendall(head.encode("ascii") + b"\r\n" + (body or b""))
            return _reply(_receive(connection, patience_s, on_tick))
        except OSError as problem:
            raise Gone(str(problem)) from problem
        finally:
            connection.close()

    def _connect(self) -> _socket.socket:
        named = self._config or self._environ.get("ADMIT_CONFIG")
        if named and not self._goes_by(named):
            raise Gone("the daemon goes by another file")
        path = places.socket_path(self._environ, self._port)
        if path is not None and os.path.exists(path):
            unix = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            unix.settimeout(CONNECT_S)
            try:
                unix.connect(path)
            except OSError as problem:
                unix.close()
                raise Gone(str(problem)) from problem
            return unix
        raise Gone("no socket")

    def _goes_by(self, named: str) -> bool:
        """Whether the daemon goes by the file that the user named."""
        try:
            with open(places.note_path(self._environ, self._port), encoding="utf-8") as note:
                theirs = note.read().splitlines()[1]
            return os.path.samefile(os.path.expanduser(named), theirs)
        except (OSError, IndexError):
            return False


def _receive(connection: _socket.socket, patience_s: float, on_tick: Callable[[], None] | None) -> bytes:
    """All that comes until the other side closes."""
    parts: list[bytes] = []
    left = patience_s
    while True:
        connection.settimeout(min(TICK_S, max(left, 0.01)))
        try:
            part = connection.recv(262_144)
        except TimeoutError:
            left -= TICK_S
            if on_tick is not None:
                on_tick()
            if left <= 0:
                raise Strange(f"the daemon gave no answer in {patience_s:g} s") from None
            continue
        if not part:
            return b"".join(parts)
        parts.append(part)


def _reply(raw: bytes) -> Reply:
    head, blank, body = raw.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if not blank or len(words) < 2 or not words[1].isdigit():
        raise Gone("the answer broke off")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and int(value) != len(body):
            raise Gone("the answer broke off")
    return Reply(int(words[1]), body)
