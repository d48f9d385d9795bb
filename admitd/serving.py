"""serving: the HTTP server, bounded: heads that never end, clients that dribble, and an idle loop that sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from admitd.core import wire
from admitd.doorkeeper import BODY_WAIT_S, App, Message, Receive, Scope, Send, refuse
from admitd.handover import ALONE, Handed

HEAD_MAX: Final = 32 * 1024
FIELD_COSTS: Final = 32
"""What each header counts for beside its bytes, so that thousands of empty ones are not cheap (as RFC 9113, 6.5.2)."""
MESSAGE_MAX: Final = 2 * 1024 * 1024
"""Bytes of one request as they come in: chunks of one byte, their extensions and trailers have an end too."""
HEAD_WAIT_S: Final = 10.0
KEEP_ALIVE_S: Final = 75
CONNECTIONS_MAX: Final = 256
TURNED_AWAY_MAX: Final = 32
"""How many more are told that it is full; whoever comes after them is cut off, so that descriptors do not run out."""
PIPELINED_MAX: Final = 16
GRACE_S: Final = 5
ENDED_BY: Final = (signal.SIGTERM, signal.SIGINT)
HEADERS: Final = (
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
"""On every answer: it is no page, no other site's page may embed it, and it is out of date at once."""


class PortTaken(Exception):
    """The port, or the socket beside it, cannot be had; the text says why and is fit for users."""


class _Enough(Exception):
    """Raised inside the parser, to make it stop; `_why` of the protocol says what for."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with an end to heads, to pipelines and to patience: its parser has none.

    What comes in is a head, a body, or between: the request before is complete, and the next has not begun.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._where = "between"
        self._came = 0
        self._head_bytes = 0
        self._deaf = False
        self._why = (400, "Bad request", "This is not HTTP/1.1 as it should be.")
        self._patience: asyncio.TimerHandle | None = None
        self._be_patient(HEAD_WAIT_S)
        if len(self.connections) > CONNECTIONS_MAX + TURNED_AWAY_MAX:
            transport.abort()
        elif len(self.connections) > CONNECTIONS_MAX:
            self.app = _full

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._came += len(data)
        if self._patience is None:
            self._be_patient(HEAD_WAIT_S)
        super().data_received(data)
        if self._where == "head" and self._came > HEAD_MAX:
            self._bye(431, "Too large", f"A request's head here has at most {HEAD_MAX} bytes.")
        elif self._came > MESSAGE_MAX:
            self._bye(413, "Too large", f"A request here has at most {MESSAGE_MAX} bytes.")

    def on_message_begin(self) -> None:
        self._where = "head"
        self._came = 0
        self._head_bytes = 0
        self._be_patient(HEAD_WAIT_S)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer: both are kept, so both are counted."""
        self._count(len(name) + len(value) + FIELD_COSTS)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= PIPELINED_MAX:
            self._why = (400, "Bad request", f"At most {PIPELINED_MAX} requests may be sent ahead of their answers.")
            raise _Enough
        if not self.url.startswith(b"/"):
            _go_by_the_target(self.url, self.headers)
        super().on_headers_complete()
        self._where = "body"
        if self.parser.should_upgrade():
            # Nothing is upgraded here, and the parser would not read another request.
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._where = "between"
        self._be_patient(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What could not be parsed is told so in the one shape that errors have here."""
        self._bye(*self._why)

    def _count(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > HEAD_MAX:
            self._why = (431, "Too large", f"A request's head here has at most {HEAD_MAX} bytes.")
            raise _Enough

    def _be_patient(self, wait_s: float | None) -> None:
        """Wait so long for the rest of what is coming in; None: nothing is."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if wait_s is None else self.loop.call_later(wait_s, self._too_slow, self._where)

    def _too_slow(self, where: str) -> None:
        self._patience = None
        if self._where == "body" and where != "body":
            self._be_patient(BODY_WAIT_S)
        elif self._where == "body":
            self._bye(408, "Too slow", f"The body did not arrive within {BODY_WAIT_S:g} s.")
        elif self._where == "head":
            self._bye(408, "Too slow", f"The headers did not arrive within {HEAD_WAIT_S:g} s.")
        elif not self._is_answering():
            self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _bye(self, status: int, title: str, detail: str) -> None:
        """Answer what is coming in and close; but never in place of the answer to what came before."""
        if self.transport.is_closing() or self._deaf:
            return
        self._deaf = True
        self._be_patient(None)
        its_own = self._where == "body"
        if self._is_answering() and (self.pipeline or not its_own):
            self.cycle.keep_alive = False  # it is the last one
            return
        is_answered = its_own and (self.cycle.response_started or self.cycle.response_complete)
        if not is_answered and self._where != "between":
            body = json.dumps(wire.problem(status, title, detail)).encode()
            lines = [f"HTTP/1.1 {status} {title}", f"content-type: {wire.PROBLEM_JSON}", f"content-length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in HEADERS]
            self.transport.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + body)
        self.transport.close()


def _go_by_the_target(url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """`GET http://host/path`: what the target names counts, whatever Host says (RFC 9112, 3.2.2)."""
    named = urlsplit(url.decode("latin-1")).netloc.encode("latin-1")
    at = [index for index, (name, _) in enumerate(headers) if name == b"host"]
    if len(at) == 1 and named:
        headers[at[0]] = (b"host", named)


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    detail = f"{CONNECTIONS_MAX} connections are open, and more are not served at once."
    await refuse(send, 503, "Too many at once", detail, [(b"retry-after", b"1")])


class QuietServer(uvicorn.Server):
    """uvicorn wakes ten times a second to see whether it should end; this one is woken by the signal itself."""

    def __init__(
        self,
        config: uvicorn.Config,
        ending: asyncio.Event,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
        handed: Handed,
    ) -> None:
        super().__init__(config)
        self._ending = ending
        self._on_ready = on_ready
        self._on_end = on_end
        self._handed = handed

    async def main_loop(self) -> None:
        self.server_state.default_headers = self.config.encoded_headers
        self._on_ready()
        while not self._ending.is_set():
            self._handed.beat()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), self._handed.every_s)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """While the port is still held: whoever starts next must not lose his own socket file to us."""
        self._on_end()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._ending.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises the signal anew when it has ended; here a SIGTERM is a clean end."""
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():  # the only one that signals reach
            for sig in ENDED_BY:
                loop.add_signal_handler(sig, self.handle_exit, sig, None)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDED_BY)  # what came while it started counts as well
        yield


def _until(ending: asyncio.Event, app: App) -> App:
    """At the end, whoever waits for something to come learns that nothing will; what was asked is still answered."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        whole = False

        async def receive_until() -> Message:
            nonlocal whole
            if not whole:
                message = await receive()
                whole = not message.get("more_body")
                return message
            coming = asyncio.ensure_future(receive())
            ended = asyncio.ensure_future(ending.wait())
            try:
                await asyncio.wait((coming, ended), return_when=asyncio.FIRST_COMPLETED)
                return coming.result() if coming.done() else {"type": "http.disconnect"}
            finally:
                coming.cancel()
                ended.cancel()

        await app(scope, receive_until, send)

    return served


