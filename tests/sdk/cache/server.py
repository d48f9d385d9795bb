"""server: a real HTTP server on a free port that answers well, or badly in one of many ways, as each test tells it."""

from __future__ import annotations

import hashlib
import random
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PIECE = 64 << 10


def some_bytes(size: int, seed: int = 0) -> bytes:
    """The same bytes for the same seed."""
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Manners:
    """How one request is answered; as HTTP says it should be, where nothing is set."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    knows_ranges: bool = True
    knows_if_range: bool = True
    starts_off_by: int = 0
    ends_after: int | None = None
    said_length: int | None = None
    chunked: bool = False
    piece: int = PIECE
    waits_after: int | None = None
    body: bytes | None = None
    etag: str | None = None
    closes_at_once: bool = False


@dataclass
class Asked:
    """One request that came."""

    path: str
    headers: dict[str, str]


class Server:
    """Serves `files`; `next` holds how the next requests are answered, in turn; then each is answered well."""

    def __init__(self, http: ThreadingHTTPServer, scheme: str) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str | None] = {}
        self.next: list[Manners] = []
        self.always: Manners | None = None
        self.asked: list[Asked] = []
        self.go_on = threading.Event()
        self.waits = threading.Event()
        self.url = f"{scheme}://localhost:{http.server_port}"
        self._lock = threading.Lock()

    def put(self, path: str, data: bytes, etag: str | None = '"one"') -> str:
        """Serve `data` at `path`; its address."""
        self.files[path], self.etags[path] = data, etag
        return self.url + path

    def take(self, asked: Asked) -> Manners:
        with self._lock:
            self.asked.append(asked)
            return self.next.pop(0) if self.next else self.always or Manners()

    @property
    def ranges(self) -> list[str | None]:
        """What each request asked for."""
        return [each.headers.get("Range") for each in self.asked]


class Handler(BaseHTTPRequestHandler):
    """Answers as it is told."""

    ours: Server

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        ours = self.server.ours  # type: ignore[attr-defined]
        manners = ours.take(Asked(self.path, dict(self.headers)))
        if manners.closes_at_once:
            self.close_connection = True
            return
        path = self.path.partition("?")[0]
        data = manners.body if manners.body is not None else ours.files.get(path, b"")
        etag = manners.etag or ours.etags.get(path)
        status, start = self._where(manners, len(data), etag, path in ours.files)
        try:
            self._answer(manners, status, start, data, etag)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def _where(self, manners: Manners, size: int, etag: str | None, known: bool) -> tuple[int, int]:
        if manners.status:
            return manners.status, 0
        if not known:
            return 404, 0
        wanted = self.headers.get("Range")
        if wanted is None or not manners.knows_ranges:
            return 200, 0
        if manners.knows_if_range and self.headers.get("If-Range") not in (None, etag):
            return 200, 0
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        return (206, start) if start < size else (416, 0)

    def _answer(self, manners: Manners, status: int, start: int, data: bytes, etag: str | None) -> None:
        body = data[start + manners.starts_off_by :] if status in (200, 206) else b"no"
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        if status == 206:
            first = start + manners.starts_off_by
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        for name, value in manners.headers.items():
            self.send_header(name, value)
        if manners.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) if manners.said_length is None else manners.said_length))
        self.end_headers()
        if self.command != "HEAD":
            self._send(manners, body)
        self.close_connection = True

    def _send(self, manners: Manners, body: bytes) -> None:
        ours = self.server.ours  # type: ignore[attr-defined]
        end = len(body) if manners.ends_after is None else manners.ends_after
        sent = 0
        while sent < end:
            piece = body[sent : min(sent + manners.piece, end)]
            if not piece:
                break
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if manners.chunked else piece)
            sent += len(piece)
            if manners.waits_after is not None and sent >= manners.waits_after:
                ours.waits.set()
                ours.go_on.wait(60)
                manners.waits_after = None
        if manners.chunked and manners.ends_after is None:
            self.wfile.write(b"0\r\n\r\n")


class Http(ThreadingHTTPServer):
    """Its threads end with their connections."""

    daemon_threads = True
    ours: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    """A server, ended afterwards. `certificate`: a file with a key and a certificate, for HTTPS."""
    http = Http(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    ours = http.ours = Server(http, "https" if certificate else "http")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        ours.go_on.set()
        http.shutdown()
        http.server_close()
        thread.join(30)
