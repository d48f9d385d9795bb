"""What the sentinel stands on: hands, glimpses, signs of life, and who keeps a process running."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from admitd import hands, supervisors
from admitd.boot import boot_id, since_boot_s
from admitd.core.acts import Tell
from admitd.core.events import Entry, Event
from admitd.core.respawn import Supervisor
from admitd.core.terms import ProcessId
from admitd.gate import Ask
from admitd.hands import Hand
from admitd.processes.darwin import ShortInfo
from admitd.processes.glimpse import Glimpse, glimpse
from admitd.reservations import Standing
from admitd.vitals import Vitals
from tests.gates import decided, gate, held, reservations

# Hands


def note(folder: Path) -> Path:
    """The file of what one user did to `x`."""
    return folder / f"hands~{os.getuid()}~{boot_id()[:8]}~x"


def test_hands_are_on_a_service_while_it_is_unloaded_and_no_longer(tmp_path: Path) -> None:
    with hands.on(tmp_path, "x"):
        assert hands.look(tmp_path, "x").on
        assert hands.seen(tmp_path)["x"].on
    assert not hands.look(tmp_path, "x").on


def test_what_another_boot_has_left_says_nothing_and_goes_with_the_next_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its times may be of a longer uptime, or of a shorter one: then they look like this boot's."""
    monkeypatch.setattr(hands, "boot_id", lambda: "another-boot")
    hands.let_go(tmp_path, "x")
    hands.answered(tmp_path, "x")
    monkeypatch.undo()
    old = {path.name for path in tmp_path.glob("hands~*")}
    assert hands.look(tmp_path, "x") == Hand()
    assert hands.seen(tmp_path) == {}
    hands.let_go(tmp_path, "x")
    records = reservations(tmp_path)
    with records.lock() as lock:
        records.prune(lock, Standing(), set())
    left = {path.name for path in tmp_path.glob("hands~*")}
    assert left == {note(tmp_path).name}
    assert not left & old
    monkeypatch.setattr(hands, "boot_id", lambda: "")  # who cannot tell the boots apart takes nothing away
    assert not any(map(hands.is_of_another_boot, left | old))


def test_who_comes_second_leaves_a_trace_and_who_will_load_it_again_leaves_none(tmp_path: Path) -> None:
    before = time.monotonic() - 0.001
    with hands.on(tmp_path, "x", asked=False):
        assert hands.look(tmp_path, "x").asked_at is None
        with hands.on(tmp_path, "x"):
            pass
    assert hands.look(tmp_path, "x").is_asked_since(before)
    assert not hands.look(tmp_path, "x").is_asked_since(time.monotonic())


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    program = "import sys, time; from pathlib import Path; from admitd import hands\n"
    program += "with hands.on(Path(sys.argv[1]), 'x'): print('on', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"on\n"
    assert hands.look(tmp_path, "x").on
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not hands.look(tmp_path, "x").on


def test_two_may_have_their_hands_on_one_service(tmp_path: Path) -> None:
    with hands.on(tmp_path, "x"), hands.on(tmp_path, "x"):
        assert hands.look(tmp_path, "x").on


