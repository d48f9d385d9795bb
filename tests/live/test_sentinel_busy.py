"""A server that is at work and answers late, or not at all: busy is not down."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from admitd import loading
from tests.live.sentinels import Guard, become, stand_in, start_stand_in
from tests.live.servers import Servers, wait_until

# What a load starts goes on by itself: nobody waits for it, which subprocess finds worth a warning.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

FreePort = Callable[[], int]
MakeGuard = Callable[..., Guard]


def test_a_server_in_a_long_generation_is_not_touched(
    servers: Servers, mlx_model: Any, free_port: FreePort, guard: MakeGuard
) -> None:
    """It answers no probe in time while it computes; busy is not down."""
    port = free_port()
    model = mlx_model("--mb", "300")
    server = servers.start("mlx_lm.server", "--model", model, "--port", str(port))
    servers.answer(port)
    chat = {
        "ram_budget_mb": 800,
        "process_pattern": rf"mlx_lm\.server .*--port {port}",
        "load_cmd": "false",
        "probe": {"url": f"http://127.0.0.1:{port}/v1/chat/completions", "timeout_s": 0.02, "startup_grace_s": 0.1},
    }
    body = '{"messages": [{"role": "user", "content": "%s"}], "max_tokens": 2000}' % ("many words " * 2000)
    generation = servers.start(
        sys.executable, "-c",
        "import sys, urllib.request as u\n"
        "r = u.Request(sys.argv[1], sys.argv[2].encode(), {'Content-Type': 'application/json'})\n"
        "u.urlopen(r, timeout=600).read(1); print('done')",
        chat["probe"]["url"], body,
    )  # fmt: skip
    with guard({"chat": chat}, probe_interval_s=0.5) as at_work:
        at_work.wait_for("busy", within_s=60)
        for _ in range(10):
            if generation.poll() is None:
                at_work.rounds(1)
        assert "recovering" not in at_work.kinds()
        assert server.poll() is None


def test_one_that_works_and_does_not_answer_is_told_once_and_left_alone(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    process = start_stand_in(servers, port)
    with guard({"chat": stand_in(port)}) as at_work:
        become(port, "works")
        at_work.wait_for("busy")
        at_work.rounds(6)
        become(port, "ok")
    assert at_work.kinds() == ["busy"]
    assert process.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="what is sent is counted on Linux alone")
def test_one_that_goes_on_answering_another_and_takes_no_processor_time_is_busy(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    """It waits for its GPU, word by word."""
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "stream")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100)
        with guard({"chat": stand_in(port)}) as at_work:
            at_work.wait_for("busy")
            at_work.rounds(8)
        assert "recovering" not in at_work.kinds()
    assert process.poll() is None


@pytest.mark.parametrize("followed", [pytest.param(True, id="and it answered admit load"), False])
def test_one_that_works_since_it_was_started_is_not_recovered(
    servers: Servers, free_port: FreePort, guard: MakeGuard, followed: bool
) -> None:
    """`admit load chat && a long batch`: no probe was answered, and it works beyond its load_timeout_s. Where nobody
    followed its load, it may as well spin since its start, and that is told."""
    port = free_port()
    made = guard({"chat": stand_in(port, load_timeout_s=3)})
    if followed:
        load = loading.Load(made.gate, made.gate.capacity().services["chat"], made.folder / "chat.log", None)
        assert isinstance(load.follow(lambda _: None), loading.Loaded)
        become(port, "works")
    with made as at_work:
        if not followed:
            start_stand_in(servers, port, "--mode", "works")
        at_work.wait_for("busy")
        (pid,) = at_work.pids("chat")
        wait_until(lambda: time.time() - psutil.Process(pid).create_time() > 4)
        at_work.rounds(4)
        assert at_work.pids("chat") == [pid]
        if not followed:
            at_work.wait_for("half_loaded")
            assert at_work.sentinel.insight.conditions()["chat"].half == "it has never answered its probe"
        become(port, "ok")
    assert set(at_work.kinds()) <= {"loaded", "busy", "probe_answered", *([] if followed else ["half_loaded"])}
