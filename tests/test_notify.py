"""Telling people: channels that fail, hang or are missing; floods; and secrets that stay secret."""

from __future__ import annotations

import http.server
import json
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from admitd import channels, notify
from admitd.channels import AppriseChannel, Channel, CommandChannel, DesktopChannel
from admitd.core import grouping
from admitd.core.events import Event, Severity
from admitd.core.grouping import Message
from admitd.core.terms import Sentinel
from admitd.extras import install
from admitd.journal import Journal
from admitd.notify import Notifier

# Apprise imports it on a Python that still has it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

SECRET = "hunter2"
URL = f"ntfy://me:{SECRET}@ntfy.example/topic-{SECRET}"
WOKEN = Event("woken", "qemu was stopped (state T) for 8 s and was woken", Severity.WARNING, "qemu", "admit status")
CLOSED = Event("closed", "coder was closed: it held 20000 MB", Severity.CRITICAL, "coder", numbers={"held_mb": 20000})
WAIT_S = 20.0


class Recorded:
    """A channel that keeps what it is given; `answer` decides what becomes of each message."""

    def __init__(self, label: str, answer: Callable[[Message], str | None] = lambda _: None) -> None:
        self.label = label
        self.answer = answer
        self.taken: list[Message] = []
        self.came = threading.Semaphore(0)

    def send(self, message: Message) -> str | None:
        self.taken.append(message)
        try:
            return self.answer(message)
        finally:
            self.came.release()

    def wait(self) -> Message:
        assert self.came.acquire(timeout=WAIT_S), f"nothing came to {self.label}"
        return self.taken[-1]


class Told:
    """A notifier with channels of the test's own, and all that it said of itself."""

    def __init__(self, made: Sequence[Channel], clock: Callable[[], float] = lambda: 0.0) -> None:
        self.recorded: list[Event] = []
        self.said: list[str] = []
        self.notifier = Notifier(
            Sentinel, self.recorded.append, make=lambda _: made, clock=clock, complain=self.said.append
        )


def message(*events: Event) -> Message:
    return grouping.message(events, "box")


# The notifier.


def test_an_event_reaches_every_channel() -> None:
    one, two = Recorded("one"), Recorded("two")
    told = Told([one, two])
    told.notifier.tell(WOKEN)
    assert one.wait() == two.wait()
    assert one.taken[0].body == f"{WOKEN.text}\n  admit status"
    assert told.said == []


def test_what_is_only_for_the_record_is_not_told() -> None:
    channel = Recorded("one")
    told = Told([channel])
    told.notifier.tell(Event("loaded", "x is loaded"))
    told.notifier.tell(WOKEN)
    assert channel.wait().events == (WOKEN,)


def test_what_comes_soon_after_waits_and_closing_sends_it() -> None:
    channel = Recorded("one")
    told = Told([channel])
    told.notifier.tell(WOKEN)
    channel.wait()
    for _ in range(3):
        told.notifier.tell(WOKEN)
    told.notifier.close(WAIT_S)
    assert [each.body.splitlines()[0] for each in channel.taken] == [WOKEN.text, f"{WOKEN.text} (3 times)"]


def test_a_window_that_ends_sends_what_waited() -> None:
    """The clock goes on by itself here: the second message is due as soon as it is put."""
    now = iter(range(0, 10_000_000, 100))
    channel = Recorded("one")
    told = Told([channel], clock=lambda: float(next(now)))
    for _ in range(2):
        told.notifier.tell(WOKEN)
        channel.wait()
    assert len(channel.taken) == 2


def test_without_channels_nothing_happens() -> None:
    told = Told([])
    told.notifier.tell(WOKEN)
    told.notifier.close(WAIT_S)
    assert (told.recorded, told.said) == ([], [])


def test_closing_one_that_never_told_anything_is_quick() -> None:
    Told([]).notifier.close(WAIT_S)


def raising(_: Message) -> str | None:
    raise ConnectionError(f"cannot reach {URL}")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda _: "it was not taken", "it was not taken"),
        (raising, "it failed (ConnectionError)"),
    ],
)
def test_a_broken_channel_is_told_on_another_and_remembered_once(
    answer: Callable[[Message], str | None], why: str
) -> None:
    broken, fine = Recorded("broken", answer), Recorded("fine")
    now = [0.0]
    told = Told([broken, fine], clock=lambda: now[0])
    told.notifier.tell(WOKEN)
    fine.wait()
    assert fine.wait().body.startswith(f"the channel broken did not take a message: {why}")
    now[0] = 1000.0
    told.notifier.tell(WOKEN)
    told.notifier.close(WAIT_S)
    assert [(each.kind, each.next) for each in told.recorded] == [("channel_failed", None)], (
        "no command tests a channel"
    )
    assert len(fine.taken) == 3
    assert SECRET not in "".join(str(each) for each in (*told.recorded, *fine.taken, *told.said))


