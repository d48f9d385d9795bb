"""An app among others: what it tells them, what the daemon keeps for it, and what happens when either is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from admit_sdk import Citizen, Exhausted, MemoryGovernor, door, statefile
from admitd.core.governing import App, crowded
from admitd.core.terms import RAM, ProcessId, Reading
from admitd.core.units import MIB, from_mb
from admitd.processes.glimpse import identify
from tests.daemons import ROOT, Daemon, flagged, prepared, running, service
from tests.gates import until


class Machine:
    """So many bytes of RAM, and nothing else to say."""

    def __init__(self, physical: int = 64 << 30) -> None:
        self._physical = physical

    def physical(self) -> int:
        return self._physical

    def reading(self) -> Reading:
        return Reading()

    def footprint(self, processes: Sequence[ProcessId], enough: int) -> int | None:
        return None

    def peak(self, process: ProcessId) -> int | None:
        return None


def me() -> ProcessId:
    found = identify(os.getpid())
    assert found is not None
    return found


def app(name: str, budget_mb: int, held_mb: int = 0, process: ProcessId | None = None) -> App:
    return App(process or me(), name, {RAM: from_mb(budget_mb)}, {RAM: from_mb(held_mb)})


# The file.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own" / "runtime-state.json"


def test_an_app_is_entered_changed_and_taken_out(path: Path) -> None:
    assert statefile.read(path) == ()
    assert statefile.write(path, app("chat", 100)) == (app("chat", 100),)
    statefile.write(path, app("notes", 50))
    statefile.write(path, app("chat", 200, 30))
    assert statefile.read(path) == (app("notes", 50), app("chat", 200, 30))
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)

    statefile.remove(path, app("chat", 200))
    assert statefile.read(path) == (app("notes", 50),)
    assert sorted(each.name for each in path.parent.iterdir()) == ["runtime-state.json", "runtime-state.lock"]


def test_entries_of_others_count_while_they_are_the_same_process(path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = identify(other.pid)
    assert found is not None
    statefile.write(path, app("other", 100, process=found))
    statefile.write(path, app("reused", 100, process=ProcessId(found.pid, found.started + 1)))
    assert [each.name for each in statefile.read(path)] == ["other"]

    other.communicate(b"\n")
    assert statefile.read(path) == ()
    statefile.write(path, app("me", 1))
    assert len(json.loads(path.read_text())["apps"]) == 1  # what has ended is swept out by whoever writes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"apps": 5}',
        "\0" * 100,
        "[" * 100_000,
        '{"boot": "another", "apps": [{"pid": 1, "started": 1, "name": "a", "budget_mb": 1, "held_mb": 1}]}',
    ],
    ids=["empty", "cut off", "a list", "null", "no list", "zeros", "deep", "another boot's"],
)
def test_a_damaged_file_is_no_file_and_the_next_one_mends_it(path: Path, text: str) -> None:
    statefile.write(path, app("chat", 1))
    path.write_text(text)
    assert statefile.read(path) == ()
    assert statefile.write(path, app("chat", 2)) == statefile.read(path) == (app("chat", 2),)


@pytest.mark.parametrize(
    "change",
    [
        {"pid": -1},
        {"pid": 2**40},
        {"pid": "1"},
        {"pid": True},
        {"name": "a\nb"},
        {"name": 5},
        {"budget_mb": -1},
        {"budget_mb": 1e9},
        {"budget_mb": 10**20},
        {"held_mb": None},
        {"started": [1]},
    ],
    ids=str,
)
def test_an_entry_that_is_none_is_passed_over(path: Path, change: dict[str, object]) -> None:
    statefile.write(path, app("good", 1))
    body = json.loads(path.read_text())
    body["apps"] += [{**body["apps"][0], "name": "bad", **change}, 5, None]
    path.write_text(json.dumps(body))

    assert [each.name for each in statefile.read(path)] == ["good"]


def test_many_processes_write_at_once_and_none_is_lost(path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from admit_sdk import statefile; "
        "from admitd.core.governing import App; from admitd.core.terms import RAM; "
        "from admitd.processes.glimpse import identify; "
        "statefile.write(Path(sys.argv[1]), App(identify(os.getpid()), 'app', {RAM: 1 << 20})); "
        "print(flush=True); sys.stdin.read()"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(6)
    ]
    for each in writers:
        assert each.stdout is not None
        assert each.stdout.readline() == b"\n"
    seen = {each.process.pid for each in statefile.read(path)}
    for each in writers:
        each.communicate()
    assert seen == {each.pid for each in writers}


def test_a_folder_that_cannot_be_written_is_told_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" / "runtime-state.json"
    with pytest.raises(statefile.NotWritten, match="cannot be made"):
        statefile.write(blocked, app("chat", 1))

    governor = MemoryGovernor(1_000 * MIB, name="chat", watch=False)
    environ = {"HOME": str(tmp_path)}
    with Citizen(governor, path=blocked, environ=environ, memory=Machine()) as citizen:
        assert citizen.warning is not None
        assert citizen.warning.startswith("other apps do not see this one:")
        governor.try_allocate(1_000 * MIB).release()


# The check before the launch.


def test_budgets_beyond_three_quarters_are_warned_of_with_each_app_and_its_figures() -> None:
    one, two = app("chat", 8_000, 3_000, ProcessId(7, 1)), app("photos", 5_000, 0, ProcessId(9, 1))

    assert crowded([one, two], {RAM: from_mb(20_000)}) is None
    assert crowded([one, two], {RAM: from_mb(16_000)}) == (
        "the running apps may take 13,000 MB together, and 12,000 of 16,000 MB are for apps (all less 25 %): "
        "chat (pid 7) 8,000 MB, of which it holds 3,000; photos (pid 9) 5,000 MB, of which it holds 0. "
        "Close one of them, or give one a smaller budget."
    )


def test_the_warning_comes_at_the_start_and_refuses_nothing(path: Path, tmp_path: Path) -> None:
    governor = MemoryGovernor(900 * MIB, name="chat", watch=False)
    citizen = Citizen(governor, path=path, environ={"HOME": str(tmp_path)}, memory=Machine(1_000 * MIB))
    warning = citizen.start()

    assert warning is not None and f"chat (pid {os.getpid()}) 900 MB" in warning
    governor.try_allocate(900 * MIB).release()
    citizen.close()
    assert statefile.read(path) == ()


def test_an_app_needs_a_name_that_others_can_read() -> None:
    with pytest.raises(ValueError, match="'my app' is not an app's name"):
        Citizen(MemoryGovernor(1_000, name="my app", watch=False))


# With a daemon.


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A pool of 10,240 MB."""
    folder = tmp_path_factory.mktemp("daemon")
    with running(folder, service("declared", 700, process_pattern="^no such$") + flagged("llm", folder, 8_000)) as up:
        yield up