def test_whoever_only_looks_keeps_nobodys_hands_off(tmp_path: Path) -> None:
    """A look holds the lock for a moment, and that moment may be the one in which an unload begins."""
    hands.let_go(tmp_path, "x")
    looking = os.open(note(tmp_path), os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    looked = threading.Timer(hands.ON_WAIT_S / 4, os.close, [looking])
    looked.start()
    with hands.on(tmp_path, "x"):
        looked.join()
        assert hands.look(tmp_path, "x").on


def test_it_is_written_down_when_it_was_unloaded_and_admitted(tmp_path: Path) -> None:
    hands.admitted(tmp_path, "x")
    assert hands.look(tmp_path, "x") == Hand(), "of one that was never unloaded nobody asks"
    before = time.monotonic() - 0.001
    hands.heed(tmp_path, "x")
    assert hands.look(tmp_path, "x") == Hand()
    assert not Hand().was_loaded_since(0.0)
    hands.admitted(tmp_path, "x")
    assert hands.look(tmp_path, "x").was_loaded_since(before)
    assert not hands.look(tmp_path, "x").was_loaded_since(time.monotonic() + 1)
    assert not hands.look(tmp_path, "x").admitted_since, "it was never unloaded"
    before = time.monotonic()
    hands.let_go(tmp_path, "x")
    hand = hands.look(tmp_path, "x")
    assert hand.unloaded_at is not None
    assert before - 0.001 <= hand.unloaded_at <= time.monotonic()
    assert not hand.admitted_since
    hands.admitted(tmp_path, "x")
    assert hands.look(tmp_path, "x").admitted_since
    hands.let_go(tmp_path, "x")
    assert not hands.look(tmp_path, "x").admitted_since


def test_an_answer_is_that_of_the_processes_that_were_there(tmp_path: Path) -> None:
    assert not hands.look(tmp_path, "x").has_answered([1e9])
    hands.answered(tmp_path, "x")
    hand = hands.look(tmp_path, "x")
    assert (hand.unloaded_at, hand.admitted_at) == (None, None)
    assert hand.has_answered([None, 60.0])
    for ages_s in ([], [None], [-1.0]):
        assert not hand.has_answered(ages_s), "they came later, or nobody knows"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\0" * 64, b"99999999999999999999", b"nan", b"inf"])
def test_a_damaged_note_says_nothing(tmp_path: Path, content: bytes) -> None:
    """A time that has not come yet is another boot's."""
    note(tmp_path).write_bytes(content)
    assert hands.look(tmp_path, "x") == Hand()


def test_where_nothing_can_be_written_the_work_goes_on(tmp_path: Path) -> None:
    with hands.on(tmp_path / "missing", "x"):
        hands.let_go(tmp_path / "missing", "x")
    assert hands.seen(tmp_path / "missing") == {}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "else").write_bytes(b"")
    note(tmp_path).symlink_to(tmp_path / "else")
    hands.let_go(tmp_path, "x")
    assert (tmp_path / "else").read_bytes() == b""


def test_what_is_written_down_outlives_decisions_and_is_no_record(tmp_path: Path) -> None:
    """It lies beside the reservations, and they are given back and cleared away."""
    records = reservations(tmp_path)
    first = held(decided(gate(records), Ask("first"))[0])
    hands.let_go(tmp_path, "x")
    assert not records.give_back("x")
    assert not records.give_back("lock")
    assert records.give_back(first.id)
    decided(gate(records), Ask("second"))
    assert hands.look(tmp_path, "x").unloaded_at is not None
    assert (tmp_path / "lock").exists()


# Glimpses


def started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[19])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_glimpse_tells_running_from_stopped_and_one_process_from_another() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        who = ProcessId(process.pid, started(process.pid))
        assert glimpse(who) == Glimpse(False, False)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert glimpse(who) == Glimpse(True, False)
        assert glimpse(ProcessId(who.pid, who.started + 1)) is None
    finally:
        process.kill()
        assert glimpse(who) in (None, Glimpse(True, False), Glimpse(False, False))
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert glimpse(who) is None, "a zombie is nobody"
        process.wait()
    assert glimpse(who) is None


# Supervisors


def test_the_parent_is_named_where_there_is_no_unit() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert supervisors.of(process.pid).stop == f"kill {os.getpid()}"
    finally:
        process.kill()
        process.wait()
    assert supervisors.of(process.pid).stop is None


FIRST = [
    ("started by systemd", "A=1\0SYSTEMD_EXEC_PID=7\0B=2\0", "systemd", True),
    ("its child, which systemd adopted", "SYSTEMD_EXEC_PID=6\0", "systemd", False),
    ("another's variable", "XSYSTEMD_EXEC_PID=7\0", "bash", False),
    ("under a systemd that does not say", "A=1\0", "systemd", True),
    ("under a shell there", "", "bash", False),
]


@pytest.mark.parametrize(("environ", "parent", "first"), [each[1:] for each in FIRST], ids=[each[0] for each in FIRST])
def test_whom_systemd_itself_started(tmp_path: Path, environ: str, parent: str, first: bool) -> None:
    for pid in ("7", "3"):
        (tmp_path / pid).mkdir()
    (tmp_path / "7" / "environ").write_text(environ)
    (tmp_path / "7" / "stat").write_text("7 (mlx) S 3 7 7 0")
    (tmp_path / "3" / "comm").write_text(f"{parent}\n")
    assert supervisors.is_first(7, tmp_path) is first


LISTED = "PID\tStatus\tLabel\n412\t0\torg.example.qwen\n-\t0\torg.example.idle\n41\t0\tother\n"


@pytest.mark.parametrize(("pid", "label"), [(412, "org.example.qwen"), (41, "other"), (4, None)])
def test_the_label_of_a_launchd_job_is_found_by_its_pid(pid: int, label: str | None) -> None:
    assert supervisors.label_in(LISTED, pid) == label
    assert supervisors.label_in("", pid) is None


