"""The machine-wide lock: one decision at a time, whoever decides, whatever becomes of its file and of who holds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from admitd import machinelock
from admitd.gate import Ask
from admitd.reservations import Busy
from tests.gates import ROOM, FakeTable, decided, files, gate, me, refused, reservations, word, words

ROOT = Path(__file__).parents[1]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_lock_that_is_held_for_too_long_is_named(where: Path) -> None:
    mine, other = reservations(where), reservations(where)
    with mine.lock(), pytest.raises(Busy) as caught, other.lock(wait_s=0.05):
        raise AssertionError("two had it")
    assert f"process {os.getpid()} holds {where / 'lock'}" in str(caught.value)


def test_where_it_is_not_known_who_holds_it_the_file_is_named(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machinelock, "_holders", lambda path: [])
    mine, other = reservations(where), reservations(where)
    with mine.lock(), pytest.raises(Busy, match=f"lsof {where / 'lock'}"), other.lock(wait_s=0.05):
        raise AssertionError("two had it")


def test_a_decision_that_cannot_have_the_lock_is_a_refusal(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deciding = gate(where)
    monkeypatch.setattr(deciding.records, "lock", lambda: reservations(where).lock(wait_s=0.05))
    with reservations(where).lock():
        answer = decided(deciding, Ask("first", me()))[0]
    assert word(answer) == "busy"
    assert f"process {os.getpid()}" in refused(answer).message
    assert refused(answer).retry_after_s
    assert files(where) == []


def test_the_lock_is_free_when_its_holder_is_killed(where: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.workers.locker", str(where)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match=f"process {holder.pid} holds"), reservations(where).lock(wait_s=0.05):
            raise AssertionError("two had it")
        holder.kill()
    with reservations(where).lock(wait_s=1.0):
        pass


def test_a_child_that_is_just_being_started_does_not_keep_the_lock(where: Path) -> None:
    """Between fork and exec it has a copy of every descriptor, and on a slow disk for long. This one keeps it."""
    with reservations(where).lock() as held:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(held,))
    try:
        with reservations(where).lock(wait_s=1.0):
            pass
    finally:
        child.communicate()


@pytest.mark.parametrize("made", ["a folder", "a symlink", "a fifo", "a dangling symlink"])
def test_a_lock_that_is_no_plain_file_is_not_used(where: Path, made: str) -> None:
    where.mkdir()
    lock = where / "lock"
    {
        "a folder": lock.mkdir,
        "a symlink": lambda: lock.symlink_to(where),
        "a fifo": lambda: os.mkfifo(lock),
        "a dangling symlink": lambda: lock.symlink_to("nowhere"),
    }[made]()
    answer = decided(gate(where), Ask("first", me()))[0]
    assert word(answer) == "not-recorded"
    assert str(lock) in refused(answer).message


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"-1", b"9" * 5000])
def test_whatever_the_lock_holds_is_only_a_mark(where: Path, content: bytes) -> None:
    where.mkdir()
    (where / "lock").write_bytes(content)
    before = reservations(where).standing(ROOM).mark
    words(gate(where), Ask("first", me()))
    assert reservations(where).standing(ROOM).mark != before


def test_a_lock_file_removed_while_it_is_held_admits_nothing(where: Path) -> None:
    """Another would lock a new one, and decide at the same time."""
    table = FakeTable(on_look=(where / "lock").unlink)
    assert words(gate(where, table=table), Ask("first", me())) == ["not-recorded"]
    assert files(where) == []
    assert words(gate(where), Ask("first", me())) == ["Admitted"]


def test_two_who_decide_at_once_because_the_lock_was_removed_do_not_both_admit(where: Path) -> None:
    """The second decides, whole, in the middle of the first one's look; and the first must not tidy its record away."""
    inner: list[str] = []

    def meanwhile() -> None:
        (where / "lock").unlink()
        inner.extend(words(gate(where), Ask("second", me())))

    assert words(gate(where, table=FakeTable(on_look=meanwhile)), Ask("first", me())) == ["not-recorded"]
    assert inner == ["Admitted"]
    assert [each.service for each in reservations(where).standing(ROOM).reservations] == ["second"]


@pytest.mark.parametrize("anew", [False, True], ids=["removed", "replaced"])
def test_a_lock_that_is_not_the_lock_any_more_when_it_is_had_is_taken_anew(
    where: Path, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    """Whoever waited for it holds a file that nobody else would lock."""
    lock = where / "lock"
    swaps = [True]
    real = machinelock.take

    def take_and_swap(fd: int, *more: Any) -> None:
        real(fd, *more)
        if swaps and swaps.pop():
            lock.unlink()
            if anew:
                lock.touch()

    monkeypatch.setattr(machinelock, "take", take_and_swap)
    with reservations(where).lock() as fd:
        assert os.path.samestat(os.fstat(fd), os.stat(lock))
    assert swaps == []


def test_a_lock_that_is_swapped_without_end_is_busy(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = machinelock.take

    def take_and_remove(fd: int, *more: Any) -> None:
        real(fd, *more)
        (where / "lock").unlink()

    monkeypatch.setattr(machinelock, "take", take_and_remove)
    with pytest.raises(Busy), reservations(where).lock(wait_s=0.05):
        raise AssertionError("it was had")
