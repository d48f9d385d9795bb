"""ownmetrics: what a model server says of its own work, where it says anything: llama-server's /slots, and /metrics of
llama-server and vLLM. Asked on this machine only, bounded in time and size; redirects are not followed.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

BOUND_S: Final = 0.5
READ_MAX: Final = 1 << 20
WITHOUT: Final = (401, 403, 404, 405, 501)
"""What a server answers that has no such page, was started without it, or shows it to others only."""

# tools/server/README.md of llama.cpp, and vLLM's "Production Metrics": how many requests are under way or wait, and
# counters that grow with work. llama-server counts tokens when a request ends, n_decode_total while it runs.
UNDER_WAY: Final = frozenset(
    {
        b"llamacpp:requests_processing",
        b"llamacpp:requests_deferred",
        b"vllm:num_requests_running",
        b"vllm:num_requests_waiting",
    }
)
COUNTERS: Final = frozenset(
    {
        b"llamacpp:n_decode_total",
        b"llamacpp:prompt_tokens_total",
        b"llamacpp:tokens_predicted_total",
        b"vllm:prompt_tokens_total",
        b"vllm:generation_tokens_total",
    }
)


@dataclass(frozen=True, slots=True)
class Said:
    """Whether a request is under way, and a number that changes with work: it may start anew with each request."""

    working: bool
    count: int


class NoAnswer(Exception):
    """It did not answer in time, or not at all: another time it may."""


class NotTold(Exception):
    """It answers, and has no such page."""


def origin(url: str) -> tuple[str, int] | None:
    """Host and port to ask, from the URL of a probe; None where that is not plain HTTP to this machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return None
    return (host, port) if here and parts.scheme == "http" else None


def ask(host: str, port: int) -> Said:
    """What the server there says of its work. Raises NoAnswer or NotTold."""
    give_up_at = time.monotonic() + BOUND_S
    said = _metrics(_get(host, port, "/metrics", give_up_at)) or _slots(_get(host, port, "/slots", give_up_at))
    if said is None:
        raise NotTold
    return said


def _metrics(text: bytes | None) -> Said | None:
    """Prometheus text: `name{labels} value`; one name may stand there for several models."""
    under_way = count = 0.0
    known = False
    for line in (text or b"").splitlines():
        name, _, rest = line.partition(b" ")
        name = name.partition(b"{")[0]
        if name in UNDER_WAY or name in COUNTERS:
            try:
                value = float(rest.rpartition(b"}")[2].split()[0])
            except (ValueError, IndexError):
                continue
            known = True
            under_way += value if name in UNDER_WAY else 0.0
            count += value if name in COUNTERS else 0.0
    return Said(under_way > 0, _whole(count)) if known else None


def _slots(text: bytes | None) -> Said | None:
    try:
        slots = json.loads(text or b"")
        working = any(slot["is_processing"] for slot in slots)
        count = sum(_slot_count(slot) for slot in slots)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return Said(working, count)


def _slot_count(slot: dict[str, object]) -> int:
    """Tokens of the request that a slot works on, or worked on last."""
    count = 0
    prompt = slot.get("n_prompt_tokens_processed")
    count += prompt if isinstance(prompt, int) else 0
    following = slot.get("next_token")
    for each in following if isinstance(following, list) else [following]:
        decoded = each.get("n_decoded") if isinstance(each, dict) else None
        count += decoded if isinstance(decoded, int) else 0
    return count


def _whole(number: float) -> int:
    """Not every float has an integer; a server may say anything."""
    return int(number) if abs(number) < 1e15 else 0


def _get(host: str, port: int, path: str, give_up_at: float) -> bytes | None:
    """The body of a 200; None where there is no such page for us. The bound holds for the whole, not for each read."""
    connection = http.client.HTTPConnection(host, port, timeout=_left(give_up_at))
    end: threading.Timer | None = None
    try:
        connection.connect()
        end = threading.Timer(_left(give_up_at), _cut, [connection.sock])
        end.daemon = True
        end.start()
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        text = response.read(READ_MAX)
        _left(give_up_at)
        if response.status not in (200, *WITHOUT):
            raise NoAnswer(f"{response.status} from {path}")  # 503: it loads its weights
        return text if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, RuntimeError) as problem:
        raise NoAnswer(str(problem)) from problem
    finally:
        if end is not None:
            end.cancel()
        connection.close()


def _cut(sock: socket.socket) -> None:
    """End a connection under whoever waits for it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _left(give_up_at: float) -> float:
    left = give_up_at - time.monotonic()
    if left <= 0:
        raise NoAnswer(f"not within {BOUND_S:g} s")
    return left
