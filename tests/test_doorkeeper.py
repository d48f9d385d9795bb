"""doorkeeper: the attacks that a server on localhost meets, each tried on the real server. `door` serves an application
that would do anything for anybody, and counts who got in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from admitd import doorkeeper
from admitd.core import wire
from admitd.doorkeeper import BODY_MAX, DROPPED_MAX, Doorkeeper, Message, Receive, Scope, Send
from tests.daemons import Door, Reply, parse, read_all, request, served, until


@dataclass
class Obliging:
    """An ASGI application that says yes."""

    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = await receive()
        self.seen.append((scope["method"], scope["path"], message["body"]))
        if scope["path"] == "/wait":
            while message["type"] != "http.disconnect":
                message = await receive()
            self.left.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@dataclass
class Guarded(Door):
    inside: Obliging = field(default_factory=Obliging)


@contextmanager
def guarded() -> Iterator[Guarded]:
    inside = Obliging()
    with served(lambda port: Doorkeeper(inside, port)) as door:
        yield Guarded(door.port, inside=inside)


@pytest.fixture(scope="module")
def _open() -> Iterator[Guarded]:
    with guarded() as door:
        yield door


@pytest.fixture
def door(_open: Guarded) -> Guarded:
    _open.inside.seen.clear()
    return _open


def kept_out(door: Guarded, reply: Reply, status: int) -> None:
    """Refused in the one shape, before anything inside knew of it, and with no word that lets a page read it."""
    body = reply.json()
    assert (reply.status, body["status"]) == (status, status), reply
    assert reply.header("content-type") == wire.PROBLEM_JSON and body["detail"]
    assert door.inside.seen == []
    assert not [name for name, _ in reply.headers if name.startswith("access-control-")]


def let_in(reply: Reply) -> None:
    assert (reply.status, reply.body) == (200, b"ok"), reply
    assert not [name for name, _ in reply.headers if name.startswith("access-control-")]


OURS = """
    127.0.0.1 localhost [::1] LOCALHOST LocalHost localhost. 127.0.0.1:{port} localhost:{port} LOCALHOST.:{port}
    [::1]:{port}
