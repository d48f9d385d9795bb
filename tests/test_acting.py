"""Loading by the daemon what is there already: it is done when it answers, however many ask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from admitd import unloading
from admitd.acting import Acting
from admitd.core.respawn import Supervisor
from admitd.flight import Flight
from admitd.unloading import UnloadTimedOut
from tests import daemons
from tests.core.worlds import capacity, service
from tests.daemons import Daemon, Reply, running, sleeper, until
from tests.gates import gate


class Answers(ThreadingHTTPServer):
    """What is asked by a probe: it says `status`."""

    def __init__(self) -> None:
        self.status = 503
        self.asked = 0
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Answer(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[Answers]:
    with Answers() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def daemon_with(folder: Path, answers: Answers, load_timeout_s: int) -> Any:
    probe = {"url": answers.url, "timeout_s": 1}
    return running(folder, sleeper("big", 1, 8000, probe=probe, load_timeout_s=load_timeout_s))


def start_by_hand(daemon: Daemon) -> None:
    """`big` is started past the daemon: it is there, and does not answer yet."""
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(daemon.act, "/services/big/load")
        assert loading.result().status == 504
    assert daemon.state("big") == "loaded"


def test_what_is_there_and_answers_later_is_loaded_once_it_answers(tmp_path: Path, answers: Answers) -> None:
    with daemon_with(tmp_path / "it", answers, 2) as daemon:
        start_by_hand(daemon)
        daemon.write(daemon.capacity_file.read_text().replace("load_timeout_s: 2", "load_timeout_s: 60"))
        asked = answers.asked

        def load() -> Reply:
            while (reply := daemon.act("/services/big/load", timeout_s=60.0)).status == 409:
                pass  # another asks at this moment
            return reply

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            until(lambda: answers.asked > asked + 2)
            assert not any(each.done() for each in loads)
            answers.status = 200
            told = [each.result().json() for each in loads]
        assert {each["outcome"] for each in told} == {"already_loaded"}
        assert len(daemons.naps()) == 1


def test_what_is_there_and_does_not_answer_is_said_so_and_can_be_unloaded(tmp_path: Path, answers: Answers) -> None:
    with daemon_with(tmp_path / "it", answers, 2) as daemon:
        start_by_hand(daemon)
        reply = daemon.act("/services/big/load")
        assert reply.status == 504
        assert "big is loaded already, but did not answer within 2 s: 503" in reply.json()["detail"]
        assert daemon.act("/services/big/unload").json()["outcome"] == "unloaded"


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (UnloadTimedOut("It stays", (7,)), "; end it for certain: admit --config /a.yaml unload big --kill"),
        (UnloadTimedOut("It stays", ()), ""),
        (UnloadTimedOut("It came back", (7,), Supervisor("zsh", "kill 6")), "; this stops it for good: kill 6"),
        (
            UnloadTimedOut("It came back", (7,), Supervisor("somebody", None)),
            "; see what it is: admit --config /a.yaml explain big",
        ),
    ],
)
def test_what_did_not_go_is_said_with_the_next_command(
    outcome: UnloadTimedOut, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(unloading, "unload", lambda *_, **__: outcome)
    acting = Acting(Flight(gate(tmp_path, capacity(service("big")))), {"HOME": str(tmp_path)})
    status, body = asyncio.run(acting.unload("big", "/a.yaml", kill=False))
    assert (status, body["detail"], body["pids"]) == (504, f"{outcome.why}{said}.", list(outcome.pids))
