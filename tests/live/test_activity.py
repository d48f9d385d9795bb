"""Activity of real model servers: generating, idle, with a client that waits; seen without being in their traffic."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest

from admitd.activity import ActivityWatch
from admitd.core import ledger as ledgers
from admitd.core.activity import Activity
from admitd.core.terms import Probe, Process, Reading, Sighting, View
from admitd.gate import Scene
from admitd.processes.ps import identify
from admitd.processes.table import Look
from tests.core.worlds import capacity, service
from tests.live.servers import Servers, wait_until

LONG = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100_000, "ignore_eos": True}


def scene(pid: int, port: int, metrics: bool = True) -> Scene:
    """What a look sees of one server; without a probe nobody says where its metrics are."""
    found = identify(pid)
    assert found is not None
    probe = Probe(f"http://127.0.0.1:{port}/v1/chat/completions", "POST", {}, 200, 10.0, 0.0) if metrics else None
    declared = capacity(service("x", probe=probe))
    seen = (Sighting("x", Process(found, 0), False, "x"),)
    return Scene(ledgers.derive(declared, View(sightings=seen)), Reading(), Look(1, seen), 0.0, 0.0, ())


@contextmanager
def generating(port: int) -> Iterator[None]:
    """A client that streams a long answer, from its first token until the block ends."""
    over, begun = threading.Event(), threading.Event()

    def stream() -> None:
        body = json.dumps({**LONG, "stream": True})
        while not over.is_set():  # an answer ends where the context does; then the next one, on a connection of its own
            with suppress(OSError, http.client.HTTPException):
                client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                with closing(client):
                    client.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                    answer = client.getresponse()
                    while not over.is_set() and answer.readline():
                        begun.set()

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        over.set()
        thread.join()


def look(watch: ActivityWatch, seen: Scene) -> Activity:
    return watch.look(seen, time.monotonic())["x"]


def next_window(watch: ActivityWatch, seen: Scene) -> Activity:
    """What the watch says once a window of a second and more lies behind it."""
    look(watch, seen)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1.5)
    return look(watch, seen)


def start(kind: str, servers: Servers, models: dict[str, Any], port: int) -> int:
    if kind == "mlx":
        server = servers.start("mlx_lm.server", "--model", models["mlx"](), "--port", str(port))
    else:
        options = ["--slots"] if kind == "llama, slots" else ["--metrics"]
        server = servers.start("llama-server", "-m", models["gguf"](), "--port", str(port), *options)
    servers.answer(port)
    return server.pid


@pytest.mark.parametrize("kind", ["mlx", "llama, metrics", "llama, slots", "llama, not asked"])
def test_generating_is_busy_and_idle_is_idle(kind: str, servers: Servers, mlx_model, gguf_model, free_port) -> None:
    port = free_port()
    pid = start(kind, servers, {"mlx": mlx_model, "gguf": gguf_model}, port)
    seen = scene(pid, port, metrics=kind != "llama, not asked")
    watch = ActivityWatch()

    wait_until(lambda: next_window(watch, seen).busy is False, 30, lambda: "idle after its first answer")
    with generating(port):
        busy = next_window(watch, seen)
        assert busy.busy is True, busy.detail
        # Between two answers of this client nobody is connected; a random model may end one at any token.
        wait_until(lambda: look(watch, seen).connections == 1, 30, lambda: "the client that it works for")
        before = watch.progress("x")
        wait_until(lambda: watch.progress("x") > before + 20, 30, lambda: "progress while it generates")
        worked_at = look(watch, seen).last_active_s
    wait_until(lambda: next_window(watch, seen).busy is False, 30, lambda: "idle when the client has gone")
    # The server may notice a moment after its last token that its client has gone.
    wait_until(lambda: look(watch, seen).connections == 0, 30, lambda: "nobody connected")
    idle = look(watch, seen)
    assert idle.last_active_s is not None
    assert worked_at is not None
    assert idle.last_active_s >= worked_at


@pytest.mark.parametrize("kind", ["mlx", "llama, metrics"])
def test_our_own_probe_leaves_it_idle(kind: str, servers: Servers, mlx_model, gguf_model, free_port) -> None:
    port = free_port()
    seen = scene(start(kind, servers, {"mlx": mlx_model, "gguf": gguf_model}, port), port)
    watch = ActivityWatch()
    wait_until(lambda: next_window(watch, seen).busy is False, 30, lambda: "idle after its first answer")
    worked_at = look(watch, seen).last_active_s
    with watch.own_probe("x"):
        servers_answer(port)
    said = next_window(watch, seen)
    assert said.busy is False, said.detail
    assert said.last_active_s == worked_at


def servers_answer(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1})
    client.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    assert client.getresponse().read()
    client.close()


def test_a_client_that_says_nothing_leaves_an_mlx_server_unknown(servers: Servers, mlx_model, free_port) -> None:
    """It might wait for an answer; unknown counts as busy."""
    port = free_port()
    seen = scene(start("mlx", servers, {"mlx": mlx_model}, port), port)
    watch = ActivityWatch()
    wait_until(lambda: next_window(watch, seen).busy is False, 30, lambda: "idle after its first answer")
    client = http.client.HTTPConnection("127.0.0.1", port)
    client.connect()
    said = next_window(watch, seen)
    client.close()
    assert (said.busy, said.connections) == (None, 1)


@pytest.mark.slow
def test_an_idle_mlx_server_takes_less_than_half_of_what_counts_as_work(servers: Servers, mlx_model, free_port) -> None:
    """Its own ticking, over a window as long as the sentinel's."""
    port = free_port()
    seen = scene(start("mlx", servers, {"mlx": mlx_model}, port), port)
    watch = ActivityWatch()
    next_window(watch, seen)
    before, began = watch.progress("x"), time.monotonic()
    wait_until(lambda: time.monotonic() - began > 10)
    took = watch.progress("x") - before
    assert took <= 5, f"{took} ticks in 10 s"
