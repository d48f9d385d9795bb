"""The gear itself: the servers are real, they answer, and they end when told."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.live.servers import GEAR, Servers, wait_until

# What a 300 MB model may take on top of its weights: the interpreter, the libraries, a little cache.
OVERHEAD_BYTES = 200 * 2**20


def rss(process: subprocess.Popen[bytes]) -> int:
    return psutil.Process(process.pid).memory_info().rss


def test_mlx_server_answers_and_ends(servers: Servers, mlx_model, free_port) -> None:
    """mlx_lm.server, by its console script, completes a token of a model made here, and SIGTERM ends it."""
    port = free_port()
    server = servers.start("mlx_lm.server", "--model", mlx_model(), "--port", str(port))
    servers.answer(port)
    assert psutil.Process(server.pid).name() == "mlx_lm.server"
    server.terminate()
    assert server.wait(timeout=10) == -signal.SIGTERM, servers.log(server)


def test_llama_server_answers_and_ends(servers: Servers, gguf_model, free_port) -> None:
    """llama-server, under its own name, completes a token of a model made here, and SIGTERM ends it well."""
    port = free_port()
    server = servers.start("llama-server", "-m", gguf_model(), "--port", str(port))
    servers.answer(port)
    assert psutil.Process(server.pid).name() == "llama-server"
    server.terminate()
    assert server.wait(timeout=10) == 0, servers.log(server)


def test_mlx_server_holds_the_weights_it_was_given(servers: Servers, mlx_model, free_port) -> None:
    """A model of 300 MB takes that, and little more: budgets in these tests can be reckoned from the option."""
    port = free_port()
    server = servers.start("mlx_lm.server", "--model", mlx_model("--mb", "300"), "--port", str(port))
    servers.answer(port)
    assert 280 * 2**20 < rss(server) < 300 * 2**20 + OVERHEAD_BYTES


def test_llama_server_holds_the_weights_it_was_given(servers: Servers, gguf_model, free_port) -> None:
    """The same for llama.cpp, which maps weights unless told to read them."""
    port = free_port()
    server = servers.start("llama-server", "-m", gguf_model("--mb", "300"), "--no-mmap", "--port", str(port))
    servers.answer(port)
    assert 280 * 2**20 < rss(server) < 300 * 2**20 + OVERHEAD_BYTES


def test_llama_server_says_what_is_wrong(servers: Servers, tmp_path: Path, free_port) -> None:
    """A load that fails, fails: exit 1, and the reason in what it printed."""
    server = servers.start("llama-server", "-m", tmp_path / "missing.gguf", "--port", str(free_port()))
    assert server.wait(timeout=30) == 1
    assert "missing.gguf" in servers.log(server)


def test_llama_server_finds_its_own_interpreter(servers: Servers, gguf_model, free_port) -> None:
    """Started from a PATH whose python3 knows nothing of llama.cpp, as a load_cmd may be."""
    elsewhere = next((p for p in map(Path, ("/usr/bin/python3", "/usr/local/bin/python3")) if p.exists()), None)
    if elsewhere is None or not (GEAR.parents[1] / ".venv").exists():
        pytest.skip("no second Python here, or no .venv to find")
    port = free_port()
    env = {**servers.env, "PATH": f"{elsewhere.parent}:/bin"}
    server = servers.start(GEAR / "llama-server", "-m", gguf_model(), "--port", str(port), env=env)
    servers.answer(port)
    assert psutil.Process(server.pid).name() == "llama-server"


def test_what_was_started_in_a_session_of_its_own_is_ended(servers: Servers) -> None:
    """What `admit load` leaves running, and a server stopped or deaf to SIGTERM, do not outlive their test."""
    deaf = "from signal import *; import time; signal(SIGTERM, SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf!r}], start_new_session=True)"
    starter = servers.start(sys.executable, "-c", program)
    starter.wait()
    servers.start("sleep", "60").send_signal(signal.SIGSTOP)
    wait_until(lambda: "deaf" in servers.log(starter))
    assert len(servers.alive()) == 2
    servers.stop_all(patience_s=1)
    assert servers.alive() == []


def test_ports_are_free_and_differ(free_port: Callable[[], int]) -> None:
    """Two servers of one test never meet on a port."""
    assert len({free_port() for _ in range(100)}) == 100
