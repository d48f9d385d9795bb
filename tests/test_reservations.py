"""Reservations: what stands and what does not, whatever happens to the files, the folder, the lock and the holders."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from admitd import record
from admitd.core.terms import Capacity, Check, ProcessId, Reservation, Waiter
from admitd.gate import Ask
from admitd.reservations import NotRecorded, Reservations, folder
from tests.gates import (
    REAL,
    ROOM,
    FakeTable,
    decided,
    files,
    gate,
    held,
    me,
    one_service,
    refused,
    reservations,
    until,
    word,
    words,
)

ROOT = Path(__file__).parents[1]
NOBODY = 65534
FIRST = ROOM.services["first"]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def sleeper() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts processes that can hold something."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


def identity(process: subprocess.Popen[bytes]) -> ProcessId:
    found = REAL.identify(process.pid)
    assert found is not None
    return found


def reserve(where: Path, holder: ProcessId | None, declared: Capacity = ROOM, name: str = "first") -> Reservation:
    """What admission writes down, by the way that admission takes."""
    return held(decided(gate(where, declared), Ask(name, holder))[0])


def standing(where: Path, declared: Capacity = ROOM) -> tuple[Reservation, ...]:
    """What one who looks for the first time sees."""
    return reservations(where).standing(declared).reservations


def the_file(where: Path) -> Path:
    (name,) = files(where)
    return where / name


# Who holds it.


def test_a_reservation_stands_while_its_holder_lives(
    where: Path, sleeper: Callable[[], subprocess.Popen[bytes]]
) -> None:
    holder = sleeper()
    made = reserve(where, identity(holder))
    assert standing(where) == (made,)
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet waited for: a zombie holds nothing
    assert standing(where) == ()
    assert words(gate(where), Ask("second", me())) == ["Admitted"]


# A load that was handed over.


def test_one_that_was_handed_over_stands_whoever_ends(
    where: Path, sleeper: Callable[[], subprocess.Popen[bytes]]
) -> None:
    holder = sleeper()
    made = reserve(where, identity(holder))
    looked = reservations(where)
    assert looked.standing(ROOM).reservations == (made,)
    handed = replace(made, holder=None, handed_over=True)
    with looked.lock() as lock:
        assert looked.hand_over(lock, made.id)
        assert looked.hand_over(lock, made.id), "and again, which changes nothing"
    assert standing(where) == (handed,), "once, though it has two records"
    holder.kill()
    holder.wait()
    assert standing(where) == looked.standing(ROOM).reservations == (handed,)
    again = refused(decided(gate(where), Ask("first", me()))[0])
    assert again.message == "first is being loaded by another program (its load_cmd has ended well) already."
    assert words(gate(where), Ask("second", me())) == ["no-headroom"]
    assert standing(where) == (handed,), "who decides removes what has ended, not this"
    assert looked.service_of(made.id) == "first"
    assert looked.give_back(made.id)
    assert not looked.give_back(made.id)
    assert words(gate(where), Ask("second", me())) == ["Admitted"]


def test_what_was_handed_over_ends_when_its_service_is_seen_and_by_its_deadline(where: Path) -> None:
    made = reserve(where, me())
    records = reservations(where)
    with records.lock() as lock:
        records.hand_over(lock, made.id)
    table = FakeTable()
    looking = gate(where, table=table)
    assert looking.look().ledger.reservations[0].handed_over
    table.show("first")
    looking.look()
    table.hide("first")
    assert looking.look().ledger.reservations == (), "once it was there, nobody loads it any more"
    assert files(where, "handed") == files(where) == []
    late = record.Record(replace(made, handed_over=True, holder=None, deadline_s=time.monotonic() - 0.001), 0.0, None)
    (where / record.name_of(late.term)).write_bytes(record.encode(late))
    assert standing(where) == ()


def test_what_was_handed_over_does_not_end_by_what_a_check_said_before(where: Path) -> None:
    """The sentinel goes by checks that ran up to a minute ago: they may speak of what was unloaded since."""
    says = {"x": Check("x", False)}
    _, declared = one_service(process_pattern=None, loaded_check_cmd="false", load_cmd="true")
    both = gate(where, declared, run_checks=lambda commands: says)
    made = held(decided(both, Ask("x", me()))[0])
    assert both.hand_over(made.id)
    before = {"x": Check("x", True)}
    both.look(before)
    both.glance(before)
    assert [each.handed_over for each in standing(where, declared)] == [True]
    says.update(before)
    both.look()
    assert standing(where, declared) == (), "they ran for this look"


def test_what_has_ended_is_not_handed_over(where: Path) -> None:
    made = reserve(where, me())
    records = reservations(where)
    assert records.give_back(made.id)
    with records.lock() as lock:
        assert not records.hand_over(lock, made.id)
    assert standing(where) == ()


def test_one_that_is_given_back_while_it_is_handed_over_has_ended(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving back takes no lock: by another process, between reading the one record and writing the other."""
    made = reserve(where, me())
    records = reservations(where)
    real = records._content

    def reading(name: str) -> bytes:
        content = real(name)
        assert reservations(where).give_back(made.id)
        return content

    with monkeypatch.context() as patch, records.lock() as lock:
        patch.setattr(records, "_content", reading)
        assert not records.hand_over(lock, made.id)
    assert standing(where) == ()
    assert files(where, "handed") == []


