"""probe: one real request to a service, bounded in time and size; it says whether the service answered."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from admitd.core.terms import Probe

READ_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class Heard:
    """What a probe heard. `answered`: the status that was expected."""

    answered: bool
    detail: str
    took_s: float


def ask(probe: Probe, timeout_s: float | None = None) -> Heard:
    """Send the probe's request. A redirect is an answer like any other and is never followed.

    The bound holds for the whole, not for each read: a server that lets its answer drip is as late as a silent one.
    """
    import http.client  # 15 ms of imports that only a probe needs

    began = time.monotonic()
    bound = probe.timeout_s if timeout_s is None else min(timeout_s, probe.timeout_s)
    url = urlsplit(probe.url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=bound)
    body = None if probe.json is None else json.dumps(probe.json).encode()
    headers = {"Connection": "close"} | ({"Content-Type": "application/json"} if body is not None else {})
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    end: threading.Timer | None = None
    try:
        connection.connect()
        end = threading.Timer(max(0.0, began + bound - time.monotonic()), _cut, [connection.sock])
        end.daemon = True
        end.start()
        connection.request(probe.method, target, body, headers)
        response = connection.getresponse()
        said = response.read(READ_MAX)
        detail = f"{response.status} from {probe.url}"
        answered = response.status == probe.expect_status
        if time.monotonic() - began >= bound:
            raise TimeoutError
        if not answered:
            detail += f", expected {probe.expect_status}: {said[:200].decode('utf-8', 'replace').strip()}"
        return Heard(answered, detail, time.monotonic() - began)
    except TimeoutError:
        return Heard(False, f"no answer from {probe.url} in {bound:g} s", time.monotonic() - began)
    except (OSError, http.client.HTTPException) as problem:
        if time.monotonic() - began >= bound:
            return Heard(False, f"no answer from {probe.url} in {bound:g} s", time.monotonic() - began)
        why = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        return Heard(False, f"{probe.url}: {why}", time.monotonic() - began)
    finally:
        if end is not None:
            end.cancel()
        connection.close()


def _cut(sock: socket.socket) -> None:
    """End a connection under whoever waits for it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