def joined(daemon: Daemon, governor: MemoryGovernor, machine: Machine | None = None) -> Citizen:
    environ = {**daemon.environ, "ADMIT_PORT": str(daemon.port)}
    return Citizen(governor, environ=environ, memory=machine or Machine())


def of(daemon: Daemon, name: str) -> list[tuple[int, int]]:
    reply = daemon.ask("GET", "/apps")
    assert reply.status == 200
    return [(each["budget_mb"], each["held_mb"]) for each in reply.json()["apps"] if each["name"] == name]


def test_the_daemon_keeps_the_soft_budget_and_gives_it_back(daemon: Daemon) -> None:
    """And with it what the app keeps for itself."""
    governor = MemoryGovernor("4GiB", "512MiB", soft="1GiB", name="chat", watch=False)
    free = daemon.capacity()["free_mb"]
    with governor.try_allocate(100 * MIB), joined(daemon, governor) as citizen:
        assert citizen.daemon == door.Granted(1536 * MIB)
        assert of(daemon, "chat") == [(1536, 612)]
        capacity = daemon.capacity()
        assert capacity["free_mb"] == free - 1536
        assert [each["label"] for each in capacity["undeclared"]] == ["chat"]
        assert governor.free_bytes == 924 * MIB
    assert of(daemon, "chat") == []
    assert daemon.capacity()["free_mb"] == free
    assert governor.free_bytes == 3584 * MIB


