"""What went over connections, as the kernel of this machine counts it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from admitd.activity import ActivityWatch
from admitd.ownmetrics import Said
from admitd.processes import traffic
from admitd.processes.traffic import Moved
from tests.live.servers import wait_until
from tests.test_activity import SERVER, FakeTimes, NoSockets, scene

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel by netlink")

Pair = tuple[socket.socket, socket.socket, int]


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=["IPv4", "IPv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A server's end of a connection, the client's, and the server's port."""
    host, family = request.param
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"there is no {host} here")
    with listener, socket.create_connection(listener.getsockname()[:2]) as client:
        server, _ = listener.accept()
        with server:
            yield server, client, listener.getsockname()[1]


def counts(port: int) -> list[Moved]:
    return list(traffic.moved({port}).values())


def test_what_a_server_sends_and_receives_is_counted_from_its_side(pair: Pair) -> None:
    server, client, port = pair
    wait_until(lambda: len(counts(port)) == 1)
    (first,) = counts(port)
    server.sendall(b"x" * 1_000)
    client.sendall(b"y" * 50)
    assert client.recv(2_000) and server.recv(2_000)
    wait_until(lambda: counts(port) == [Moved(first.sent + 1_000, first.received + 50)])
    name, *_ = traffic.moved({port})
    assert list(traffic.moved({port})) == [name], "a connection keeps its name"


class OnePort(NoSockets):
    def ports(self, processes: object) -> frozenset[int]:
        return frozenset({8080})


def test_an_answer_that_goes_on_is_progress_and_one_to_each_question_is_none() -> None:
    """Who polls /health gets his answers from a server whose engine is dead, too."""
    seen: dict[int, Moved] = {}
    watch = ActivityWatch(FakeTimes(), OnePort(), lambda *_: Said(0, None), lambda: 0.0, lambda ports: dict(seen))
    watch.look(scene(SERVER), 0.0)

    def progress(**now: tuple[int, int]) -> int | None:
        seen.clear()
        seen.update({len(name): Moved(*counts) for name, counts in now.items()})
        return watch.progress("x")

    assert progress(polled=(0, 100), a=(1_000, 50)) == 0, "what was there before anybody looked is nobody's progress"
    assert progress(polled=(900, 200), a=(1_000, 50)) == 0
    assert progress(polled=(1_800, 300), a=(1_080, 50)) == 10
    assert progress(polled=(2_700, 400), ab=(9_000, 50)) == 10, "another connection"
    assert progress(ab=(9_008, 50)) == 11


def test_ports_that_nobody_is_connected_to_have_nothing() -> None:
    assert traffic.moved([]) == {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert traffic.moved({listener.getsockname()[1]}) == {}


def test_where_the_kernel_does_not_say_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_NETLINK_SOCK_DIAG", 9_999)
    assert traffic.moved({80}) == {}