@pytest.mark.parametrize(
    ("listed", "uid", "name", "stop"),
    [
        (LISTED, 501, "the launchd job other", "launchctl bootout gui/501/other"),
        (LISTED, 0, "the launchd job other", "sudo launchctl bootout system/other"),
        ("", 501, "a job of the system's launchd, or something that has ended since,", None),
        ("", 0, "something that has ended since", None),
    ],
)
def test_whom_launchd_keeps_is_told_as_far_as_it_shows_its_jobs(
    monkeypatch: pytest.MonkeyPatch, listed: str, uid: int, name: str, stop: str | None
) -> None:
    info = ShortInfo(41, 1, uid, b"server", stopped=False, zombie=False, traced=False, suspended=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr("admitd.processes.darwin.short_bsd_info", lambda pid, libc: info)
    monkeypatch.setattr(supervisors, "_launchctl_list", lambda: listed)
    assert supervisors.of(41) == Supervisor(name, stop)


# Signs of life


def entry(kind: str, boot: str, since_boot: float, service: str | None = None) -> Entry:
    return Entry(1, 0.0, boot, since_boot, Event(kind, "text", service=service))


def kinds(vitals: Vitals, *history: Entry) -> list[str]:
    return [act.event.kind for act in vitals.judge(history).acts if isinstance(act, Tell)]


def test_a_clean_end_takes_the_sign_away(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path / "alive")
    vitals.beat()
    assert (tmp_path / "alive").exists()
    vitals.end()
    vitals.end()
    assert kinds(vitals) == []


def test_a_sign_of_another_boot_is_a_machine_that_went_down(tmp_path: Path) -> None:
    (tmp_path / "alive").write_text("another-boot 1000.0\n")
    found = Vitals(tmp_path / "alive").judge([entry("loaded", "another-boot", 970.0, "qwen")])
    assert found.held_back == {"qwen"}
    assert kinds(Vitals(tmp_path / "alive")) == ["unclean_reboot"]


def test_who_is_held_back_is_so_for_every_daemon_of_this_boot_until_he_was_loaded(tmp_path: Path) -> None:
    (tmp_path / "alive").write_text("another-boot 1000.0\n")
    history = [entry("loaded", "another-boot", 970.0, name) for name in ("qwen", "gemma")]
    first = Vitals(tmp_path / "alive")
    found = first.judge(history)
    assert found.held_back == {"qwen", "gemma"}
    assert 0 < found.held_since_s <= time.monotonic()
    first.beat()
    history.append(entry("daemon_started", boot_id(), since_boot_s()))
    for end in (first.end, lambda: None):
        end()
        again = Vitals(tmp_path / "alive").judge(history)
        assert again.acts == (), "it was told once"
        assert again.held_back == {"qwen", "gemma"}
        assert again.held_since_s == pytest.approx(found.held_since_s, abs=0.01)
        first.beat()
    first.hold_back({"gemma"}, found.held_since_s)
    assert Vitals(tmp_path / "alive").judge(history).held_back == {"gemma"}
    first.hold_back((), found.held_since_s)
    assert not (tmp_path / "alive.held").exists()
    assert Vitals(tmp_path / "alive").judge(history).held_back == set()


@pytest.mark.parametrize("content", ["another-boot 1.0 qwen\n", "{boot} 9e9 qwen\n", "{boot} x qwen\n", "{boot}\n", ""])
def test_what_another_boot_held_back_or_is_damaged_holds_nobody_back(tmp_path: Path, content: str) -> None:
    (tmp_path / "alive.held").write_text(content.format(boot=boot_id()))
    assert Vitals(tmp_path / "alive").judge([]).held_back == set()


def test_a_sign_of_this_boot_is_a_daemon_that_was_killed(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path / "alive")
    vitals.beat()
    assert kinds(vitals) == []
    assert kinds(vitals, entry("recovering", boot_id(), since_boot_s(), "qwen")) == ["load_failed"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"boot", b"boot x", b" 5"])
def test_a_damaged_sign_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "alive").write_bytes(content)
    assert kinds(Vitals(tmp_path / "alive")) == []


def test_a_full_disk_stops_no_round(tmp_path: Path) -> None:
    Vitals(tmp_path / "missing" / "alive").beat()


def test_a_lock_that_somebody_holds_shared_is_no_hand_on_it(tmp_path: Path) -> None:
    hands.let_go(tmp_path, "x")
    fd = os.open(note(tmp_path), os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        assert not hands.look(tmp_path, "x").on
    finally:
        os.close(fd)