def listen(port: int, unix: Path | None, handed: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """127.0.0.1:`port`, and the unix socket beside it, which only its owner may open; what a supervisor `handed` over
    is taken as it is. Raises PortTaken."""
    given = [_as_wanted(each, port, unix) for each in handed]
    if not any(each.family == socket.AF_INET for each in given):
        given.insert(0, _listen_inet(port))
    if unix is None or any(each.family == socket.AF_UNIX for each in given):
        return given
    try:
        return [*given, _listen_unix(unix)]
    except OSError as problem:
        for each in given:
            each.close()
        raise PortTaken(f"{unix} cannot be listened on: {problem.strerror}. Is it in the way? Remove it.") from problem


def _as_wanted(handed: socket.socket, port: int, unix: Path | None) -> socket.socket:
    """A socket of the supervisor's; never one that others on the network could reach."""
    wanted: dict[int, object] = {socket.AF_INET: ("127.0.0.1", port), socket.AF_UNIX: str(unix)}
    listens = handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) if hasattr(socket, "SO_ACCEPTCONN") else 1
    if not listens or wanted.get(handed.family) != handed.getsockname():
        raise PortTaken(
            f"the supervisor handed over a socket on {handed.getsockname()!r}, and wanted are 127.0.0.1:{port} and "
            f"{unix}. To write its files anew: admit daemon install"
        )
    return handed


def _listen_inet(port: int) -> socket.socket:
    inet = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    inet.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        inet.bind(("127.0.0.1", port))
        # Two that start at once may both bind; only one may listen, and only he may touch the socket file.
        inet.listen(CONNECTIONS_MAX)
    except OSError as problem:
        inet.close()
        running = "Is admitd running already (admit status)? " if problem.errno == errno.EADDRINUSE else ""
        raise PortTaken(
            f"127.0.0.1:{port} cannot be had: {problem.strerror}. {running}"
            "Another port: --port N, or ADMIT_PORT=N for the daemon and the command line alike."
        ) from problem
    return inet


def _listen_unix(path: Path) -> socket.socket:
    # Whoever holds the port is the daemon; a socket file that is still there is a dead one's.
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        unix.bind(str(path))
        unix.listen(CONNECTIONS_MAX)
    except OSError:
        unix.close()
        raise
    finally:
        os.umask(before)
    return unix


def _nothing() -> None:
    return


def server(
    app: App, on_ready: Callable[[], None], on_end: Callable[[], None] = _nothing, handed: Handed = ALONE
) -> QuietServer:
    """A server for `app`. `on_ready` is called once it serves; `on_end` when the end begins, while the sockets are
    still held; `handed` hears the beat of its loop."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what clients do wrong is told to them
    ending = asyncio.Event()
    config = uvicorn.Config(
        _until(ending, app),
        http=BoundedProtocol,
        ws="none",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        headers=list(HEADERS),
        backlog=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    return QuietServer(config, ending, on_ready, on_end, handed)


def serve(made: QuietServer, sockets: list[socket.socket]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way, GRACE_S at most; a second signal: at once."""
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(made.serve(sockets=sockets))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