def test_an_app_asks_before_it_grows_and_gives_back_what_it_needs_no_more(daemon: Daemon) -> None:
    governor = MemoryGovernor("4GiB", soft="1GiB", name="grows", watch=False)
    with joined(daemon, governor) as citizen:
        with pytest.raises(Exhausted, match="this machine's daemon is being asked; wait for its answer"):
            governor.try_allocate(1_500 * MIB, holder="gemma")
        with governor.wait_allocate(1_500 * MIB, 60, holder="gemma"):
            assert of(daemon, "grows") == [(1536, 0)]
            citizen.turn()
            assert governor.free_bytes == 36 * MIB
        until(lambda: citizen.turn() and of(daemon, "grows")[0][0] == 1024, 30)
        assert governor.free_bytes == 1 << 30


def test_the_daemon_hears_what_the_app_holds(daemon: Daemon) -> None:
    governor = MemoryGovernor("2GiB", name="tells", watch=False)
    with joined(daemon, governor) as citizen:
        assert of(daemon, "tells") == [(2048, 0)]
        with governor.try_allocate(1 << 30):
            until(lambda: citizen.turn() and of(daemon, "tells") == [(2048, 1024)], 30)
            (entered,) = statefile.read(statefile.default_path(daemon.environ))
            assert entered.held == {RAM: 1 << 30}
    citizen.turn()  # after the end nothing is told any more
    assert of(daemon, "tells") == []
    assert statefile.read(statefile.default_path(daemon.environ)) == ()