def test_a_channel_that_works_again_may_fail_anew() -> None:
    answers = iter(["no", None, "no"])
    channel = Recorded("one", lambda _: next(answers))
    now = iter(range(0, 10_000_000, 100))
    told = Told([channel], clock=lambda: float(next(now)))
    for _ in range(3):
        told.notifier.tell(WOKEN)
        channel.wait()
    told.notifier.close(WAIT_S)
    assert [each.kind for each in told.recorded] == ["channel_failed"] * 2


def test_where_no_channel_works_it_is_said_on_stderr() -> None:
    told = Told([Recorded("one", lambda _: "no route"), Recorded("two", lambda _: "no bus")])
    told.notifier.tell(WOKEN)
    told.notifier.close(WAIT_S)
    (said,) = told.said
    assert "nobody could be told" in said
    assert "no route" in said
    assert "no bus" in said


def test_a_channel_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "CHANNEL_WAIT_S", 0.2)
    release = threading.Event()

    def hang(_: Message) -> str | None:
        release.wait(WAIT_S)
        return None

    hanging, fine = Recorded("hanging", hang), Recorded("fine")
    told = Told([hanging, fine], clock=iter(map(float, range(0, 10_000_000, 100))).__next__)
    for _ in range(100):
        told.notifier.tell(WOKEN)  # never blocks
    assert fine.wait().events[0] == WOKEN
    fine.wait()
    told.notifier.tell(CLOSED)
    told.notifier.close(WAIT_S)
    release.set()
    assert len(hanging.taken) == 1  # not sent another message while it hangs
    assert CLOSED in [event for each in fine.taken for event in each.events]
    assert [each.text for each in told.recorded] == ["the channel hanging did not take a message: no answer in 0.2 s"]


def test_a_flood_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    channel = Recorded("one", lambda _: None if release.wait(WAIT_S) else "late")
    told = Told([channel])
    for _ in range(3 * notify.QUEUE_MAX):
        told.notifier.tell(WOKEN)
    assert told.notifier.left_out >= notify.QUEUE_MAX
    release.set()


def test_settings_that_cannot_be_had_end_nothing() -> None:
    said: list[str] = []
    settings = iter([None])

    def broken() -> Sentinel:
        if next(settings, 0) is None:
            raise OSError("gone")
        return Sentinel()

    channel = Recorded("one")
    clock = iter(map(float, range(0, 10_000_000, 100))).__next__
    notifier = Notifier(broken, make=lambda _: [channel], clock=clock, complain=said.append)
    notifier.tell(WOKEN)
    notifier.tell(CLOSED)
    assert channel.wait().events
    assert said == ["admit: a message could not be sent (OSError)"]


def test_what_the_journal_writes_is_told(tmp_path: Path) -> None:
    """As the daemon wires it: whatever is remembered here is told too, and a failed channel does not feed itself."""
    journal = Journal(tmp_path / "journal.jsonl")
    channel = Recorded("one", lambda _: "no route")
    notifier = Notifier(Sentinel, journal.write, make=lambda _: [channel], complain=lambda _: None)
    journal.listen(notifier.tell)
    journal.write(WOKEN)
    channel.wait()
    notifier.close(WAIT_S)
    assert [entry.event.kind for entry in journal.read()] == ["woken", "channel_failed"]
    assert len(channel.taken) == 1


# Channels as declared.


def test_channels_are_made_as_declared_and_named_without_secrets() -> None:
    made = channels.of(Sentinel(notify=("desktop://", URL), notify_command=f"curl -H {SECRET}"))
    assert [type(each) for each in made] == [DesktopChannel, AppriseChannel, CommandChannel]
    assert [each.label for each in made] == ["notify[0] (desktop://)", "notify[1] (ntfy://)", "notify_command"]
    assert SECRET not in "".join(each.label for each in made)
    assert channels.of(Sentinel()) == []


