"""`admit events`: history and what comes, with a daemon and without one; for people and for programs."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from admit_cli.events import MOST, parse_since
from admitd.core.events import Event, Severity
from tests.ownhome import WAIT_S, Home, plain


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def test_nothing_yet_is_said_so(home: Home) -> None:
    assert home.admit("events") == (0, "", "admit: nothing of that kind was written down yet\n")
    code, out, err = home.admit("events", "--json")
    assert (code, json.loads(out), err) == (0, {"events": []}, "")


def test_it_needs_neither_a_daemon_nor_a_capacity_file(home: Home) -> None:
    home.config.unlink()
    home.remember("nap is loaded")
    code, out, err = home.admit("events")
    assert (code, plain(out), err) == (0, "WHEN  loaded           nap is loaded\n", "")


def test_each_shows_when_what_and_the_next_command(home: Home) -> None:
    home.journal.write(Event("load_failed", "bad failed to load", Severity.WARNING, "bad", "admit load bad"), 86_400.0)
    out = home.admit("events")[1]
    assert out == f"1970-01-02 00:00:00  load_failed      bad failed to load\n{'':38}next: admit load bad\n"


def test_text_cannot_play_with_the_terminal(home: Home) -> None:
    home.remember("red \x1b[31m alert\r\n\x07 \u202e")
    out = home.admit("events")[1]
    assert out.count("\n") == 1
    assert not any(each in out for each in "\x1b\r\x07\u202e")


def test_it_can_be_narrowed(home: Home) -> None:
    now = time.time()
    home.remember("two hours ago", at=now - 7200)
    home.remember("of bad", "bad")
    home.remember("now")
    out = home.admit("events", "--since", "1h", "--service", "nap")[1]
    assert plain(out) == "WHEN  loaded           now\n"
    body = json.loads(home.admit("events", "--service=nap", "--json")[1])
    assert [event["text"] for event in body["events"]] == ["two hours ago", "now"]


def test_the_last_hundred_unless_since_asks_for_more(home: Home) -> None:
    for number in range(150):
        home.remember(str(number))
    assert len(home.admit("events")[1].splitlines()) == 100
    assert len(home.admit("events", "--since", "1d")[1].splitlines()) == 150


def test_what_since_leaves_out_is_said(home: Home) -> None:
    for number in range(MOST):
        home.remember(str(number))
    assert home.admit("events", "--since", "1d")[2] == ""
    home.remember("one more")
    code, out, err = home.admit("events", "--since", "1d", "--json")
    shown = [event["text"] for event in json.loads(out)["events"]]
    assert (code, len(shown), shown[0], shown[-1]) == (0, MOST, "1", "one more")
    assert err.startswith(
        "admit: these are the last 1000 since then, and there are older ones: narrow it with --service"
    )
    assert err.endswith("/journal.jsonl\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 9_910.0),
        ("1h", 6_400.0),
        ("0", 10_000.0),
        ("1d", -76_400.0),
        ("1970-01-01T01:00:00+00:00", 3600.0),
        ("1970-01-01T01:00Z", 3600.0),
    ],
)
def test_since_is_a_while_or_a_date(text: str, seconds: float) -> None:
    assert parse_since(text, 10_000.0) == seconds


def test_a_date_without_a_zone_is_local() -> None:
    local = datetime(2026, 11, 21, 10, 0).astimezone(UTC).timestamp()
    assert parse_since("2026-11-21T10:00", 0.0) == local


@pytest.mark.parametrize("text", ["yesterday", "", "-1h", "d", "9999999d", "0000-00-00"])
def test_what_is_no_time_is_wrong_usage(home: Home, text: str) -> None:
    code, out, err = home.admit("events", f"--since={text}")
    assert (code, out) == (64, "")
    assert "1h" in err


def test_what_becomes_another_program_is_remembered_before(home: Home) -> None:
    code, out, _ = home.admit("run", "nap", "--", "echo", "became it")
    assert (code, out) == (0, "became it\n")
    assert home.kinds() == ["admitted"]


def test_follow_without_a_daemon_follows_the_file(home: Home) -> None:
    home.remember("before")
    process = home.start("events", "--follow")
    assert plain(lines_of(process, 1)[0]) == "WHEN  loaded           before\n"
    home.remember("after")
    assert plain(lines_of(process, 1)[0]) == "WHEN  loaded           after\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_follow_sees_what_a_daemon_does_and_is_json_a_line(home: Home) -> None:
    process = home.start("events", "--follow", "--json", "--service", "nap")
    with home.daemon():
        home.post("/admit", {"service": "bad"})
        home.post("/admit", {"service": "nap"})
        (line,) = lines_of(process, 1)
    assert (json.loads(line)["kind"], json.loads(line)["service"]) == ("admitted", "nap")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT_S)


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_a_reader_that_has_enough_ends_it_quietly(home: Home, follow: list[str]) -> None:
    for number in range(90):
        home.remember(f"{number} " + "x" * 1900)
    process = home.start("events", *follow)
    lines_of(process, 1)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    home.remember("one more, for the one that follows")
    assert process.wait(timeout=WAIT_S) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_journal_that_cannot_be_read_is_said_so(home: Home) -> None:
    home.state.mkdir(parents=True)
    (home.state / "journal.jsonl").symlink_to("/dev/zero")
    code, out, err = home.admit("events")
    assert (code, out) == (1, "")
    assert "journal.jsonl" in err