"""
OTHERS = """
    evil.test evil.test:{port} 127.0.0.1.evil.test localhost.evil.test evil.localhost 127.0.0.2 0.0.0.0 127.1 2130706433
    0x7f000001 [::] [::ffff:127.0.0.1] 192.168.0.1 box.local localhost:1 localhost:80 localhost: localhost:{port}0
    localhost:0{port} localhost:{port}:1 localhost:{port}@evil.test evil.test@localhost [::1 [::1]{port} [::1]x:{port}
    ::1 :{port} localhost.. .localhost localhost,evil.test http://localhost * localhost/ localhost\x80
    \xef\xbd\x8cocalhost
"""
ORIGINS = """
    null http://evil.test https://localhost:{port} http://localhost http://localhost:1 file:// localhost:{port}
    http://localhost:{port}.evil.test http://localhost:{port}/ http://evil.localhost http://localhost:{port}@evil.test
    chrome-extension://abc
"""


class TestHost:
    @pytest.mark.parametrize("host", OURS.split())
    def test_names_of_this_machine(self, door: Guarded, host: str) -> None:
        let_in(door.ask("GET", "/", host=host.format(port=door.port)))

    @pytest.mark.parametrize("host", [*OTHERS.split(), "", "localhost evil.test"])
    def test_names_of_others(self, door: Guarded, host: str) -> None:
        kept_out(door, door.ask("GET", "/", host=host.format(port=door.port)), 421)

    def test_no_host_or_two(self, door: Guarded) -> None:
        kept_out(door, door.ask("GET", "/", host=None), 400)
        for second in ("localhost", "evil.test"):
            kept_out(door, door.ask("GET", "/", headers={"host": second}), 400)

    def test_http_1_0_needs_one_too(self, door: Guarded) -> None:
        kept_out(door, door.exchange(b"GET / HTTP/1.0\r\n\r\n"), 400)
        let_in(door.exchange(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"))

    def test_a_target_with_a_host_of_its_own_is_judged_by_that(self, door: Guarded) -> None:
        """RFC 9112, 3.2.2: it replaces the Host header."""
        let_in(door.ask("GET", f"http://localhost:{door.port}/", host="evil.test"))
        door.inside.seen.clear()
        kept_out(door, door.ask("GET", "http://evil.test/", host="localhost"), 421)
        kept_out(door, door.ask("GET", "http://localhost@evil.test/"), 421)
        kept_out(door, door.ask("GET", f"http://localhost:{door.port}/", host=None), 400)

    def test_the_body_of_who_is_not_let_in_is_not_awaited(self, door: Guarded) -> None:
        sent = request("POST", "/", host="evil.test", headers={"Content-Type": "application/json"}, body=b"")
        kept_out(door, door.exchange(sent.replace(b"Content-Length: 0", b"Content-Length: 10")), 421)


class TestPagesOfOtherSites:
    @pytest.mark.parametrize("origin", [*ORIGINS.split(), "", "http://localhost:{port} http://evil.test"])
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
    def test_a_foreign_origin(self, door: Guarded, method: str, origin: str) -> None:
        sent = {"Origin": origin.format(port=door.port)}
        kept_out(door, door.ask(method, "/", {} if method == "POST" else None, headers=sent), 403)

    @pytest.mark.parametrize(
        "origin", ["http://localhost:{port}", "http://127.0.0.1:{port}", "HTTP://LOCALHOST:{port}"]
    )
    def test_our_own_page(self, door: Guarded, origin: str) -> None:
        own = {"Origin": origin.format(port=door.port), "Sec-Fetch-Site": "same-origin"}
        let_in(door.ask("POST", "/", {}, headers=own))

    def test_two_origins(self, door: Guarded) -> None:
        own = f"http://localhost:{door.port}"
        for second in (own, "http://evil.test"):
            kept_out(door, door.ask("GET", "/", headers={"Origin": own, "origin": second}), 403)

    @pytest.mark.parametrize("site", ["cross-site", "same-site", "", "Same-Origin", "same-origin, cross-site"])
    def test_what_the_browser_says_of_other_sites(self, door: Guarded, site: str) -> None:
        kept_out(door, door.ask("GET", "/", headers={"Sec-Fetch-Site": site}), 403)

    @pytest.mark.parametrize("site", ["same-origin", "none"])
    def test_what_the_browser_says_of_us(self, door: Guarded, site: str) -> None:
        let_in(door.ask("GET", "/", headers={"Sec-Fetch-Site": site}))
        door.inside.seen.clear()
        kept_out(door, door.ask("GET", "/", headers={"Sec-Fetch-Site": site, "sec-fetch-site": "cross-site"}), 403)

    @pytest.mark.parametrize(
        "kind",
        [
            *["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json"],
            *[
                "text/plain; application/json",
                "application/json, text/plain",
                "application/jsonp",
                "application/json/x",
            ],
        ],
    )
    def test_a_post_without_preflight(self, door: Guarded, kind: str) -> None:
        """What a page may send without asking first is never JSON."""
        kept_out(door, door.ask("POST", "/", b'{"service": "x"}', headers={"Content-Type": kind}), 415)

    def test_a_post_without_a_type_or_with_two(self, door: Guarded) -> None:
        for size in ("1", "00", "x"):
            kept_out(door, door.ask("POST", "/", headers={"Content-Length": size}), 400 if size == "x" else 415)
        kept_out(door, door.ask("POST", "/", headers={"Transfer-Encoding": "chunked"}), 415)
        two = {"Content-Type": "application/json", "content-type": "text/plain"}
        kept_out(door, door.ask("POST", "/", b"{}", headers=two), 415)

    @pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
    def test_a_post_of_json(self, door: Guarded, kind: str) -> None:
        let_in(door.ask("POST", "/", b"{}", headers={"Content-Type": kind}))

    def test_a_preflight_learns_nothing(self, door: Guarded) -> None:
        asked = {"Origin": "http://evil.test", "Access-Control-Request-Method": "POST"}
        asked |= {"Access-Control-Request-Private-Network": "true", "Access-Control-Request-Headers": "content-type"}
        kept_out(door, door.ask("OPTIONS", "/admit", headers=asked), 403)

    def test_nothing_may_embed_or_keep_or_guess_an_answer(self, door: Guarded) -> None:
        for reply in (door.ask("GET", "/"), door.ask("GET", "/", host="evil.test"), door.exchange(b"nonsense\r\n\r\n")):
            assert reply.header("cross-origin-resource-policy") == "same-origin"
            assert reply.header("x-content-type-options") == "nosniff"
            assert reply.header("cache-control") == "no-store"


class TestBodies:
    def test_a_body_is_handed_on_whole(self, door: Guarded) -> None:
        body = b"x" * BODY_MAX
        let_in(door.ask("POST", "/a", body))
        chunked = b"".join(b"1\r\nx\r\n" for _ in range(3000)) + b"0\r\n\r\n"
        let_in(door.ask("POST", "/b", chunked, headers={"Transfer-Encoding": "chunked"}))
        assert door.inside.seen == [("POST", "/a", body), ("POST", "/b", b"x" * 3000)]

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    @pytest.mark.parametrize("size", [BODY_MAX + 1, DROPPED_MAX])
    def test_a_body_that_is_too_large(self, door: Guarded, method: str, size: int) -> None:
        """Also a client that reads nothing before it has sent everything gets to read the answer."""
        kept_out(door, door.ask(method, "/", b"x" * size), 413)
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
        kept_out(door, door.ask(method, "/", chunked, headers={"Transfer-Encoding": "chunked"}), 413)

    def test_a_body_that_is_announced_too_large_is_never_asked_for(self, door: Guarded) -> None:
        for size in ("99999999", "1" * 18):
            asked = {"Expect": "100-continue", "Content-Length": size, "Content-Type": "application/json"}
            kept_out(door, door.ask("POST", "/", headers=asked), 413)

    def test_a_body_that_is_asked_for_first(self, door: Guarded) -> None:
        let_in(door.ask("POST", "/", b"{}", headers={"Expect": "100-continue"}))

    def test_a_body_that_never_ends(self, door: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doorkeeper, "DROP_WAIT_S", 0.1)
        head = request("POST", "/", b"", headers={"Transfer-Encoding": "chunked"}, close=False)
        with door.line() as line:
            line.sendall(head + b"%x\r\n%b" % (2 * BODY_MAX, b"x" * (BODY_MAX + 1)))
            (reply,) = parse(read_all(line))
        kept_out(door, reply, 413)

    @pytest.mark.parametrize("framing", [{"Content-Length": "9"}, {"Transfer-Encoding": "chunked"}])
    def test_a_body_that_does_not_come(
        self, door: Guarded, monkeypatch: pytest.MonkeyPatch, framing: dict[str, str]
    ) -> None:
        monkeypatch.setattr(doorkeeper, "BODY_WAIT_S", 0.2)
        with door.line() as line:
            line.sendall(request("POST", "/", b"", headers=framing, close=False))
            (reply,) = parse(read_all(line))
        kept_out(door, reply, 408)

    def test_a_request_whose_client_goes_halfway_is_forgotten(self, door: Guarded) -> None:
        with door.line() as line:
            line.sendall(request("POST", "/", b'{"service": "x"}', headers={"Content-Length": "17"}, close=False))
        let_in(door.ask("GET", "/after"))
        assert [path for _, path, _ in door.inside.seen] == ["/after"]

    def test_what_has_no_body_is_not_waited_for(self, door: Guarded) -> None:
        let_in(door.ask("GET", "/", headers={"Content-Length": "5"}))


class TestTheInside:
    def test_learns_that_a_client_has_gone(self, door: Guarded) -> None:
        door.inside.left.clear()
        with door.line() as line:
            line.sendall(request("POST", "/wait", {}))
            until(lambda: door.inside.seen)
            assert not door.inside.left.is_set()
        assert door.inside.left.wait(5)

    def test_learns_that_the_daemon_ends_and_still_answers(self) -> None:
        with ExitStack() as after:
            with guarded() as other:
                line = after.enter_context(other.line())
                line.sendall(request("POST", "/wait", {}, close=False))
                until(lambda: other.inside.seen)
            # The server ended around the open request.
            (reply,) = parse(read_all(line))
        let_in(reply)
        assert other.inside.left.is_set() and reply.header("connection") == "close"

    @pytest.mark.parametrize("target", ["/" + "x" * 2048, "/?" + "x" * 2048, "/%41" * 600])
    def test_a_path_that_is_too_long(self, door: Guarded, target: str) -> None:
        kept_out(door, door.ask("GET", target), 414)

    def test_other_kinds_of_connection_are_left_alone(self) -> None:
        import asyncio

        async def nobody(*_: object) -> None:
            raise AssertionError("nothing is said")

        asyncio.run(Doorkeeper(nobody, 1)({"type": "websocket"}, nobody, nobody))  # type: ignore[arg-type]
