"""door: how a command reaches the application: the daemon's unix socket, or, where none listens, the same application
in this process. The same requests, the same answers, the same machine-wide lock behind both.

Before a request is on its way, nothing heavy is imported: raw sockets, no HTTP library.
"""

from __future__ import annotations

import _socket
import os

from admitd import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from admit_cli.inside import Inside

CONNECT_S = 2.0
ANSWER_S = 30.0
TICK_S = 1.0
ACT_S = 604_800.0
"""No load or unload may take longer than this week (admitd/values.py)."""


class NoService(Exception):
    """The application does not know the service."""


class BadSetting(Exception):
    """A setting of the environment is wrong; the text says which, and what to write."""


class NoAnswer(Exception):
    """The daemon listens and does not answer."""


class Strange(Exception):
    """The daemon answered something that this command cannot use."""


class Gone(Exception):
    """The daemon does not listen, or went away before it had answered. `why` is fit for users."""

    def __init__(self, problem: object, why: str = "no daemon listens") -> None:
        super().__init__(problem)
        self.why = why


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
        self.why_inside: str | None = None
        """Why this process answers itself; None while a daemon does."""
        self.told_broken = False
        """Whether the user knows that the file is broken, and the daemon stands in."""
        try:
            self._port = places.port(os.environ)
        except ValueError as problem:
            raise BadSetting(str(problem)) from problem

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

        Raises NoAnswer, Strange for what cannot be used, and what furnishing raises.
        """
        if self._inside is None:
            try:
                return self._over_the_socket(method, path, body, patience_s, on_tick)
            except Gone as gone:
                inside = self._go_inside(gone)
                return inside.ask(method, path, body, on_tick)
        return self._inside.ask(method, path, body, on_tick)

    def act(self, path: str, body: bytes) -> Reply:
        """Have the daemon that listens load or unload, however long that takes. Raises NoAnswer, UnsafePlace."""
        try:
            return self._over_the_socket("POST", path, body, ACT_S, None, places.token(self._environ))
        except Gone as gone:
            raise NoAnswer("the daemon went away before it had answered; see what was done: admit events") from gone

    def capacity(self) -> dict[str, Any]:
        """The ledger as it is now. Raises Strange where it cannot be had."""
        if self._inside is not None and self._inside.busy:
            # Asked while another request is under way here: looked at directly, by the same gate.
            return self._inside.capacity()
        reply = self.ask("GET", "/capacity")
        if reply.status != 200:
            raise Strange(reply.json().get("detail", f"the daemon answered {reply.status}"))
        ledger: dict[str, Any] = reply.json()
        return ledger

    def inside(self) -> Inside:
        """The application in this process: for what is done here and not asked for, such as following a load.

        It goes by the file that the daemon goes by, where one listens: they must speak of the same services."""
        if self._inside is None:
            from admit_cli.inside import Inside

            return Inside(self._config or self._daemons_file(), self._port)
        return self._inside

    def _go_inside(self, gone: Gone) -> Inside:
        from admit_cli.inside import Inside
        from admit_cli.tell import tell

        if self._inside is None:
            self._inside = Inside(self._config, self._port)
            self.why_inside = gone.why
            tell(f"admit: {gone.why}; deciding in this process, by the same rules")
        return self._inside

    def _over_the_socket(
        self,
        method: str,
        path: str,
        body: bytes | None,
        patience_s: float,
        on_tick: Callable[[], None] | None,
        token: str = "",
    ) -> Reply:
        connection = self._connect()
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            if body is not None:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            if token:
                head += f"Authorization: Bearer {token}\r\n"
            connection.settimeout(CONNECT_S)
            connection.sendall(head.encode("ascii") + b"\r\n" + (body or b""))
            return _reply(_receive(connection, patience_s, on_tick))
        except OSError as problem:
            raise Gone(problem) from problem
        finally:
            connection.close()

    def _connect(self) -> _socket.socket:
        path = places.socket_path(self._environ, self._port)
        if path is None or not os.path.exists(path):
            raise Gone("no socket")
        unix = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        unix.settimeout(CONNECT_S)
        try:
            unix.connect(path)
            named = self._config or self._environ.get("ADMIT_CONFIG")
            if named and not self._goes_by(named):
                noted = self._noted()  # none: systemd holds the socket of one that has just been woken
                why = f"the daemon goes by {noted}, not by {named}" if noted else "the daemon is only just starting"
                raise Gone("another file", why)
        except OSError as problem:
            unix.close()
            raise Gone(problem) from problem
        except Gone:
            unix.close()
            raise
        return unix

    def _goes_by(self, named: str) -> bool:
        """Whether the daemon goes by the file that the user named, be that there still or not."""
        named, noted = os.path.expanduser(named), self._noted() or ""
        try:
            return os.path.samefile(named, noted)
        except OSError:
            return os.path.abspath(named) == noted

    def _noted(self) -> str | None:
        """The file that the daemon that listens here, or did, goes by."""
        try:
            with open(places.note_path(self._environ, self._port), encoding="utf-8") as note:
                return note.read().splitlines()[1]
        except (OSError, ValueError, IndexError):
            return None

    def renewed(self) -> Door:
        """Where to ask the next time: here, or, once this process answers itself, the daemon if one listens again."""
        return Door(self._config) if self._inside is not None and self.has_daemon() else self

    def has_daemon(self) -> bool:
        """Whether a daemon listens that this command would ask."""
        try:
            self._connect().close()
        except Gone:
            return False
        return True

    def _daemons_file(self) -> str | None:
        """The file that the daemon that listens goes by; None where none listens that this command would ask."""
        return self._noted() if self.has_daemon() else None


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
                raise NoAnswer(f"the daemon listens, but gave no answer in {patience_s:g} s") from None
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
        if name.lower() == b"content-length" and value.strip() != str(len(body)).encode():
            raise Gone("the answer broke off")
    return Reply(int(words[1]), body)
