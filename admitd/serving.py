"""serving: the HTTP server, bounded: headers that never end, clients that dribble, and an idle loop that sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from admitd.core import wire
from admitd.doorkeeper import App

HEAD_MAX: Final = 32 * 1024
HEAD_WAIT_S: Final = 10.0
KEEP_ALIVE_S: Final = 75
CONNECTIONS_MAX: Final = 256
GRACE_S: Final = 5


class PortTaken(Exception):
    """The port cannot be had; the text says why and is fit for users."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with an end to headers and to patience: its parser has neither."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_bytes = 0
        self._in_head = True
        self._patience = self.loop.call_later(HEAD_WAIT_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_MAX and not self.transport.is_closing():
            self._bye(431, "Too large", f"Headers here have at most {HEAD_MAX} bytes in all.")

    def on_message_begin(self) -> None:
        self._in_head = True
        self._patience.cancel()
        self._patience = self.loop.call_later(HEAD_WAIT_S, self._too_slow)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._patience.cancel()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What could not be parsed is told so in the one shape that errors have here."""
        self._bye(400, "Bad request", "This is not HTTP/1.1.")

    def _too_slow(self) -> None:
        if self._in_head and not self.transport.is_closing():
            if self._head_bytes:
                self._bye(408, "Too slow", f"The headers did not arrive within {HEAD_WAIT_S:g} s.")
            else:
                self.transport.close()

    def _bye(self, status: int, title: str, detail: str) -> None:
        body = json.dumps(wire.problem(status, title, detail)).encode()
        head = f"HTTP/1.1 {status} {title}\r\ncontent-type: {wire.PROBLEM_JSON}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()


class QuietServer(uvicorn.Server):
    """uvicorn wakes ten times a second to see whether it should end; this one is woken by the signal itself."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_end = on_end
        self._end: asyncio.Event | None = None

    async def main_loop(self) -> None:
        self._end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self.handle_exit, sig, None)
        self._on_ready()
        if not self.should_exit:
            await self._end.wait()
        self._on_end()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True
        if self._end is not None:
            self._end.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """uvicorn raises the signal anew when it has ended; here a SIGTERM is a clean end."""
        yield


def listen(port: int, unix: Path | None) -> list[socket.socket]:
    """127.0.0.1:`port`, and the unix socket beside it, which only its owner may open. Raises PortTaken."""
    inet = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    inet.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        inet.bind(("127.0.0.1", port))
    except OSError as problem:
        inet.close()
        raise PortTaken(
            f"127.0.0.1:{port} cannot be had: {problem.strerror}. Is admitd running already (admit status)? "
            "Another port: --port N, or ADMIT_PORT=N for the daemon and the command line alike."
        ) from problem
    sockets = [inet]
    if unix is not None:
        sockets.append(_listen_unix(unix))
    for each in sockets:
        each.listen(CONNECTIONS_MAX)
        each.set_inheritable(False)
    return sockets


def _listen_unix(path: Path) -> socket.socket:
    # Whoever holds the port is the daemon; a socket file that is still there is a dead one's.
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        unix.bind(str(path))
    finally:
        os.umask(before)
    return unix


def serve(
    app: App, sockets: list[socket.socket], on_ready: Callable[[], None], on_end: Callable[[], None] = lambda: None
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way, a few seconds at most. `on_end`: called before
    that, on the event loop, to end what would not end by itself."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = QuietServer(config, on_ready, on_end)
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(server.serve(sockets=sockets))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