def test_nothing_more_is_granted_before_it_is_given_back(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    governor = MemoryGovernor(4_000 * MIB, soft=1_000 * MIB, name="shrinks", watch=False)
    asked: list[tuple[int, int]] = []

    def ask(environ: object, name: str, budget: int, held: int) -> door.Told:
        asked.append((budget // MIB, governor.free_bytes // MIB))
        return door.Granted(budget)

    monkeypatch.setattr(door, "ask", ask)
    citizen = Citizen(governor, path=path, environ={"HOME": str(tmp_path)}, memory=Machine())
    citizen.more(2_000 * MIB)
    citizen.turn()
    citizen.turn()
    assert asked == [(2_048, 4_000), (1_000, 1_000)]
    citizen.close()


@pytest.mark.parametrize(
    ("told", "free_mb", "said"),
    [
        (door.NoDaemon("the daemon gave no answer in 2 s", listens=True), 1_000, "the daemon gave no answer in 2 s"),
        (door.Denied("there is no room.", "admit unload llm"), 1_000, "there is no room. run: admit unload llm"),
        (door.NoDaemon("no daemon answers: refused"), 4_000, ""),
    ],
)
def test_a_daemon_that_is_there_and_says_nothing_new_lifts_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: door.Told, free_mb: int, said: str
) -> None:
    governor = MemoryGovernor(4_000 * MIB, soft=1_000 * MIB, name="waits", watch=False)
    answers: list[door.Told] = [door.Granted(1_000 * MIB), told]
    monkeypatch.setattr(door, "ask", lambda *_: answers.pop(0) if answers else told)
    citizen = Citizen(governor, path=path, environ={"HOME": str(tmp_path)}, memory=Machine())
    citizen.turn()
    citizen.more(2_000 * MIB)
    citizen.turn()
    assert governor.free_bytes == free_mb * MIB
    if said:
        with pytest.raises(Exhausted, match=said):
            governor.try_allocate(2_000 * MIB)
    citizen.close()


def test_what_was_taken_while_it_was_being_given_back_is_kept(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    governor = MemoryGovernor(4_000 * MIB, soft=1_000 * MIB, name="races", watch=False)
    monkeypatch.setattr(door, "ask", lambda environ, name, budget, held: door.Granted(budget))
    citizen = Citizen(governor, path=path, environ={"HOME": str(tmp_path)}, memory=Machine())
    citizen.more(2_000 * MIB)
    citizen.turn()
    lower = governor.set_ceiling
    taken = []

    def take_first(ceiling_bytes: int) -> None:
        if not taken:
            taken.append(governor.try_allocate(1_500 * MIB))
        lower(ceiling_bytes)

    monkeypatch.setattr(governor, "set_ceiling", take_first)
    citizen.turn()
    assert governor.free_bytes == 548 * MIB
    taken[0].release()
    citizen.turn()
    assert governor.free_bytes == 1_000 * MIB
    citizen.close()


def test_an_app_that_does_not_fit_is_told_by_the_daemon_what_would_help(daemon: Daemon) -> None:
    assert daemon.act("/services/llm/load").status == 200
    governor = MemoryGovernor("4GiB", name="large", watch=False)
    try:
        with joined(daemon, governor, Machine(5_000 * MIB)) as citizen:
            assert isinstance(citizen.daemon, door.Denied)
            assert citizen.warning is not None and f"large (pid {os.getpid()}) 4,096 MB" in citizen.warning
            with pytest.raises(Exhausted) as refused:
                governor.try_allocate(MIB)
            assert "large needs 4096 MB and 2240 MB of the 10240 MB pool are free" in refused.value.suggestion
            assert "run: admit unload llm" in refused.value.suggestion
            assert of(daemon, "large") == []

            assert daemon.act("/services/llm/unload").status == 200
            governor.wait_allocate(MIB, 60).release()
    finally:
        daemon.act("/services/llm/unload")


def test_what_was_kept_stands_where_more_is_refused(daemon: Daemon) -> None:
    ask = {"pid": os.getpid(), "budget_mb": 9_000}
    assert daemon.ask("POST", "/apps/keeps", ask).json()["budget_mb"] == 9_000
    refused = daemon.ask("POST", "/apps/keeps", {**ask, "budget_mb": 10_241})
    assert (refused.status, refused.json()["reason"]) == (409, "too-large")
    assert of(daemon, "keeps") == [(9_000, 0)]
    assert daemon.ask("POST", "/admit", {"service": "llm"}).json()["blockers"][0]["service"] == "keeps"
    assert daemon.ask("POST", "/apps/keeps", {**ask, "budget_mb": 10_000}).status == 200
    assert daemon.ask("POST", "/apps/keeps", {**ask, "budget_mb": 0}).status == 200
    assert of(daemon, "keeps") == []


def test_an_app_takes_nothing_that_somebody_waits_for(daemon: Daemon) -> None:
    first = {"pid": os.getpid(), "budget_mb": 4_000}
    assert daemon.ask("POST", "/apps/first", first).status == 200
    told: list[int] = []
    wanted = {"service": "llm", "holder_pid": os.getpid(), "wait_s": 60}
    waiting = threading.Thread(target=lambda: told.append(daemon.ask("POST", "/admit", wanted).status))
    waiting.start()
    until(lambda: daemon.capacity()["waiting"])
    refused = daemon.ask("POST", "/apps/second", {"pid": os.getpid(), "budget_mb": 3_000})
    assert (refused.status, refused.json()["reason"]) == (409, "queued")
    assert refused.json()["remedy"] is None  # `admit load` loads services

    assert daemon.ask("POST", "/apps/first", {**first, "budget_mb": 0}).status == 200
    waiting.join(60)
    assert told == [200]
    (held,) = daemon.capacity()["reservations"]
    assert daemon.ask("DELETE", f"/reservations/{held['id']}").status == 204


def test_what_was_kept_and_given_back_is_remembered_once(daemon: Daemon) -> None:
    for budget in (700, 700, 800, 0, 0):
        assert daemon.ask("POST", "/apps/noted", {"pid": os.getpid(), "budget_mb": budget}).status == 200
    events = daemon.ask("GET", "/events?service=noted").json()["events"]
    assert [(each["kind"], each["numbers"].get("budget_mb")) for each in events] == [
        ("admitted", 700),
        ("admitted", 800),
        ("given_back", None),
    ]


def test_what_is_kept_for_an_app_ends_with_it(daemon: Daemon) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ask = {"pid": other.pid, "budget_mb": 500, "held_mb": 20}
    assert daemon.ask("POST", "/apps/short", ask).status == 200
    assert of(daemon, "short") == [(500, 20)]
    other.communicate(b"\n")
    assert of(daemon, "short") == []


def test_an_app_that_is_declared_is_a_service(daemon: Daemon) -> None:
    ask = {"pid": os.getpid(), "budget_mb": 600}
    assert daemon.ask("POST", "/apps/declared", ask).json()["budget_mb"] == 700
    assert daemon.state("declared") == "reserved"
    refused = daemon.ask("POST", "/apps/declared", {**ask, "budget_mb": 701})
    assert refused.status == 409
    assert refused.json()["detail"].startswith("declared is declared with 700 MB and asks for 701 MB")
    assert daemon.ask("POST", "/apps/declared", {**ask, "budget_mb": 0}).status == 200
    assert daemon.state("declared") == "stopped"


@pytest.mark.parametrize(
    ("change", "status"),
    [({"pid": 2**31 - 1}, 422), ({"pid": 0}, 422), ({"budget_mb": -1}, 422), ({"x": 1}, 422)],
)
def test_a_report_that_is_none_is_refused(daemon: Daemon, change: dict[str, object], status: int) -> None:
    reply = daemon.ask("POST", "/apps/chat", {"pid": os.getpid(), "budget_mb": 1, **change})
    assert (reply.status, reply.header("content-type")) == (status, "application/problem+json")


def test_apps_that_ask_at_once_never_get_more_than_there_is(daemon: Daemon) -> None:
    names = [f"crowd{number}" for number in range(8)]
    told: list[int] = []

    def ask(name: str) -> None:
        told.append(daemon.ask("POST", f"/apps/{name}", {"pid": os.getpid(), "budget_mb": 4_000}).status)

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(told) == [200, 200, 409, 409, 409, 409, 409, 409]
    for name in names:
        daemon.ask("POST", f"/apps/{name}", {"pid": os.getpid(), "budget_mb": 0})
    assert daemon.ask("GET", "/apps").json() == {"apps": []}


def test_a_daemon_that_goes_leaves_the_app_to_its_own_limit(tmp_path: Path) -> None:
    governor = MemoryGovernor("4GiB", soft="1GiB", name="alone", watch=False)
    with running(tmp_path / "d", "  {}\n") as up:
        citizen = joined(up, governor)
        citizen.start()
        assert governor.free_bytes == 1 << 30
        up.stop()
        citizen.more(2 << 30)
        until(lambda: isinstance(citizen.daemon, door.NoDaemon), 30)
        governor.wait_allocate(3 << 30, 60).release()
        citizen.close()


def test_a_daemon_that_hangs_holds_up_nobody_who_allocates(tmp_path: Path) -> None:
    """Its socket takes connections, and nothing is ever answered."""
    import socket
    import tempfile

    with tempfile.TemporaryDirectory(prefix="a") as home:
        hung = prepared(tmp_path, "", Path(home))
        hung.places.mkdir(parents=True, mode=0o700)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(hung.socket_path))
            listener.listen(8)
            governor = MemoryGovernor("4GiB", soft="1GiB", name="patient", watch=False)
            citizen = joined(hung, governor)
            asking = threading.Thread(target=citizen.turn)
            asking.start()
            for _ in range(1_000):
                governor.try_allocate(MIB).release()
            asking.join(60)
            assert isinstance(citizen.daemon, door.NoDaemon)
            citizen.close()
