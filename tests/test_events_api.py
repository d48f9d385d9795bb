"""GET /events of a real daemon: history, the live stream, resuming, readers that are slow or gone, and a quick end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from admitd import eventstream
from admitd.journal import NAME, Journal
from tests.ownhome import CAPACITY, WAIT_S, Home, frames, until

STREAM = "text/event-stream"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    if (made.state / "logs" / "nap.log").exists():
        made.admit("unload", "nap")


@pytest.fixture
def daemon(home: Home) -> Iterator[subprocess.Popen[str]]:
    with home.daemon() as process:
        yield process


def texts(body: Any) -> list[str]:
    return [event["text"] for event in body["events"]]


# History.


def test_history_is_json_oldest_first(home: Home, daemon: subprocess.Popen[str]) -> None:
    home.remember("one")
    home.remember("two", None, "pressure")
    status, body = home.get("/events?limit=2")
    assert status == 200
    assert texts(body) == ["one", "two"]
    assert body["events"][0] | {"at": 0, "boot": "", "since_boot_s": 0, "pid": 0, "version": ""} == {
        "id": 2,
        "at": 0,
        "boot": "",
        "since_boot_s": 0,
        "pid": 0,
        "version": "",
        "kind": "loaded",
        "severity": "info",
        "service": "nap",
        "text": "one",
        "next": None,
        "numbers": {},
    }


def test_history_can_be_narrowed(home: Home, daemon: subprocess.Popen[str]) -> None:
    now = time.time()
    home.remember("old", at=now - 5000)
    home.remember("other", "bad")
    home.remember("new")
    assert texts(home.get(f"/events?service=nap&since={now - 1000}")[1]) == ["new"]
    assert texts(home.get("/events?service=nap")[1]) == ["old", "new"]
    assert texts(home.get("/events?service=never-heard-of")[1]) == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "since=yesterday", "since=-1", "since=nan", "since=inf", "since=1e300"],
)
def test_what_is_malformed_is_a_problem(home: Home, daemon: subprocess.Popen[str], query: str) -> None:
    status, body = home.get(f"/events?{query}")
    assert (status, body["status"], body["title"]) == (422, 422, "Malformed")


def test_a_journal_that_cannot_be_read_is_a_problem(home: Home, daemon: subprocess.Popen[str]) -> None:
    (home.state / "journal.jsonl").unlink()
    (home.state / "journal.jsonl").symlink_to("/dev/zero")
    status, body = home.get("/events")
    assert (status, body["title"]) == (503, "The journal cannot be read")


def test_the_schema_knows_both_shapes(home: Home, daemon: subprocess.Popen[str]) -> None:
    answers = home.get("/openapi.json")[1]["paths"]["/events"]["get"]["responses"]
    assert {"application/json", STREAM} <= set(answers["200"]["content"])
    assert "503" in answers


# What is written.


def test_a_load_and_its_end_are_remembered_by_whoever_did_them(home: Home, daemon: subprocess.Popen[str]) -> None:
    assert home.admit("load", "nap")[0] == 0
    assert home.post("/services/nap/unload", {})[0] == 200
    assert home.admit("load", "bad")[0] == 1
    assert home.post("/services/bad/load", {})[0] == 502
    failed = ["admitted", "load_failed", "given_back"]
    assert home.kinds() == ["daemon_started", "admitted", "loaded", "given_back", "unloaded", *failed, *failed]
    entries = home.remembered()
    assert {entry.pid == daemon.pid for entry in entries} == {True, False}
    numbers = entries[1].event.numbers
    assert (numbers["budget_mb"], numbers["free_mb"], numbers["pool_mb"], numbers["charged_mb"]) == (
        100,
        10240,
        10240,
        0,
    )


def test_what_only_asks_is_not_remembered(home: Home, daemon: subprocess.Popen[str]) -> None:
    home.post("/admit", {"service": "nap", "dry_run": True})
    home.get("/capacity")
    home.get("/plan?service=nap")
    home.get("/events")
    assert home.kinds() == ["daemon_started"]


def test_one_reservation_is_remembered_once(home: Home, daemon: subprocess.Popen[str]) -> None:
    asked = {"service": "nap", "holder_pid": os.getpid()}
    held = {home.post("/admit", asked)[1]["reservation"]["id"] for _ in range(3)}
    assert len(held) == 1
    assert home.kinds() == ["daemon_started", "admitted"]


def test_edits_of_the_file_and_a_clean_end_are_remembered(home: Home) -> None:
    with home.daemon():
        home.write("services: {nonsense")
        home.get("/capacity")
        home.write(CAPACITY.format(mark=os.getpid()))
        home.get("/capacity")
    assert home.kinds() == ["daemon_started", "config_broken", "config_reloaded", "daemon_stopped"]


def test_what_is_wrong_with_a_file_that_was_named_is_checked_by_its_name(home: Home) -> None:
    named = home.config.with_name("another file.yaml")
    named.write_text(home.config.read_text())
    named.chmod(0o600)
    with home.daemon("--config", str(named)):
        named.write_text("services: {nonsense")
        home.get("/capacity")
    broken = {entry.event.next for entry in home.remembered() if entry.event.kind == "config_broken"}
    assert broken == {f"admit --config '{named}' config check"}


def test_a_daemon_that_was_killed_says_no_goodbye(home: Home) -> None:
    with home.daemon() as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=WAIT_S)
    assert home.kinds() == ["daemon_started"]


def test_a_journal_that_cannot_be_written_stops_nobody(home: Home) -> None:
    home.state.mkdir(parents=True, mode=0o700)
    (home.state / "journal.jsonl").mkdir()
    with home.daemon() as process:
        assert home.post("/admit", {"service": "nap"})[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = home.said + process.stderr.read()
    assert said.count("cannot be written") == 1


# Live.


def test_what_happens_is_sent_at_once_whoever_does_it(home: Home, daemon: subprocess.Popen[str]) -> None:
    home.remember("before")
    with home.open("/events", Accept=STREAM) as answer:
        assert answer.status == 200
        assert answer.getheader("content-type", "").startswith(STREAM)
        sent = frames(answer)
        assert next(sent) == {"retry": "2000"}
        home.remember("by another process", kind="woken")
        frame = next(sent)
        assert (frame["event"], frame["data"]["text"]) == ("woken", "by another process")
        assert int(frame["id"]) == frame["data"]["id"] == home.remembered()[-1].id
        home.post("/admit", {"service": "nap"})
        assert next(sent)["event"] == "admitted"


def test_a_stream_can_be_narrowed(home: Home, daemon: subprocess.Popen[str]) -> None:
    with home.open("/events?service=bad", Accept=f"{STREAM}; q=0.9, */*") as answer:
        sent = frames(answer)
        next(sent)
        home.remember("of nap")
        home.remember("of bad", "bad")
        assert next(sent)["data"]["text"] == "of bad"


def test_a_stream_goes_on_after_the_last_id(home: Home, daemon: subprocess.Popen[str]) -> None:
    for number in range(5):
        home.remember(str(number))
    middle = home.remembered()[-3]
    with home.open("/events", Accept=STREAM, Last_Event_ID=str(middle.id)) as answer:
        sent = frames(answer)
        next(sent)
        assert [next(sent)["data"]["text"] for _ in range(2)] == ["3", "4"]
        home.remember("5")
        assert next(sent)["data"]["text"] == "5"


def test_a_journal_that_began_anew_is_told_from_its_beginning(home: Home, daemon: subprocess.Popen[str]) -> None:
    for number in range(5):
        home.remember(str(number))
    with home.open("/events?since=0", Accept=STREAM) as answer:
        sent = frames(answer)
        while not (frame := next(sent)).get("data") or frame["data"]["text"] != "4":
            pass
        for file in home.state.glob(f"{NAME}*"):
            file.unlink()
        home.journal = Journal(home.state / NAME)
        home.remember("anew")
        assert next(sent)["data"]["text"] == "anew", "while it was read"
    for query in ("", "?since=0"):
        with home.open(f"/events{query}", Accept=STREAM, Last_Event_ID="5000") as answer:
            sent = frames(answer)
            next(sent)
            assert next(sent)["data"]["text"] == "anew", "and while nobody read it"


@pytest.mark.parametrize("strange", ["", "x", "-3", "9" * 30])
def test_an_id_that_is_none_of_ours_begins_now(home: Home, daemon: subprocess.Popen[str], strange: str) -> None:
    home.remember("before")
    with home.open("/events", Accept=STREAM, Last_Event_ID=strange) as answer:
        sent = frames(answer)
        next(sent)
        home.remember("after")
        assert next(sent)["data"]["text"] == "after"


def test_a_stream_may_begin_in_the_past(home: Home, daemon: subprocess.Popen[str]) -> None:
    now = time.time()
    home.remember("old", at=now - 5000)
    for number in range(3):
        home.remember(str(number))
    with home.open(f"/events?since={now - 1000}&service=nap", Accept=STREAM) as answer:
        sent = frames(answer)
        next(sent)
        home.remember("3")
        assert [next(sent)["data"]["text"] for _ in range(4)] == ["0", "1", "2", "3"]


def test_a_reader_that_goes_leaves_nothing_behind(home: Home, daemon: subprocess.Popen[str]) -> None:
    """Twice as many as may be open at once, one after the other: each makes room when it goes."""

    def is_let_in() -> bool:
        with home.open("/events", Accept=STREAM) as answer:
            if answer.status == 200:
                next(frames(answer))
            return answer.status == 200

    for _ in range(2 * eventstream.STREAMS_MAX):
        until(is_let_in, "room for a stream")


def test_more_streams_than_may_be_are_refused(home: Home, daemon: subprocess.Popen[str]) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(eventstream.STREAMS_MAX):
            answer = opened.enter_context(home.open("/events", Accept=STREAM))
            next(frames(answer))
        status, body = home.get("/events", Accept=STREAM)
        assert (status, body["title"]) == (503, "Too many streams")
        assert home.get("/events")[0] == 200


def test_a_reader_that_does_not_read_holds_up_nobody(home: Home, daemon: subprocess.Popen[str]) -> None:
    slow = socket.create_connection(("127.0.0.1", home.port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(f"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: {STREAM}\r\n\r\n".encode())
    with home.open("/events", Accept=STREAM) as answer:
        sent = frames(answer)
        next(sent)
        for number in range(400):
            home.remember(f"{number} " + "x" * 1900)
        assert [next(sent)["data"]["text"].split()[0] for _ in range(400)] == [str(n) for n in range(400)]
        assert home.get("/capacity")[0] == 200
    slow.settimeout(WAIT_S)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    got = b""
    while b'"text": "399 ' not in got:
        part = slow.recv(65536)
        assert part, "the stream ended before all was sent"
        got += part
    slow.close()
    assert got.count(b"event: loaded") == 400


def test_the_daemon_does_not_wait_for_open_streams(home: Home) -> None:
    with home.daemon() as process, home.open("/events", Accept=STREAM) as answer:
        sent = frames(answer)
        next(sent)
        process.send_signal(signal.SIGTERM)
        assert list(sent) == []
        process.wait(timeout=WAIT_S)
        assert process.returncode == 0
    assert home.kinds()[-1] == "daemon_stopped"


def test_a_channel_of_the_file_is_told(home: Home) -> None:
    """A warning that the daemon writes down reaches the notify_command, and the text is in its environment."""
    said = home.folder / "said"
    more = f"sentinel: {{notify_command: 'cat > {said}.json; echo \"$ADMIT_EVENT_TEXT\" > {said}'}}\n"
    home.write(CAPACITY.format(mark=os.getpid()) + more)
    with home.daemon():
        assert home.post("/services/bad/load", {})[0] == 502
        until(lambda: said.exists() and said.read_text().endswith("\n"), "the command to be run")
    assert said.read_text() == "bad failed to load: load_cmd ended with exit 3\n  admit load bad\n"
    assert json.loads(Path(f"{said}.json").read_text())["kind"] == "load_failed"


# Keep-alive and headers, without waiting for them.


def test_a_quiet_stream_shows_that_it_lives(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import asyncio

    monkeypatch.setattr(eventstream, "ALIVE_EVERY_S", 0.0)
    monkeypatch.setattr(eventstream, "LOOK_EVERY_S", 0.01)

    async def three() -> list[bytes]:
        streams = eventstream.Streams(home.journal)
        out: list[bytes] = []
        async for frame in streams.stream(None, None, None, 100):
            out.append(frame)
            if len(out) == 3:
                streams.stop()
        return out

    assert asyncio.run(three()) == [b"retry: 2000\n\n", b": alive\n\n", b": alive\n\n"]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("text/event-stream", True),
        ("TEXT/Event-Stream", True),
        ("text/event-stream;q=0.5, */*", True),
        ("text/event-stream; q=0, application/json", False),
        ("text/event-streams", False),
    ],
)
def test_a_stream_is_what_asks_for_one(accept: str | None, wanted: bool) -> None:
    assert eventstream.is_wanted(accept) is wanted
