"""doorkeeper: nobody gets in who doesn't belong. Looks at each request before anything else does, and before any look
at the process table: a page of another site must not be able to make this program work.

Against: DNS rebinding (Host must name this machine), pages of other sites (Origin, Sec-Fetch-Site, no CORS headers,
mutations only as application/json), other users and containers (what acts on processes needs the token), bodies
without end, and clients that dribble.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from admitd.core import wire

BODY_MAX: Final = 64 * 1024
BODY_WAIT_S: Final = 10.0
DROPPED_MAX: Final = 1024 * 1024
DROP_WAIT_S: Final = 1.0
"""So much of a body that is too large is read and dropped: a client in the midst of sending does not read answers."""
PATH_MAX: Final = 2048
_LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_Refusal = tuple[int, str, str]


class _TooLarge(Exception):
    """A body that is larger than it may be."""


class _Gone(Exception):
    """The client went before its request was whole."""


class Doorkeeper:
    """ASGI middleware, the outermost. `port`: the one that Host and Origin may name."""

    def __init__(self, app: App, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        refused = self._refuse(scope)
        if refused is not None:
            await refuse(send, *refused)
            return
        try:
            body = await _whole_body(scope, receive)
        except _Gone:
            return
        except _TooLarge:
            await refuse(send, 413, "Too large", f"A body here has at most {BODY_MAX} bytes.")
            return
        except TimeoutError:
            await refuse(send, 408, "Too slow", f"The body did not arrive within {BODY_WAIT_S:g} s.")
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the server leaves the body away
        await self._admit(scope, _replay(body, receive), send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def note(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            # Only the server cancels, when its grace is over. Whoever asked is told, and that is the end of it.
            if not answered:
                detail = "The daemon is being stopped; what it had started goes on by itself."
                await refuse(send, 503, "Stopping", detail)

    def _refuse(self, scope: Scope) -> _Refusal | None:
        """Why this request is not let in: status, title, detail."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            return 400, "Bad request", f"Exactly one Host header is wanted, {len(hosts)} came."
        if not self._is_us(hosts[0].decode("latin-1")):
            return 421, "Misdirected", "The Host header must name this machine: 127.0.0.1, localhost or [::1]."
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        if any(not self._is_our_page(origin) for origin in origins) or len(origins) > 1:
            return 403, "Forbidden", "Pages of other sites may not talk to this machine."
        sites = [value for name, value in headers if name == b"sec-fetch-site"]
        if any(site not in (b"same-origin", b"none") for site in sites):
            return 403, "Forbidden", "Pages of other sites may not talk to this machine."
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > PATH_MAX:
            return 414, "Too long", f"A path here has at most {PATH_MAX} bytes."
        if scope["method"] == "POST" and not _is_json(headers):
            return 415, "Unsupported media type", "Send the body as application/json."
        return None

    def _is_us(self, host: str) -> bool:
        name, port = _split_port(host.lower())
        return name.removesuffix(".") in _LOCAL_NAMES and port in (None, str(self._port))

    def _is_our_page(self, origin: str) -> bool:
        scheme, _, rest = origin.lower().partition("://")
        name, port = _split_port(rest)
        return scheme == "http" and name in _LOCAL_NAMES and (port or "80") == str(self._port)


def _is_json(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a body is JSON, or there is none: no route that changes anything goes without (test_openapi.py)."""
    kinds = [value for name, value in headers if name == b"content-type"]
    if not kinds:
        return all(value == b"0" for name, value in headers if name in (b"content-length", b"transfer-encoding"))
    return len(kinds) == 1 and kinds[0].split(b";")[0].strip().lower() == b"application/json"


def _split_port(host: str) -> tuple[str, str | None]:
    if host.startswith("["):
        name, bracket, rest = host.partition("]")
        return (name + bracket, rest[1:] if rest else None) if rest[:1] in ("", ":") else (host, None)
    name, colon, port = host.partition(":")
    return name, port if colon else None


async def _whole_body(scope: Scope, receive: Receive) -> bytes:
    """The body of what may have one. Raises _TooLarge, _Gone or TimeoutError."""
    if scope["method"] not in _WITH_BODY:
        return b""
    told = max((_length(value) for name, value in scope["headers"] if name == b"content-length"), default=0)
    if told > BODY_MAX:
        if not any(name == b"expect" for name, _ in scope["headers"]):  # else it asked first, and has sent nothing yet
            await _drop(receive, 0)
        raise _TooLarge
    async with asyncio.timeout(BODY_WAIT_S):
        return await _read(receive)


def _length(value: bytes) -> int:
    # 10 digits are more than is ever read; int() of thousands would be slow, or raise.
    return int(value[:10]) if value.isdigit() else 0


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        body += message.get("body", b"")
        is_whole = not message.get("more_body")
        if len(body) > BODY_MAX:
            if not is_whole:
                await _drop(receive, len(body))
            raise _TooLarge
        if is_whole:
            return bytes(body)


async def _drop(receive: Receive, so_far: int) -> None:
    """Read and drop what is still coming, within bounds. Raises _Gone."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DROP_WAIT_S):
            while so_far <= DROPPED_MAX:
                message = await receive()
                if message["type"] != "http.request":
                    raise _Gone
                so_far += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands the body on once; after that, whatever the connection says (that the client has gone, say)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def refuse(send: Send, status: int, title: str, detail: str, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Answer with a problem, and close: whoever was not let in need not stay."""
    body = json.dumps(wire.problem(status, title, detail)).encode()
    headers = [
        (b"content-type", wire.PROBLEM_JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