class Inbox:
    """A web service that takes what Apprise posts to it, with an answer of the test's choice."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        inbox = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.taken.append((self.headers["Authorization"] or "", json.loads(body)))
                self.send_response(inbox.status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self) -> str:
        return f"json://me:{SECRET}@127.0.0.1:{self.server.server_port}/{SECRET}"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.server.shutdown()
    inbox.server.server_close()


@pytest.mark.parametrize(("event", "kind"), [(WOKEN, "warning"), (CLOSED, "failure")])
def test_apprise_brings_plain_text_to_where_its_url_says(inbox: Inbox, event: Event, kind: str) -> None:
    said = message(event)
    assert AppriseChannel("n", inbox.url()).send(said) is None
    ((authorization, body),) = inbox.taken
    assert authorization.startswith("Basic ")
    assert (body["title"], body["message"], body["type"]) == (said.title, said.body, kind)


def test_what_apprise_logs_goes_nowhere(
    inbox: Inbox, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    inbox.status = 500
    caplog.set_level(logging.DEBUG, "apprise")
    AppriseChannel("n", inbox.url()).send(message(WOKEN))
    out = capfd.readouterr()
    assert len(inbox.taken) == 1
    assert SECRET not in out.out + out.err + caplog.text


def test_what_was_not_taken_is_said_without_the_url(inbox: Inbox) -> None:
    inbox.status = 403
    why = AppriseChannel("n", inbox.url()).send(message(WOKEN))
    assert why == "it was not taken; try the URL with Apprise's own command, apprise -vv"


def test_a_url_that_is_none_of_apprise_is_said_without_it() -> None:
    why = AppriseChannel("n", f"nosuch://{SECRET}").send(message(WOKEN))
    assert why == "Apprise takes it for no URL of its own; see its list of services"


def test_without_apprise_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert AppriseChannel("n", URL).send(message(WOKEN)) == f"Apprise is not installed: {install('notify')}"


def test_a_command_gets_json_on_stdin_and_words_in_its_environment(tmp_path: Path) -> None:
    where = tmp_path / "said"
    command = (
        f'cat > {where}.json; printf \'%s|\' "$ADMIT_EVENT_KIND" "$ADMIT_EVENT_SEVERITY" "$ADMIT_EVENT_SERVICE" '
        f'"$ADMIT_EVENT_NEXT" "$ADMIT_EVENT_TEXT" > {where}.words'
    )
    assert CommandChannel("c", command).send(message(WOKEN, CLOSED)) is None
    document = json.loads((tmp_path / "said.json").read_text())
    assert (document["kind"], document["severity"], document["service"]) == ("closed", "critical", "coder")
    assert document["numbers"] == {"held_mb": 20000}
    assert [each["kind"] for each in document["events"]] == ["woken", "closed"]
    words = (tmp_path / "said.words").read_text().split("|")
    assert words[:4] == ["closed", "critical", "coder", ""]
    assert CLOSED.text in words[4]
    assert WOKEN.text in words[4]


def test_a_list_is_run_as_it_is_whatever_the_text_holds(tmp_path: Path) -> None:
    where = tmp_path / "said"
    nasty = Event("woken", "`id` $(id) ; 'x' \0 \n", Severity.WARNING)
    command = ("/bin/sh", "-c", 'printf "%s" "$ADMIT_EVENT_TEXT" > "$1"', "sh", str(where))
    assert CommandChannel("c", command).send(message(nasty)) is None
    assert where.read_text() == nasty.text.replace("\0", "")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (f"echo {SECRET}; exit 3", "it ended with exit 3"),
        (("/nonexistent/hunter2",), "it cannot be run: No such file or directory"),
        ("kill -9 $$", "it ended with killed by SIGKILL"),
    ],
)
def test_a_command_that_fails_says_so_without_secrets(
    command: str | tuple[str, ...], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert CommandChannel("c", command).send(message(WOKEN)) == why
    out = capfd.readouterr()
    assert SECRET not in out.out + out.err


def test_a_command_that_hangs_is_ended_with_its_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(channels, "COMMAND_WAIT_S", 0.3)
    pids = tmp_path / "pids"
    why = CommandChannel("c", f"sleep 300 & echo $! > {pids}; wait").send(message(WOKEN))
    assert why == "it did not end in 0.3 s"
    if sys.platform == "linux":
        assert has_ended(int(pids.read_text()))


def has_ended(pid: int) -> bool:
    """Whether a process ends, soon."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], WAIT_S)[0])
    finally:
        os.close(fd)


def test_on_linux_the_text_is_no_markup() -> None:
    event = Event("closed", "<b>a & b</b>", Severity.CRITICAL, "x")
    command = DesktopChannel("d", "linux").command(message(event))
    assert command[:6] == ("notify-send", "-a", "admit", "-u", "critical", "--")
    assert command[7] == "&lt;b&gt;a &amp; b&lt;/b&gt;"


def test_on_macos_the_text_is_an_argument_and_no_script() -> None:
    event = Event("closed", '-e "do shell script"', Severity.CRITICAL, "x")
    command = DesktopChannel("d", "darwin").command(message(event))
    assert command[0] == "osascript"
    assert command[-2] == ' -e "do shell script"'
    assert command[-1] == message(event).title
    assert not any("do shell" in each for each in command[:-2])


def test_a_desktop_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert DesktopChannel("d", "linux").send(message(WOKEN)) == "it cannot be run: No such file or directory"


def test_the_desktop_is_asked_as_declared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in = tmp_path / "notify-send"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert DesktopChannel("d", "linux").send(message(WOKEN)) is None
    said = (tmp_path / "said").read_text().splitlines()
    assert said[:5] == ["-a", "admit", "-u", "normal", "--"]
    assert said[6] == WOKEN.text
