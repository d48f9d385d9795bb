"""The journal: several processes write at once, are killed while they do, and run out of disk; reading goes on."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitd import boot, trail
from admitd.core.events import Entry, Event, Severity, entry_json
from admitd.journal import Journal

PATIENCE_S = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.jsonl"


def event(text: str = "x was loaded", service: str | None = "x", kind: str = "loaded") -> Event:
    return Event(kind, text, service=service)


def texts(entries: list[Entry]) -> list[str]:
    return [entry.event.text for entry in entries]


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process, with the journal at hand."""
    head = """
        import os, resource, signal, sys
        from pathlib import Path
        from admitd.core.events import Event
        from admitd.journal import Journal
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out, err


# One writer.


def test_what_is_written_is_read_back_with_when_and_by_whom(path: Path) -> None:
    journal = Journal(path)
    before = time.time()
    full = Event("woken", "qemu was woken", Severity.WARNING, "qemu", "admit status", {"stopped_s": 8.5})
    journal.write(full)
    (entry,) = journal.read()
    assert entry.event == full
    assert before - 1 <= entry.at <= time.time() + 1
    assert (entry.id, entry.pid, entry.boot) == (1, os.getpid(), boot.boot_id())
    assert entry.version
    assert 0 < entry.since_boot_s <= boot.since_boot_s()


def test_only_its_owner_may_read_it(path: Path) -> None:
    Journal(path).write(event())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_journal_that_is_not_there_is_empty(path: Path) -> None:
    assert Journal(path).read() == []
    assert Journal(path).follow().more() == []


def test_the_last_ones_are_read_in_their_order(path: Path) -> None:
    journal = Journal(path)
    for number in range(30):
        journal.write(event(str(number)))
    assert texts(journal.read(limit=3)) == ["27", "28", "29"]
    assert [entry.id for entry in journal.read()] == list(range(1, 31))
    assert journal.read(limit=0) == []


def test_a_service_is_picked_out(path: Path) -> None:
    journal = Journal(path)
    for name in ("x", "y", "x", None):
        journal.write(event(f"{name}", name))
    assert texts(journal.read(service="x")) == ["x", "x"]


def deaf(event: Event) -> None:
    raise ValueError("deaf")


def test_a_listener_that_fails_spoils_nothing(path: Path) -> None:
    journal = Journal(path)
    heard: list[Event] = []
    journal.listen(deaf)
    end = journal.listen(heard.append)
    journal.write(event("one"))
    end()
    journal.write(event("two"))
    assert [each.text for each in heard] == ["one"]
    assert texts(journal.read()) == ["one", "two"]


def test_many_threads_write_and_nothing_is_lost(path: Path) -> None:
    journal = Journal(path)

    def write(number: int) -> None:
        for i in range(20):
            journal.write(event(f"{number}.{i}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.id for entry in journal.read(limit=1000)] == list(range(1, 161))


# When: clocks jump.


def test_since_leaves_out_what_is_older(path: Path) -> None:
    journal = Journal(path)
    now = time.time()
    for ago in (3600, 60, 1):
        journal.write(event(str(ago)), at=now - ago)
    assert texts(journal.read(since=now - 100)) == ["60", "1"]


def written_by_hand(path: Path, entries: list[Entry]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry_json(entry)) + "\n" for entry in entries))


def test_a_clock_that_was_set_meanwhile_hides_nothing_of_this_boot(path: Path) -> None:
    """Both were written in the last minutes, whatever the wall clock said then."""
    now, up = time.time(), boot.since_boot_s()
    ahead = Entry(1, now + 86_400, boot.boot_id(), up - 30, event("clock a day ahead"))
    behind = Entry(2, now - 86_400, boot.boot_id(), up - 20, event("clock a day behind"))
    before = Entry(0 + 3, now, boot.boot_id(), up - 7200, event("two hours ago, in truth"))
    written_by_hand(path, [before, ahead, behind])
    assert texts(Journal(path).read(since=now - 3600)) == ["clock a day ahead", "clock a day behind"]


def test_an_earlier_boot_with_a_wrong_clock_does_not_end_the_search(path: Path) -> None:
    now = time.time()
    fine = Entry(1, now - 60, "earlier", 100.0, event("a minute ago"))
    in_1970 = Entry(2, 5.0, "later", 5.0, event("before the clock was set"))
    written_by_hand(path, [fine, in_1970])
    assert texts(Journal(path).read(since=now - 3600)) == ["a minute ago"]


# Garbage.


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n",
        b"\n\n\n",
        b"not json\n",
        b"\x00" * 5000 + b"\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"3\n",
        b"null\n",
        b'{"id": true, "at": 1, "kind": "loaded", "text": "x"}\n',
        b'{"id": 1e999, "at": 1, "kind": "loaded", "text": "x"}\n',
        b'{"id": 5, "at": 1e999, "kind": "loaded", "text": "x"}\n',
        b'{"id": 5, "at": NaN, "kind": "loaded", "text": "x"}\n',
        b'{"id": 5, "at": 1, "kind": "loa',
        b"x" * (trail.LINE_MAX + 200_000) + b"\n",
        b"x" * (trail.LINE_MAX + 200_000),
    ],
    ids=lambda garbage: repr(garbage[:20]),
)
def test_garbage_is_passed_over(path: Path, garbage: bytes) -> None:
    journal = Journal(path)
    journal.write(event("before"))
    with path.open("ab") as file:
        file.write(garbage)
    journal.write(event("after"))
    Journal(path).write(event("of another"))
    assert texts(journal.read()) == ["before", "after", "of another"]
    assert [entry.id for entry in journal.read()] == [1, 2, 3]


def test_a_journal_of_nothing_but_garbage_begins_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(os.urandom(300_000))
    Journal(path).write(event())
    assert texts(Journal(path).read()) == ["x was loaded"]


def test_a_line_that_lacks_only_its_newline_keeps_its_id(path: Path) -> None:
    journal = Journal(path)
    journal.write(event("one"))
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert journal.read() == []  # it may still be in the middle of being written
    Journal(path).write(event("two"))
    assert [(entry.id, entry.event.text) for entry in journal.read()] == [(1, "one"), (2, "two")]


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_torn_line_is_passed_over_and_the_next_begins_afresh(path: Path, cut: int) -> None:
    journal = Journal(path)
    journal.write(event("one"))
    journal.write(event("torn"))
    path.write_bytes(path.read_bytes()[: -cut - 1])
    assert texts(journal.read()) == ["one"]
    Journal(path).write(event("two"))
    assert "two" in texts(journal.read())
    assert "one" in texts(journal.read())


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 13])
def test_lines_are_found_backwards_whatever_the_blocks(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "_BLOCK", step)
    file = tmp_path / "lines"
    file.write_bytes(b"one\n\ntwo\nthree is longer\nfour\ntorn")
    with file.open("rb") as opened:
        found = list(trail.lines_backwards(opened.fileno(), file.stat().st_size, file.stat().st_size))
    assert [line for line in found if line] == [b"four", b"three is longer", b"two", b"one"]


# Rotation.


def test_it_is_rotated_and_only_so_many_are_kept(path: Path) -> None:
    journal = Journal(path, file_max=2_000)
    for number in range(200):
        journal.write(event(str(number)))
    files = sorted(each.name for each in path.parent.iterdir())
    assert files == ["journal.jsonl", *(f"journal.jsonl.{n}" for n in range(1, 6)), "journal.lock"]
    assert all(each.stat().st_size <= 2_000 for each in path.parent.iterdir())
    read = journal.read(limit=1000)
    assert [entry.id for entry in read] == list(range(201 - len(read), 201))
    assert len(read) > 20


def test_ids_go_on_after_a_rotation_in_another_process(path: Path) -> None:
    journal = Journal(path)
    for _ in range(3):
        journal.write(event())
    path.rename(trail.older(path, 1))
    Journal(path).write(event("next"))
    assert [entry.id for entry in journal.read()] == [1, 2, 3, 4]


WRITERS = """
    journal = Journal(Path(sys.argv[1]), file_max=int(sys.argv[4]))
    sys.stdin = None
    for i in range(int(sys.argv[3])):
        journal.write(Event("loaded", f"{sys.argv[2]}.{i}", service="x", numbers={"filler": "z" * 300}))
    print(journal.failures)
