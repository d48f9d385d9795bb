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
    from http.client import HTTPConnection

READ_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class Heard:
    """What a probe heard. `answered`: the status that was expected."""

    answered: bool
    detail: str
    took_s: float


def ask(probe: Probe, timeout_s: float | None = None) -> Heard:
    """Send the probe's request. A redirect is an answer like any other and is never followed."""
    import http.client  # 15 ms of imports that only a probe needs

    began = time.monotonic()
    bound = probe.timeout_s if timeout_s is None else min(timeout_s, probe.timeout_s)
    url = urlsplit(probe.url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=bound)
    # A timeout of a socket begins anew with every byte; this one ends the whole of it.
    cut = threading.Timer(bound, _cut, (connection,))
    cut.daemon = True
    cut.start()
    try:
        answered, detail = _exchange(connection, probe)
    except (OSError, ValueError, http.client.HTTPException) as problem:
        if isinstance(problem, TimeoutError) or time.monotonic() - began >= bound:
            detail = f"no answer from {probe.url} in {bound:g} s"
        else:
            why = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
            detail = f"{probe.url}: {why}"
        answered = False
    finally:
        cut.cancel()
        connection.close()
    return Heard(answered, detail, time.monotonic() - began)


def _exchange(connection: HTTPConnection, probe: Probe) -> tuple[bool, str]:
    url = urlsplit(probe.url)
    body = None if probe.json is None else json.dumps(probe.json).encode()
    headers = {"Connection": "close"} | ({"Content-Type": "application/json"} if body is not None else {})
    connection.request(probe.method, (url.path or "/") + (f"?{url.query}" if url.query else ""), body, headers)
    response = connection.getresponse()
    said = response.read(READ_MAX)
    detail = f"{response.status} from {probe.url}"
    if response.status == probe.expect_status:
        return True, detail
    return False, f"{detail}, expected {probe.expect_status}: {said[:200].decode('utf-8', 'replace').strip()}"


def _cut(connection: HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
