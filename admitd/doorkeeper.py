"""doorkeeper: nobody gets in who doesn't belong. Looks at each request before anything else does, and before any look
at the process table: a page of another site must not be able to make this program work.

Against: DNS rebinding (Host must name this machine), pages of other sites (Origin, Sec-Fetch-Site, no CORS headers,
mutations only as application/json), other users and containers (what acts on processes needs the token), bodies
without end, and clients that dribble.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from admitd.core import wire

BODY_MAX: Final = 64 * 1024
BODY_WAIT_S: Final = 10.0
PATH_MAX: Final = 2048
_LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_MUTATIONS: Final = frozenset({"POST", "PUT", "PATCH"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH"})

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


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
        body = b""
        if scope["method"] in _MUTATIONS or scope["method"] == "DELETE":
            try:
                async with asyncio.timeout(BODY_WAIT_S):
                    body_or_none = await _whole_body(receive)
            except TimeoutError:
                await refuse(send, 408, "Too slow", f"The body did not arrive within {BODY_WAIT_S:g} s.")
                return
            if body_or_none is None:
                await refuse(send, 413, "Too large", f"A body here has at most {BODY_MAX} bytes.")
                return
            body = body_or_none
        await self._app(scope, _replay(body, receive), send)

    def _refuse(self, scope: Scope) -> tuple[int, str, str] | None:
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
        if scope["method"] not in _METHODS:
            return 405, "Method not allowed", f"{scope['method'][:20]} is not offered here."
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > PATH_MAX:
            return 414, "Too long", f"A path here has at most {PATH_MAX} bytes."
        if scope["method"] in _MUTATIONS:
            return _refuse_body(headers)
        return None

    def _is_us(self, host: str) -> bool:
        name, port = _split_port(host.lower())
        return name.removesuffix(".") in _LOCAL_NAMES and port in (None, str(self._port))

    def _is_our_page(self, origin: str) -> bool:
        scheme, _, rest = origin.lower().partition("://")
        name, port = _split_port(rest)
        return scheme == "http" and name in _LOCAL_NAMES and (port or "80") == str(self._port)


def _refuse_body(headers: list[tuple[bytes, bytes]]) -> tuple[int, str, str] | None:
    kinds = [value for name, value in headers if name == b"content-type"]
    if len(kinds) != 1 or kinds[0].split(b";")[0].strip().lower() != b"application/json":
        return 415, "Unsupported media type", "Send the body as application/json."
    lengths = [value for name, value in headers if name == b"content-length"]
    if any(value.isdigit() and int(value[:20]) > BODY_MAX for value in lengths):
        return 413, "Too large", f"A body here has at most {BODY_MAX} bytes."
    return None


def _split_port(host: str) -> tuple[str, str | None]:
    if host.startswith("["):
        name, bracket, rest = host.partition("]")
        return name + bracket, rest.removeprefix(":") if rest else None
    name, colon, port = host.partition(":")
    return name, port if colon else None


async def _whole_body(receive: Receive) -> bytes | None:
    """The body; None where it is larger than it may be."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > BODY_MAX:
            return None
        if not message.get("more_body"):
            return bytes(body)


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


async def refuse(send: Send, status: int, title: str, detail: str) -> None:
    """Answer with a problem, and close: whoever was not let in need not stay."""
    body = json.dumps(wire.problem(status, title, detail)).encode()
    headers = [
        (b"content-type", wire.PROBLEM_JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 405:
        headers.append((b"allow", ", ".join(sorted(_METHODS)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