"""


@pytest.mark.parametrize("file_max", [trail.FILE_MAX, 40_000], ids=["one file", "rotated meanwhile"])
def test_processes_write_at_once_and_nothing_is_lost_or_mixed(path: Path, file_max: int) -> None:
    writers = [child(WRITERS, path, n, 60, file_max) for n in range(5)]
    assert [finished(writer)[0].strip() for writer in writers] == ["0"] * 5
    read = Journal(path).read(limit=1000)
    assert [entry.id for entry in read] == list(range(1, 301))
    for n in range(5):
        mine = [text for text in texts(read) if text.startswith(f"{n}.")]
        assert mine == [f"{n}.{i}" for i in range(60)]


def test_a_follower_misses_nothing_while_files_are_rotated(path: Path) -> None:
    tail = Journal(path).follow()
    writers = [child(WRITERS, path, n, 60, 20_000) for n in range(3)]
    ids: list[int] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(ids) < 180 and time.monotonic() < deadline:
        ids += [entry.id for entry in tail.more()]
    for writer in writers:
        finished(writer)
    assert ids == list(range(1, 181))


# Killed in the middle.


def test_kill_9_in_the_middle_of_writing_loses_nothing_that_was_told(path: Path) -> None:
    """Whoever was told that it is written finds it; the next writer goes on at once."""
    told: dict[int, int] = {}
    for turn in range(8):
        writer = child(
            """
            journal = Journal(Path(sys.argv[1]))
            i = 0
            while True:
                journal.write(Event("loaded", f"{sys.argv[2]}.{i}", numbers={"filler": "z" * 2000}))
                print(i, flush=True)
                i += 1
            """,
            path,
            turn,
        )
        assert writer.stdout is not None
        for _ in range(3 + turn):
            told[turn] = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate(timeout=30)
        assert writer.returncode == -signal.SIGKILL
    journal = Journal(path)
    journal.write(event("alive"))
    read = journal.read(limit=10_000)
    found = set(texts(read))
    assert {f"{turn}.{i}" for turn, last in told.items() for i in range(last + 1)} <= found
    assert read[-1].event.text == "alive"
    ids = [entry.id for entry in read]
    assert ids == sorted(set(ids))


# No room, no permission, no time.


def test_a_full_disk_is_told_once_and_spoils_nothing(path: Path) -> None:
    writer = child(
        """
        path = Path(sys.argv[1])
        journal = Journal(path)
        journal.write(Event("loaded", "fits"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, resource.RLIM_INFINITY))
        for _ in range(5):
            journal.write(Event("loaded", "does not fit"))
        print(journal.failures, path.read_bytes().endswith(b"\\n"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        journal.write(Event("loaded", "fits again"))
        print(journal.failures)
        """,
        path,
    )
    out, err = finished(writer)
    assert out.split() == ["5", "True", "5"]
    assert texts(Journal(path).read()) == ["fits", "fits again"]
    assert err.count("cannot be written") == 1
    assert err.count("can be written again; 5 entries were lost") == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    said: list[str] = []
    journal = Journal(path, complain=said.append)
    journal.write(event())
    journal.write(event())
    assert journal.failures == 2
    assert len(said) == 1


@pytest.mark.parametrize("what", ["a folder", "a link", "a file above"])
def test_something_else_in_its_place_raises_nothing(path: Path, what: str) -> None:
    if what == "a file above":
        path.parent.write_text("not a folder")
    else:
        path.parent.mkdir()
        if what == "a folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/full")
    said: list[str] = []
    journal = Journal(path, complain=said.append)
    journal.write(event())
    journal.write(event())
    assert (journal.failures, len(said)) == (2, 1)


@pytest.fixture
def held(path: Path) -> Iterator[int]:
    """The lock, held by another process that hangs on its disk."""
    path.parent.mkdir()
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield fd
    os.close(fd)


def test_who_writes_is_not_held_up_by_one_that_hangs(path: Path, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admitd.journal.PATIENCE_S", 0.05)
    said: list[str] = []
    journal = Journal(path, complain=said.append)
    for number in range(100):
        journal.write(event(str(number)))
    assert journal.read() == []
    assert len(said) == 1
    fcntl.flock(held, fcntl.LOCK_UN)
    deadline = time.monotonic() + PATIENCE_S
    tail = journal.follow(0)
    late: list[str] = []
    while len(late) < 100 and time.monotonic() < deadline:
        late += texts(tail.more())
    assert late == [str(number) for number in range(100)]
    assert journal.failures == 0


# Following.


def test_a_follower_hears_what_others_write(path: Path) -> None:
    journal = Journal(path)
    journal.write(event("before"))
    tail = journal.follow()
    assert tail.more() == []
    Journal(path).write(event("after"))
    assert texts(tail.more()) == ["after"]
    assert tail.more() == []


def test_a_follower_goes_on_where_it_was(path: Path) -> None:
    journal = Journal(path)
    for number in range(5):
        journal.write(event(str(number)))
    assert texts(journal.follow(3).more()) == ["3", "4"]


def test_a_follower_far_behind_catches_up_in_batches(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "BATCH", 10)
    journal = Journal(path)
    for number in range(25):
        journal.write(event(str(number)))
    tail = journal.follow(0)
    assert [len(tail.more()) for _ in range(4)] == [10, 10, 5, 0]


def test_a_journal_that_was_removed_begins_anew_for_followers_too(path: Path) -> None:
    journal = Journal(path)
    for number in range(5):
        journal.write(event(str(number)))
    tail = journal.follow()
    path.unlink()
    Journal(path).write(event("new"))
    assert texts(tail.more()) == ["new"]


def test_half_a_line_waits_for_its_other_half(path: Path) -> None:
    journal = Journal(path)
    journal.write(event("one"))
    tail = journal.follow()
    line = json.dumps(entry_json(Entry(2, time.time(), "", 0.0, event("two")))).encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        file.write(line[:40])
        assert tail.more() == []
        file.write(line[40:])
        assert texts(tail.more()) == ["two"]


def test_each_boot_has_a_word_of_its_own() -> None:
    assert boot.boot_id() == boot.boot_id()
    if sys.platform == "linux":
        assert len(boot.boot_id()) == 36
