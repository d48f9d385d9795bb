"""probe: one real request to a service, bounded in time and size; it says whether the service answered."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from admitd.core.terms import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPConnection

READ_MAX: Final = 65_536
SAID_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Heard:
    """What a probe heard. `answered`: the status that was expected; `refused`: nobody listens there. What the server
    said itself, if anything, is the second line of `detail`."""

    answered: bool
    detail: str
    took_s: float
    refused: bool = False


def ask(probe: Probe, timeout_s: float | None = None) -> Heard:
    """Send the probe's request. A redirect is an answer like any other and is never followed.

    The bound holds for the whole, not for each read: a server that lets its answer drip is as late as a silent one.
    """
    import http.client  # 15 ms of imports that only a probe needs

    began = time.monotonic()
    refused = False
    bound = probe.timeout_s if timeout_s is None else min(timeout_s, probe.timeout_s)
    url = urlsplit(probe.url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=bound)
    try:
        with cut_after(connection, bound):
            answered, detail = _exchange(connection, probe)
        if time.monotonic() - began >= bound:
            answered, detail = False, _late(probe, bound)
    except (OSError, ValueError, http.client.HTTPException) as problem:
        refused = isinstance(problem, ConnectionRefusedError)
        why = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        is_late = isinstance(problem, TimeoutError) or time.monotonic() - began >= bound
        answered, detail = False, _late(probe, bound) if is_late else f"{shown(probe.url)}: {why}"
    finally:
        connection.close()
    return Heard(answered, detail, time.monotonic() - began, refused)


def shown(url: str) -> str:
    """What people may read of a URL: a query, like a user and a password, may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _late(probe: Probe, bound: float) -> str:
    return f"no answer from {shown(probe.url)} in {bound:g} s"


def _exchange(connection: HTTPConnection, probe: Probe) -> tuple[bool, str]:
    url = urlsplit(probe.url)
    body = None if probe.json is None else json.dumps(probe.json).encode()
    headers = {"Connection": "close"} | ({"Content-Type": "application/json"} if body is not None else {})
    connection.request(probe.method, (url.path or "/") + (f"?{url.query}" if url.query else ""), body, headers)
    response = connection.getresponse()
    said = response.read(READ_MAX)
    detail = f"{response.status} from {shown(probe.url)}"
    if response.status != probe.expect_status:
        told = said[:SAID_MAX].decode("utf-8", "replace").strip()
        return False, f"{detail}, expected {probe.expect_status}" + (f":\n{told}" if told else "")
    if response.length and len(said) < READ_MAX:
        return False, f"{detail}, but the answer broke off"
    return True, detail


@contextlib.contextmanager
def cut_after(connection: HTTPConnection, bound: float) -> Iterator[None]:
    """Connect, and end the connection after `bound`: a socket's own timeout begins anew with every byte."""
    connection.connect()
    sock = connection.sock  # kept here: http.client forgets it as soon as it has seen the headers

    def cut() -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(bound, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