def test_a_pid_that_belongs_to_another_by_now_holds_nothing(where: Path) -> None:
    """The same pid with another start time is another process."""
    reserve(where, replace(me(), started=me().started - 1))
    assert standing(where) == ()
    assert words(gate(where), Ask("second", me())) == ["Admitted"]


def test_a_reservation_without_a_holder_stands_until_its_deadline(where: Path) -> None:
    reserve(where, None)
    assert word(decided(gate(where), Ask("second", me()))[0]) == "no-headroom"


def test_a_stopped_holder_still_holds(where: Path, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    holder = sleeper()
    made = reserve(where, identity(holder))
    holder.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
    assert standing(where) == (made,)


# What ends it.


def test_it_ends_when_its_time_is_up(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, declared = one_service(load_timeout_s=30.0)
    reserve(where, me(), declared, "x")
    now = time.monotonic()
    for later, stands in ((29.0, 1), (31.0, 0)):
        monkeypatch.setattr(time, "monotonic", lambda later=later: now + later)
        assert len(standing(where, declared)) == stands


def test_no_promise_is_believed_for_longer_than_a_day(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, declared = one_service(load_timeout_s=1e9)
    reserve(where, me(), declared, "x")
    later = time.monotonic() + record.LONGEST_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert standing(where, declared) == ()


@pytest.mark.parametrize("shift_s", [-1e9, -3600.0, 3600.0, 1e9])
def test_setting_the_clock_ends_nothing(where: Path, monkeypatch: pytest.MonkeyPatch, shift_s: float) -> None:
    made = reserve(where, me())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + shift_s)
    assert standing(where) == (made,)


def test_being_loaded_ends_it_and_removes_its_record(where: Path) -> None:
    reserve(where, me())
    table = FakeTable()
    table.show("first")
    assert words(gate(where, table=table), Ask("small", me(), dry_run=True)) == ["Admitted"]
    assert files(where) == []


def test_a_mention_does_not_end_it(where: Path) -> None:
    made = reserve(where, me())
    table = FakeTable()
    table.show("first")
    table.shown = [replace(table.shown[0], mention=True)]
    deciding = gate(where, table=table)
    assert word(decided(deciding, Ask("second", me()))[0]) == "no-headroom"
    assert deciding.look().ledger.reservations == (made,)


def test_giving_it_back_ends_it(where: Path) -> None:
    made = reserve(where, me())
    assert gate(where).give_back(made.id)
    assert not gate(where).give_back(made.id)
    assert standing(where) == ()


def test_a_record_of_the_boot_before_is_not_believed(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock begins anew with each boot; on macOS and in a folder on disk the records outlive it."""
    reserve(where, None)
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    assert standing(where) == ()


def test_nor_where_this_boot_has_lasted_as_long_as_that_one(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "boot_id", lambda: "another-boot")
    made = reserve(where, None)
    assert standing(where) == ()
    with pytest.raises(NotRecorded, match="has ended"):
        reservations(where).lease(made.id)
    monkeypatch.setattr(record, "boot_id", lambda: "")  # who made it could not tell
    reserve(where, None)
    assert len(standing(where)) == 1


def test_one_that_an_older_version_wrote_stands(where: Path) -> None:
    """An upgrade keeps reservations; it did not say of which boot it was."""
    made = reserve(where, me())
    path = the_file(where)
    body = {name: value for name, value in json.loads(path.read_bytes().splitlines()[0]).items() if name != "boot"}
    content = json.dumps(body).encode()
    path.write_bytes(content + b"\n" + record._checksum(path.name, content))
    assert standing(where) == (made,)


def test_what_has_ended_is_removed_with_the_next_decision(where: Path) -> None:
    reserve(where, replace(me(), started=1))
    (where / ".0123456789abcdef").write_bytes(b"half a record of one who was killed while writing it")
    words(gate(where), Ask("small", me(), dry_run=True))
    assert os.listdir(where) == ["lock"]


def test_what_is_not_a_record_is_left_alone(where: Path) -> None:
    reserve(where, me())
    for name in (
        "README",
        "held~first",
        "held~../../x~ram=1~0123456789abcdef",
        "held~first~ram=1~nothexnothexnoth",
        "x" * 255,
    ):
        (where / name.replace("/", "_")).write_text("not a record")
    assert len(standing(where)) == 1


# The lease: what a load command inherits.


def test_the_lease_keeps_it_standing_after_its_holder_has_died(
    where: Path, sleeper: Callable[[], subprocess.Popen[bytes]]
) -> None:
    holder = sleeper()
    made = reserve(where, identity(holder))
    lease = reservations(where).lease(made.id)
    loader = subprocess.Popen(["/bin/sh", "-c", "read _; exec sleep 1000"], stdin=subprocess.PIPE, pass_fds=(lease,))
    os.close(lease)
    assert loader.stdin is not None
    try:
        holder.kill()
        holder.wait()
        assert standing(where) == (made,)
        loader.stdin.write(b"\n")  # and across its exec
        loader.stdin.close()
        until(lambda: Path(f"/proc/{loader.pid}/comm").read_text() == "sleep\n")
        assert standing(where) == (made,)
    finally:
        loader.kill()
        loader.wait()
    assert standing(where) == ()


def test_the_lease_does_not_outlive_the_deadline(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = reserve(where, replace(me(), started=1))
    lease = os.open(the_file(where), os.O_RDONLY)
    fcntl.flock(lease, fcntl.LOCK_EX)
    assert standing(where) == (made,)
    later = time.monotonic() + FIRST.load_timeout_s + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert standing(where) == ()
    os.close(lease)


def test_two_who_ask_about_a_lease_at_once_do_not_take_each_other_for_it(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One asks while the other is asking: nobody loads on it, and both must see that."""
    reserve(where, replace(me(), started=1))
    inner: list[tuple[Reservation, ...]] = []
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        real(fd, operation)
        if not inner:
            inner.append(())
            inner.append(standing(where))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert standing(where) == ()
    assert inner == [(), ()]


def test_nothing_is_started_on_a_reservation_that_has_ended(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = reserve(where, me())
    later = time.monotonic() + FIRST.load_timeout_s + 1
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(NotRecorded, match="has ended"):
            reservations(where).lease(made.id)
    gate(where).give_back(made.id)
    with pytest.raises(NotRecorded, match="has ended"):
        reservations(where).lease(made.id)


def test_two_do_not_load_on_one_reservation(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = reserve(where, me())
    lease = reservations(where).lease(made.id)
    monkeypatch.setattr("admitd.reservations.LEASE_WAIT_S", 0.05)
    with pytest.raises(NotRecorded, match="already"):
        reservations(where).lease(made.id)
    os.close(lease)
    os.close(reservations(where).lease(made.id))


def test_where_it_cannot_be_told_whether_it_is_leased_it_is_charged(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor to be had is no reason to admit."""
    made = reserve(where, replace(me(), started=1))
    seer = reservations(where)
    assert seer.standing(ROOM).reservations == ()
    real = os.open

    def no_more(path: object, flags: int, *more: object, **others: object) -> int:
        if str(path).endswith(made.id):
            raise OSError(24, "Too many open files")
        return real(path, flags, *more, **others)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", no_more)
    assert seer.standing(ROOM).reservations == (made,)


# Damage.

Damage = Callable[[Path], None]


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def made_huge(path: Path) -> None:
    path.write_bytes(b"[" * 10_000_000)


def overwritten(text: bytes) -> Damage:
    return lambda path: path.write_bytes(text) and None


def deadline_changed(path: Path) -> None:
    """Still JSON, and still plausible: only the checksum tells."""
    content = json.loads(path.read_bytes().rpartition(b"\n")[0])
    path.write_bytes(json.dumps({**content, "deadline_s": 1.0}).encode() + path.read_bytes()[-9:])


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def made_a_symlink(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def made_a_dangling_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def made_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def renamed_to_less(path: Path) -> None:
    kind, service, _, id = path.name.split("~")
    path.rename(path.with_name(f"{kind}~{service}~ram=1~{id}"))


DAMAGES = {
    "truncated": truncated,
    "empty": emptied,
    "huge": made_huge,
    "bytes": overwritten(bytes(range(256))),
    "not an object": overwritten(b"[1, 2, 3]"),
    "no numbers": overwritten(b'{"made_s": NaN, "deadline_s": Infinity}'),
    "a pid too large": overwritten(b'{"holder_pid": 99999999999999999999999}'),
    "another deadline": deadline_changed,
    "a folder": made_a_folder,
    "a symlink": made_a_symlink,
    "a dangling symlink": made_a_dangling_symlink,
    "a fifo": made_a_fifo,
    "a name that holds less": renamed_to_less,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_charged_and_blocks_nothing_for_ever(
    where: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage
) -> None:
    reserve(where, me())
    damage(the_file(where))
    (found,) = standing(where)
    assert found.damaged
    assert found.budget == FIRST.budget
    assert any("is damaged" in warning for warning in reservations(where).standing(ROOM).warnings)
    one = gate(where)
    assert word(decided(one, Ask("second", me()))[0]) == "no-headroom"
    assert words(one, Ask("small", me(), dry_run=True)) == ["Admitted"]
    # One who has seen it, and one who has not: it ends for both.
    mono, wall, over = time.monotonic(), time.time(), FIRST.load_timeout_s + 1
    monkeypatch.setattr(time, "monotonic", lambda: mono + over)
    monkeypatch.setattr(time, "time", lambda: wall + over)
    for seer in (one.records, reservations(where)):
        assert seer.standing(ROOM).reservations == ()
    assert words(gate(where), Ask("second", me())) == ["Admitted"]


def test_every_flipped_bit_is_noticed(where: Path) -> None:
    """Whichever bit it is: the record is charged its budget, whatever it says now."""
    reserve(where, None)
    path = the_file(where)
    whole = path.read_bytes()
    dice = random.Random(1)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :])
        (found,) = standing(where)
        assert found.damaged and found.budget == FIRST.budget, at


def test_a_damaged_record_of_a_service_that_nobody_declares_is_charged_what_its_name_says(where: Path) -> None:
    where.mkdir()
    (where / "held~stranger~ram=700000000~0123456789abcdef").touch()
    assert word(decided(gate(where), Ask("first", me()))[0]) == "no-headroom"
    (where / "held~stranger~ram=700000000~0123456789abcdef").unlink()
    (where / "held~stranger~nonsense~0123456789abcdef").touch()
    assert words(gate(where), Ask("first", me())) == ["Admitted"]


def test_what_could_not_be_read_for_a_moment_is_itself_again_afterwards(
    where: Path, monkeypatch: pytest.MonkeyPatch, sleeper: Callable[[], subprocess.Popen[bytes]]
) -> None:
    """Else it would be taken for damaged, and stand after its holder has died."""
    holder = sleeper()
    made = reserve(where, identity(holder))
    seer = reservations(where)
    real = record.decode
    with monkeypatch.context() as patch:
        patch.setattr(record, "decode", lambda name, content: real(name, content[:7]))
        assert [each.damaged for each in seer.standing(ROOM).reservations] == [True]
    assert seer.standing(ROOM).reservations == (made,)
    holder.kill()
    holder.wait()
    assert seer.standing(ROOM).reservations == ()


def test_a_damaged_record_keeps_the_deadline_that_it_got_whatever_the_clock_says(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve(where, me())
    truncated(the_file(where))
    seer = reservations(where)
    (before,) = seer.standing(ROOM).reservations
    monkeypatch.setattr(time, "time", lambda: 10.0**10)
    (after,) = seer.standing(ROOM).reservations
    assert after.deadline_s == before.deadline_s


def test_a_damaged_place_in_the_queue_is_nothing(where: Path) -> None:
    reserve(where, me())
    assert decided(gate(where), Ask("second", me(), wait_s=60.0))[0].waiter
    (name,) = files(where, "waiting")
    emptied(where / name)
    assert reservations(where).standing(ROOM).waiters == ()
    words(gate(where), Ask("small", me(), dry_run=True))
    assert files(where, "waiting") == []


@pytest.mark.parametrize("broken", ["", "ram", "ram=", "ram=-1", "=1", "ram=1+", "ram=one", "ram=1.5"])
def test_amounts_that_say_nothing_are_charged_the_declared_budget(broken: str) -> None:
    told = record.Label(record.HELD, "first", broken, "0" * 16)
    found = record.damaged(told, FIRST, 0.0, 0.0, 0.0)
    assert found is not None and isinstance(found.term, Reservation)
    assert found.term.budget == FIRST.budget


def test_what_is_written_is_what_is_read() -> None:
    """Records of both kinds, with and without anyone behind them, come back as they were."""
    budget = {"ram": 123, "vram0": 0}
    held_ = Reservation("0" * 16, "a.b_c-d", budget, ProcessId(7, 8), 100.5, 1.5)
    waits = Waiter("f" * 16, "x", -7, 3.25, None, 50.0)
    for each in (
        record.Record(held_, 1.5, held_.holder),
        record.Record(replace(held_, holder=None), 1.5, None),
        record.Record(waits, 2.5, ProcessId(1, 2)),
        record.Record(replace(waits, holder=ProcessId(3, 4)), 2.5, ProcessId(3, 4)),
    ):
        assert record.decode(record.name_of(each.term), record.encode(each)) == each


# Other users.


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach, as /dev/shm is."""
    if os.getuid() != 0:
        pytest.skip("only root can be several users")
    above = Path(tempfile.mkdtemp(prefix="admit-test-", dir="/tmp"))
    above.chmod(0o1777)
    yield above / "state"
    shutil.rmtree(above)


def stranger(where: Path, *acts: str, umask: str = "022") -> dict[str, object]:
    """What another user's process does there, and what it sees."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.workers.stranger", str(where), str(NOBODY), umask, *acts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def shared_reservations(where: Path) -> Reservations:
    return Reservations(where, REAL.identify, shared=True)


@pytest.mark.parametrize("umask", ["022", "077"])
def test_another_users_reservation_counts(shared: Path, umask: str) -> None:
    """Whoever made the folder, and whatever his umask is."""
    told = stranger(shared, "reserve first nobody", umask=umask)
    assert told["did"] == ["Admitted"]
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    (found,) = shared_reservations(shared).standing(ROOM).reservations
    assert (found.service, found.damaged) == ("first", False)
    assert word(decided(gate(shared_reservations(shared)), Ask("second", me()))[0]) == "no-headroom"


def test_another_user_sees_ours_and_cannot_remove_it(shared: Path) -> None:
    made = held(decided(gate(shared_reservations(shared)), Ask("first", me()))[0])
    told = stranger(shared, "reserve second self", f"give_back {made.id}", "reserve second self")
    assert told["did"] == ["no-headroom", False, "no-headroom"]
    assert shared_reservations(shared).standing(ROOM).reservations == (made,)


def test_another_user_sees_our_holder_die(shared: Path, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    before = os.umask(0o077)
    try:
        holder = sleeper()
        decided(gate(shared_reservations(shared)), Ask("first", identity(holder)))
    finally:
        os.umask(before)
    assert stranger(shared, "reserve second self")["did"] == ["no-headroom"]
    holder.kill()
    holder.wait()
    assert stranger(shared, "reserve second self")["did"] == ["Admitted"]


def test_a_record_that_may_not_be_read_is_charged(shared: Path) -> None:
    held(decided(gate(shared_reservations(shared)), Ask("first", me()))[0])
    the_file(shared).chmod(0o600)
    assert stranger(shared, "reserve second self", "look")["did"] == ["no-headroom", [["first", True]]]


def test_a_record_that_was_given_to_another_user_still_counts(shared: Path) -> None:
    made = held(decided(gate(shared_reservations(shared)), Ask("first", me()))[0])
    os.chown(the_file(shared), NOBODY, NOBODY)
    assert shared_reservations(shared).standing(ROOM).reservations == (made,)


def test_a_private_folder_is_closed_to_others(shared: Path) -> None:
    decided(gate(shared), Ask("small", me(), dry_run=True))
    assert stat.S_IMODE(shared.stat().st_mode) == 0o700
    assert stranger(shared, "reserve second self")["did"] == ["not-recorded"]


def test_a_folder_left_half_made_by_one_who_was_killed_is_finished(shared: Path) -> None:
    shared.mkdir(mode=0o700)
    assert words(gate(shared_reservations(shared)), Ask("first", me(), dry_run=True)) == ["Admitted"]
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


# The folder.


def test_a_folder_that_is_not_there_is_made(where: Path) -> None:
    assert standing(where) == ()
    reserve(where, me())
    assert len(standing(where)) == 1


def test_the_folder_may_not_depend_on_the_working_folder() -> None:
    """Two who name the same words would mean two folders, and each would see only his own."""
    with pytest.raises(NotRecorded, match="whole path"):
        folder({"ADMIT_STATE_DIR": "state"})
    assert folder({"ADMIT_STATE_DIR": "/x/state"}) == Path("/x/state")
    assert folder({}).is_absolute()


@pytest.mark.parametrize("made", ["a file", "a symlink"])
def test_what_is_not_a_folder_is_not_used(where: Path, made: str) -> None:
    (where.parent / "real").mkdir()
    where.touch() if made == "a file" else where.symlink_to("real")
    answer = decided(gate(where), Ask("first", me()))[0]
    assert word(answer) == "not-recorded"
    assert str(where) in refused(answer).message


def test_a_folder_that_anyone_may_empty_is_not_used(where: Path) -> None:
    where.mkdir()
    where.chmod(0o777)
    with pytest.raises(NotRecorded, match="chmod 1777"):
        reservations(where).prepare()


def test_a_folder_that_may_not_be_written_to_admits_nothing(shared: Path) -> None:
    shared.mkdir(mode=0o755)
    assert stranger(shared, "reserve first self", "look")["did"] == ["not-recorded", []]


def test_a_folder_that_is_removed_takes_no_promise_with_it(where: Path) -> None:
    """A daemon remembers what stood there; the next decision writes it down again, for everyone."""
    daemon = gate(where)
    made = held(decided(daemon, Ask("first", me()))[0])
    daemon.look()
    shutil.rmtree(where)
    assert daemon.look().ledger.reservations == (made,)
    assert word(decided(daemon, Ask("second", me()))[0]) == "no-headroom"
    assert standing(where) == (made,)
    assert daemon.give_back(made.id)
    assert words(gate(where), Ask("second", me())) == ["Admitted"]


def test_a_folder_that_is_replaced_takes_no_promise_with_it(where: Path) -> None:
    daemon = gate(where)
    made = held(decided(daemon, Ask("first", me()))[0])
    daemon.look()
    shutil.rmtree(where)
    words(gate(where), Ask("small", me(), dry_run=True))  # another has made it anew
    assert word(decided(daemon, Ask("second", me()))[0]) == "no-headroom"
    assert daemon.give_back(made.id)
    assert standing(where) == ()


def test_what_was_given_back_before_the_folder_was_removed_is_not_remembered(where: Path) -> None:
    daemon = gate(where)
    made = held(decided(daemon, Ask("first", me()))[0])
    daemon.look()
    daemon.give_back(made.id)
    shutil.rmtree(where)
    assert words(daemon, Ask("second", me())) == ["Admitted"]


def test_the_folder_removed_within_a_decision_admits_nothing(where: Path) -> None:
    """Whoever decides meanwhile, in a new folder, could not see what is written into the old one."""
    table = FakeTable(on_look=lambda: shutil.rmtree(where))
    assert words(gate(where, table=table), Ask("first", me())) == ["not-recorded"]


# No room to write.


def test_where_it_cannot_be_marked_after_it_was_written_nothing_is_promised(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He who read just before it was written would not notice."""
    one = gate(where)
    renew_mark = one.records._lock.renew_mark

    def only_before(lock: int) -> None:
        if files(where):
            raise NotRecorded("no room")
        renew_mark(lock)

    monkeypatch.setattr(one.records._lock, "renew_mark", only_before)
    assert words(one, Ask("first", me())) == ["not-recorded"]
    assert files(where) == []


@pytest.mark.parametrize("room", ["no space", "no inode", "read-only"])
def test_where_nothing_can_be_written_nothing_is_admitted(tmp_path: Path, room: str) -> None:
    """On a file system of a few KiB, mounted where only the test sees it."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare(1) to mount a full file system")
    where = tmp_path / "tiny"
    where.mkdir()
    script = 'mount -t tmpfs -o size=64k,nr_inodes=12 tiny "$0" && exec "$@"'
    command = [sys.executable, "-m", "tests.workers.cramped", str(where), room]
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", script, str(where), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "Operation not permitted" in done.stderr or "unshare failed" in done.stderr:
        pytest.skip(f"no mount to be had here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["full"] == "not-recorded"
    assert str(where) in told["message"]
    assert told["left"] == []  # nothing half-written
    assert told["seen"] == 0
    assert told["afterwards"] == "Admitted"


def test_a_limit_on_the_size_of_files_admits_nothing(where: Path) -> None:
    words(gate(where), Ask("small", me(), dry_run=True))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))  # the lock's mark fits, a record does not
    try:
        assert words(gate(where), Ask("first", me())) == ["not-recorded"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(where) == ["lock"]
    assert words(gate(where), Ask("first", me())) == ["Admitted"]
