"""The probe: one real request, bounded in time and size, whatever the other side does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from admitd import probe
from admitd.core.terms import Probe

Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answers one connection after the other in a thread; returns the URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(answer: Callable[[socket.socket], None]) -> str:
        def run() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    try:
                        answer(connection)
                    except OSError:
                        continue

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/v1/chat?x=1"

    yield serve
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for thread in threads:
        thread.join(10)


def asked(url: str, timeout_s: float = 5.0, **more: object) -> probe.Heard:
    fields: dict[str, object] = {"method": "GET", "json": None, "expect_status": 200, "startup_grace_s": 0.0, **more}
    return probe.ask(Probe(url=url, timeout_s=timeout_s, **fields))  # type: ignore[arg-type]


def says(text: str) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(text.encode())

    return answer


def test_the_expected_status_is_an_answer(serve: Serve) -> None:
    heard = asked(serve(says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")))
    assert heard.answered
    assert heard.detail.startswith("200 from http://127.0.0.1:")


def test_the_body_is_sent_as_json(serve: Serve) -> None:
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        got = b""
        while b"}" not in got:
            got += connection.recv(65_536)
        seen.append(got)
        connection.sendall(b"HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n")

    assert asked(serve(answer), method="POST", json={"max_tokens": 1}, expect_status=201).answered
    assert seen[0].startswith(b"POST /v1/chat?x=1 HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\n" in seen[0]
    assert seen[0].endswith(b'{"max_tokens": 1}')


@pytest.mark.parametrize("status", ["503 Loading", "302 Found\r\nLocation: http://127.0.0.1:1/", "404 No"])
def test_another_status_is_none_and_a_redirect_is_not_followed(serve: Serve, status: str) -> None:
    heard = asked(serve(says(f"HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nwait")))
    assert not heard.answered
    assert heard.detail.endswith(", expected 200:\nwait")


@pytest.mark.parametrize(
    "text", ["", "SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]
)
def test_nonsense_is_no_answer_and_no_accident(serve: Serve, text: str) -> None:
    assert not asked(serve(says(text))).answered


def test_of_its_url_a_probe_tells_where_it_leads_and_no_more(serve: Serve) -> None:
    url = serve(says("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"))
    assert url.endswith("/v1/chat?x=1")
    assert asked(url).detail == f"500 from {url.removesuffix('?x=1')}, expected 200"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert asked(f"http://127.0.0.1:{port}?x=1").detail.startswith(f"http://127.0.0.1:{port}: ")
    assert probe.shown("http://me:secret@[::1]:80/v1?key=secret#secret") == "http://[::1]:80/v1"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    heard = asked(f"http://127.0.0.1:{port}/")
    assert not heard.answered
    assert "Connection refused" in heard.detail
    assert heard.refused


def test_silence_ends_at_the_bound(serve: Serve) -> None:
    release = threading.Event()
    heard = asked(serve(lambda connection: release.wait(300) and None), timeout_s=0.3)
    release.set()
    assert heard.detail.startswith("no answer from")
    assert heard.detail.endswith("in 0.3 s")


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_dribble_ends_at_the_bound_too(serve: Serve, begin: bytes) -> None:
    """A socket's own timeout begins anew with every byte."""
    over = threading.Event()

    def dribble(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(begin)
        while not over.wait(0.05):
            connection.sendall(b"x")

    heard = asked(serve(dribble), timeout_s=0.4)
    over.set()
    assert not heard.answered


def test_a_flood_is_read_no_further_than_the_bound(serve: Serve) -> None:
    def flood(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65_536)

    assert asked(serve(flood)).answered


def test_the_shorter_of_two_bounds_counts(serve: Serve) -> None:
    release = threading.Event()
    url = serve(lambda connection: release.wait(300) and None)
    declared = Probe(url=url, method="GET", json=None, expect_status=200, timeout_s=300.0, startup_grace_s=0.0)
    assert not probe.ask(declared, 0.2).answered
    release.set()
