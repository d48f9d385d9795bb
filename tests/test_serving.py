"""serving: HTTP/1.1 with an end to everything: heads, bodies, pipelines, connections and patience; and the sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from admitd import doorkeeper, serving
from admitd.core import wire
from admitd.doorkeeper import Receive, Scope, Send, refuse
from admitd.serving import HEAD_MAX, MESSAGE_MAX, PIPELINED_MAX
from tests.daemons import Door, Reply, free_port, parse, read_all, request, served, until

GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
let_go = threading.Event()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what was asked for; /wait keeps the answer back until `let_go`, /stay for as long as the client is there."""
    if scope["path"] == "/fault":
        raise ZeroDivisionError
    if scope["path"] == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
    if scope["path"] in ("/wait", "/read", "/half"):
        import asyncio

        if scope["path"] == "/wait":
            await asyncio.to_thread(let_go.wait, 20)
        else:
            while (await receive()).get("more_body"):
                pass
    if scope["path"] == "/half":
        await send({"type": "http.response.body", "body": b"23456789"})
        return
    said = f"{scope['method']} {scope['path']} {len(scope['headers'])}".encode()
    headers = [(b"content-length", str(len(said)).encode()), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@pytest.fixture(scope="module")
def _open() -> Iterator[Door]:
    with served(lambda port: echo) as door:
        yield door


@pytest.fixture
def door(_open: Door) -> Iterator[Door]:
    let_go.clear()
    yield _open
    let_go.set()
    assert _open.ask("GET", "/alive").status == 200, "it goes on, whatever was sent"


def refused(reply: Reply, status: int) -> str:
    assert (reply.status, reply.json()["status"]) == (status, status), reply
    assert reply.header("content-type") == wire.PROBLEM_JSON and reply.header("connection") == "close"
    detail: str = reply.json()["detail"]
    return detail


class TestWhatIsNotHttp:
    @pytest.mark.parametrize(
        "sent",
        [
            b"nonsense\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,  # a TLS client
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1 x\r\nHost: localhost\r\n\r\n",
            b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET x HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: line\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: loc\x00alhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: \x01\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\nHost: localhost\n\n\r\r",
            b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
            b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1x\r\n\r\n",
            b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % 10**30,
        ],
    )
    def test_is_told_so_in_the_one_shape(self, door: Door, sent: bytes) -> None:
        refused(door.exchange(sent), 400)

    @pytest.mark.parametrize(
        "framing",
        [
            b"Content-Length: 5\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5",
            b"Content-Length: 5\r\nContent-Length: 6",
            b"Content-Length: 5\r\nContent-Length: 5",
            b"Content-Length: 5, 5",
            b"Content-Length: +5",
            b"Content-Length: 0x5",
            b"Content-Length: 5 5",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding: \x0bchunked",
        ],
    )
    def test_requests_that_two_readers_would_cut_differently(self, door: Door, framing: bytes) -> None:
        """The second request, hidden in what one reader takes for a body, is never answered."""
        hidden = b"0\r\n\r\n" + GET % b"hidden"
        replies = parse(door.raw(b"POST /read HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n\r\n" + hidden))
        assert [reply.status for reply in replies] == [400]

    @pytest.mark.parametrize("chunk", [b"x\r\n", b"-1\r\n", b"5\r\nabc\r\n", b"f" * 17 + b"\r\n", b"1\r\nab\r\n"])
    def test_a_chunk_that_is_broken(self, door: Door, chunk: bytes) -> None:
        sent = request("POST", "/read", chunk + b"0\r\n\r\n\r\n\r\n", headers={"Transfer-Encoding": "chunked"})
        refused(door.exchange(sent), 400)

    def test_what_is_broken_after_the_answer_began_ends_the_connection(self, door: Door) -> None:
        with door.line() as line:
            line.sendall(request("POST", "/half", b"", headers={"Transfer-Encoding": "chunked"}, close=False))
            until(lambda: line.recv(4096, socket.MSG_PEEK).endswith(b"1"))
            line.sendall(b"x\r\n")
            assert read_all(line).count(b"HTTP/1.1") == 1

    def test_a_fault_inside_is_not_told_to_the_client(self, door: Door, caplog: pytest.LogCaptureFixture) -> None:
        assert b"ZeroDivision" not in door.raw(request("GET", "/fault"))
        assert "ZeroDivisionError" in caplog.text


class TestHeads:
    def test_a_large_head_is_read(self, door: Door) -> None:
        assert door.ask("GET", "/x", headers={"X": "x" * (HEAD_MAX - 400)}).status == 200

    @pytest.mark.parametrize("size", [HEAD_MAX, 2 * HEAD_MAX, 8 * HEAD_MAX])
    def test_a_head_that_is_too_large(self, door: Door, size: int) -> None:
        for headers in (
            {"X": "x" * size},
            {"X" * size: "x"},
            {f"X{number}": "x" * 90 for number in range(size // 100)},
        ):
            refused(door.ask("GET", "/", headers=headers), 431)
        refused(door.ask("GET", "/" + "x" * size), 431)

    def test_thousands_of_empty_headers(self, door: Door) -> None:
        refused(door.exchange(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a:\r\n" * 2000 + b"\r\n"), 431)

    @pytest.mark.parametrize("begun", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n", b""])
    @pytest.mark.parametrize("more", [b"x" * 4096, b"\r\n" * 2048, b"a: b\r\n" * 600])
    def test_a_head_that_never_ends(self, door: Door, begun: bytes, more: bytes) -> None:
        """It is cut off long before this has sent all that it has; what only ends lines is not even a head."""
        with door.line() as line, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            line.sendall(begun)
            for _ in range(2 * MESSAGE_MAX // len(more)):
                line.sendall(more)
            replies = parse(read_all(line))
            assert [reply.status for reply in replies] in ([431], [400], [200], [])

    def test_trailers_count_as_well(self, door: Door) -> None:
        sent = request("POST", "/read", b"0\r\n" + b"a: b\r\n" * 2000, headers={"Transfer-Encoding": "chunked"})
        refused(door.exchange(sent), 431)

    @pytest.mark.parametrize("more", [b"1;x=y\r\nz\r\n", b"1;" + b"x" * 4000 + b"\r\nz\r\n"])
    def test_a_body_that_is_mostly_wrapping(self, door: Door, more: bytes) -> None:
        head = request("POST", "/read", b"", headers={"Transfer-Encoding": "chunked"})
        with door.line() as line, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            line.sendall(head)
            for _ in range(2 * MESSAGE_MAX // len(more)):
                line.sendall(more)
            (reply,) = parse(read_all(line))
            refused(reply, 413)

    def test_a_body_that_nobody_reads_is_not_kept(self, door: Door) -> None:
        with door.line() as line, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            line.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n")
            for _ in range(3 * MESSAGE_MAX // 65_536):
                line.sendall(b"x" * 65_536)
            assert [reply.status for reply in parse(read_all(line))] == [200]


class TestPatience:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "HEAD_WAIT_S", 0.2)
        monkeypatch.setattr(serving, "BODY_WAIT_S", 0.2)

    def test_who_says_nothing_is_hung_up_on(self, door: Door) -> None:
        assert door.raw(b"") == b""

    @pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nHo"])
    def test_a_head_that_stops(self, door: Door, begun: bytes) -> None:
        refused(door.exchange(begun), 408)

    def test_a_head_that_dribbles(self, door: Door) -> None:
        """Each byte in time, and yet it ends."""
        with door.line() as line:
            line.settimeout(0.02)
            got = b""
            for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000:
                line.send(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    got = line.recv(65_536)
                    break
        (reply,) = parse(got)
        refused(reply, 408)

    @pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
    def test_a_body_that_stops(self, door: Door, framing: bytes) -> None:
        head = b"POST /read HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n\r\n"
        refused(door.exchange(head), 408)

    def test_the_body_of_what_was_answered_already(self, door: Door) -> None:
        """No second answer, and no connection that is kept open by a byte now and then."""
        replies = parse(door.raw(b"GET /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"))
        assert [reply.status for reply in replies] == [200]

    def test_line_ends_between_requests_do_not_keep_it_open(self, door: Door) -> None:
        with door.line() as line:
            line.sendall(GET % b"x")
            until(lambda: line.recv(65_536))
            line.sendall(b"\r\n")
            assert read_all(line) == b""

    def test_an_answer_may_take_as_long_as_it_likes(self, door: Door) -> None:
        with door.line() as line:
            line.sendall(request("GET", "/wait"))
            line.settimeout(0.6)
            with pytest.raises(TimeoutError):
                line.recv(1)
            let_go.set()
            line.settimeout(20)
            (reply,) = parse(read_all(line))
        assert reply.status == 200

    @pytest.mark.parametrize("behind", [b"GET /sec", b"nonsense\r\n\r\n"])
    def test_what_comes_behind_never_answers_for_what_is_under_way(self, door: Door, behind: bytes) -> None:
        """The 408 or 400 for the second request must not be taken for the answer to the first."""
        with door.line() as line:
            line.sendall(GET % b"wait" + behind)
            line.settimeout(0.6)
            with pytest.raises(TimeoutError):
                line.recv(1)
            let_go.set()
            line.settimeout(20)
            first, *rest = parse(read_all(line))
        assert (first.status, first.body) == (200, b"GET /wait 1") and rest == []

    def test_a_connection_is_kept_for_the_next_request(self, door: Door) -> None:
        with door.line() as line:
            for _ in range(3):
                line.sendall(GET % b"x")
                assert parse(line.recv(65_536))[0].status == 200
                line.settimeout(0.4)
                with pytest.raises(TimeoutError):
                    line.recv(1)
                line.settimeout(20)


class TestPipelines:
    def test_are_answered_in_order(self, door: Door) -> None:
        sent = b"".join(GET % b"%d" % number for number in range(PIPELINED_MAX))
        replies = parse(door.raw(sent + request("GET", "/last")))
        assert [reply.body.split()[1] for reply in replies] == [b"/%d" % n for n in range(PIPELINED_MAX)] + [b"/last"]

    def test_behind_a_slow_one_are_answered_in_order(self, door: Door) -> None:
        with door.line() as line:
            line.sendall(GET % b"wait" + GET % b"two" + request("GET", "/three"))
            let_go.set()
            bodies = [reply.body.split()[1] for reply in parse(read_all(line))]
        assert bodies == [b"/wait", b"/two", b"/three"]

    @pytest.mark.parametrize("path", [b"wait", b"x"])
    def test_have_an_end(self, door: Door, path: bytes) -> None:
        with door.line() as line, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            line.sendall(GET % path + b"".join(GET % b"%d" % number for number in range(5000)))
            let_go.set()
            replies = parse(read_all(line))
        assert len(replies) <= PIPELINED_MAX + 2 and {reply.status for reply in replies} <= {200, 400}

    def test_something_broken_behind_them_takes_nothing_from_them(self, door: Door) -> None:
        with door.line() as line:
            line.sendall(GET % b"wait" + GET % b"two" + b"nonsense\r\n\r\n" + GET % b"four")
            let_go.set()
            bodies = [reply.body.split()[1] for reply in parse(read_all(line))]
        assert bodies == [b"/wait", b"/two"]

    def test_nothing_is_upgraded_and_nothing_hangs(self, door: Door) -> None:
        for protocol in ("h2c", "websocket"):
            headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAMAAABkAAQ"}
            first, *rest = parse(door.raw(request("GET", "/x", headers=headers, close=False) + GET % b"hidden"))
            assert (first.status, first.header("connection"), rest) == (200, "close", [])


class TestConnections:
    def test_more_than_are_served_are_told_so_and_more_than_that_cut_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "CONNECTIONS_MAX", 4)
        monkeypatch.setattr(serving, "TURNED_AWAY_MAX", 2)
        with served(lambda port: echo) as door, ExitStack() as stack:
            lines = [stack.enter_context(door.line()) for _ in range(4)]
            for line in lines:
                line.sendall(GET % b"x")
                assert line.recv(65_536).startswith(b"HTTP/1.1 200")
            turned_away = [stack.enter_context(door.line()) for _ in range(2)]
            assert door.raw(request("GET", "/x")) == b""
            for line in turned_away:
                line.sendall(GET % b"x")
                (reply,) = parse(read_all(line))
                assert "4 connections" in refused(reply, 503) and reply.header("retry-after") == "1"
            lines[0].close()
            until(lambda: door.raw(request("GET", "/x")).startswith(b"HTTP/1.1 200"))

    def test_a_crowd_leaves_nothing_behind(self, door: Door) -> None:
        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd"))

        assert door.raw(request("GET", "/x"))
        before = descriptors()
        for number in range(150):
            door.raw([request("GET", "/x"), b"nonsense\r\n\r\n", b"GET / HT"][number % 2])
        until(lambda: descriptors() <= before + 1)


class TestTheEnd:
    def test_finishes_what_is_under_way_and_takes_nothing_new(self) -> None:
        let_go.clear()
        ends: list[bool] = []
        with ExitStack() as after:
            with served(lambda port: echo, on_end=lambda: ends.append(True)) as door:
                idle = after.enter_context(door.line())
                idle.sendall(GET % b"x")
                assert idle.recv(65_536)
                busy = after.enter_context(door.line())
                busy.sendall(GET % b"wait")
                threading.Timer(0.3, let_go.set).start()
            (reply,) = parse(read_all(busy))
            assert reply.status == 200 and read_all(idle) == b"" and ends == [True]
            with pytest.raises(ConnectionRefusedError):
                door.raw(GET % b"x")

    def test_what_outlasts_its_grace_is_told_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "GRACE_S", 0.3)

        began = threading.Event()

        async def long_act(scope: Scope, receive: Receive, send: Send) -> None:
            import asyncio

            began.set()
            await asyncio.Event().wait()

        with ExitStack() as after:
            with served(lambda port: doorkeeper.Doorkeeper(long_act, port)) as door:
                busy = after.enter_context(door.line())
                busy.sendall(GET % b"x")
                assert began.wait(10)
            (reply,) = parse(read_all(busy))
        assert "being stopped" in refused(reply, 503)


class TestSockets:
    def listen(self, port: int, unix: Path | None) -> list[socket.socket]:
        return serving.listen(port, unix)

    def test_only_this_machine_is_listened_to(self) -> None:
        (inet,) = self.listen(free_port(), None)
        with inet:
            assert inet.getsockname()[0] == "127.0.0.1"

    def test_the_unix_socket_is_its_owners_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        before = os.umask(0)
        try:
            inet, unix = self.listen(free_port(), path)
        finally:
            assert os.umask(before) == 0, "the umask is left as it was"
        with inet, unix:
            found = path.lstat()
            assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600

    def test_no_child_inherits_them(self, tmp_path: Path) -> None:
        for each in self.listen(free_port(), tmp_path / "s.sock"):
            with each:
                assert not each.get_inheritable()

    def test_a_port_that_is_taken_leaves_the_other_ones_socket_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        inet, unix = self.listen(free_port(), path)
        with inet, unix:
            port = inet.getsockname()[1]
            with pytest.raises(serving.PortTaken, match=f"127.0.0.1:{port} cannot be had.*running already.*--port"):
                self.listen(port, path)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))

    def test_a_port_that_two_have_bound_is_the_first_listeners(self, tmp_path: Path) -> None:
        """On Linux both may bind with SO_REUSEADDR, as long as neither listens."""
        path = tmp_path / "s.sock"
        with socket.socket() as rival:
            rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rival.bind(("127.0.0.1", 0))
            rival.listen()
            with pytest.raises(serving.PortTaken):
                self.listen(rival.getsockname()[1], path)
        assert not path.exists()

    def test_a_dead_ones_socket_file_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        inet, unix = self.listen(free_port(), path)
        with inet, unix, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))

    def test_another_file_in_its_place_is_left_and_told_of(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        path.write_text("precious")
        port = free_port()
        with pytest.raises(serving.PortTaken, match=r"s\.sock cannot be listened on.*in the way"):
            self.listen(port, path)
        assert path.read_text() == "precious"
        (inet,) = self.listen(port, None)  # and the port is free again
        inet.close()

    def test_a_folder_that_is_not_there_is_told_of(self, tmp_path: Path) -> None:
        with pytest.raises(serving.PortTaken, match="No such file"):
            self.listen(free_port(), tmp_path / "none" / "s.sock")

    def test_a_port_that_needs_root_is_told_of(self) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may")
        with pytest.raises(serving.PortTaken, match="Permission denied"):
            self.listen(1, None)


def test_a_refusal_may_be_sent_by_anyone() -> None:
    """`refuse` is also what the full house answers with."""
    import asyncio

    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    asyncio.run(refuse(send, 503, "Full", "No room.", [(b"retry-after", b"1")]))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
