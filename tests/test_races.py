"""Races, with real processes: however many ask at once and whoever is killed where, the pool is never exceeded."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitd import capacity
from admitd.core.terms import ProcessId
from admitd.core.verdict import Admitted
from admitd.gate import Answer, Ask, Gate
from admitd.reservations import Reservations
from tests.gates import REAL, Quiet, Undisturbed, files, held, me, no_checks, until, words
from tests.hosts import ADMIT, Host, answer, command_lines, connect, daemon, send, start

ROOT = Path(__file__).parents[1]
KILLS_OF_LOADERS, KILLS_OF_HOLDERS, KILLS_OF_COMMANDS, KILLS_OF_DAEMONS = 130, 40, 20, 10
POOL_MB = 1_000


def crowd(host: Host, clients: int, rounds: int, look_s: float, how: str, *ports: int) -> list[list[str]]:
    """What each of many processes was told that asked at once, round by round."""
    arguments = [str(each) for each in (host.config, host.state, clients, rounds, look_s, how, *ports)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.workers.crowd", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: list[list[str]] = json.loads(done.stdout)
    assert [len(each) for each in told] == [clients] * rounds
    return told


def admitted(told: list[list[str]]) -> list[int]:
    return [each.count("Admitted") for each in told]


@pytest.fixture
def ten(tmp_path: Path) -> Host:
    """Ten services, each of which takes more than half of the pool: there is room for one."""
    return Host(tmp_path / "host", {f"s{number}": 600 for number in range(10)})


# Many at once.


def test_of_fifty_at_once_one_gets_the_last_room(ten: Host) -> None:
    told = crowd(ten, 50, 3, 0.01, "locked")
    assert admitted(told) == [1, 1, 1]
    assert {word for each in told for word in each} <= {"Admitted", "no-headroom", "loading"}


def test_the_race_is_real_without_the_lock_each_round_admits_too_many(ten: Host) -> None:
    """The same crowd, the same slow look; only the lock is taken out."""
    assert all(count > 1 for count in admitted(crowd(ten, 8, 5, 0.1, "unlocked")))
    assert admitted(crowd(ten, 8, 5, 0.1, "locked")) == [1] * 5


def test_a_daemon_and_processes_that_decide_for_themselves_share_one_pool(ten: Host) -> None:
    with daemon(ten) as one:
        assert admitted(crowd(ten, 30, 3, 0.01, "locked", one.port)) == [1, 1, 1]


def test_two_daemons_and_processes_that_decide_for_themselves_share_one_pool(ten: Host) -> None:
    with daemon(ten, "one") as one, daemon(ten, "two") as two:
        assert admitted(crowd(ten, 30, 3, 0.01, "locked", one.port, two.port)) == [1, 1, 1]


def test_commands_and_a_daemon_share_one_pool(ten: Host) -> None:
    """The real `admit load`, some through the daemon, some by themselves, and requests besides."""
    with daemon(ten, "daemon") as one:
        environs = [ten.environ("daemon", one.port), ten.environ("elsewhere")] * 2
        commands = [
            subprocess.Popen([str(ADMIT), "load", f"s{number}"], env=environ, stderr=subprocess.PIPE, text=True)
            for number, environ in enumerate(environs)
        ]
        asked = [one.admit(f"s{number}", holder_pid=os.getpid()) for number in range(4, 10)]
        try:
            ended = [(command.communicate(timeout=60)[1], command.returncode) for command in commands]
            won = [code for _, code in ended].count(0) + [status for status, _ in asked].count(200)
            assert won == 1, (ended, asked)
            assert {code for _, code in ended} <= {0, 2}
        finally:
            ten.clear()


# Killed at any point.


class Watch:
    """A gate that sees the real processes, and the test's own count of what is there."""

    def __init__(self, host: Host) -> None:
        self.host = host
        declared = capacity.load(host.config, detect_physical=lambda: 0)
        self.table = Undisturbed()
        records = Reservations(host.state, self.table.identify, shared=False)
        self.gate = Gate(lambda: (declared, ()), self.table, Quiet(), records, no_checks)
        self.mine: dict[str, str] = {}

    def take_what_there_is(self) -> None:
        """Ask for everything, as one who would load it: what is promised beside what is under way would show."""
        answers, _ = self.gate.decide([Ask(name, me()) for name in self.host.budgets if name not in self.mine])
        for each in answers:
            if isinstance(each, Answer) and isinstance(each.verdict, Admitted):
                self.mine[each.verdict.service] = held(each).id

    def check(self) -> None:
        """Never more than the pool: by what is really there, and by the ledger."""
        there = {*self.host.servers(), *self.mine}
        assert sum(self.host.budgets[name] for name in there) <= POOL_MB, there
        ledger = self.gate.look().ledger
        assert ledger.free["ram"] >= 0, ledger

    def next_admission_works(self) -> None:
        """With everyone gone there is nothing to repair: the whole pool is free, and no record is left.

        What a killed shell has started (`sleep 0.1`) holds the lease until it ends, too; by time alone: a minute.
        """
        for record_id in self.mine.values():
            assert self.gate.give_back(record_id)
        self.mine.clear()
        until(lambda: not self.gate.look().ledger.charged.get("ram", 0))
        (one,), _ = self.gate.decide([Ask(next(iter(self.host.budgets)), me())])
        assert isinstance(one, Answer)
        self.gate.give_back(held(one).id)
        words(self.gate, Ask(next(iter(self.host.budgets)), dry_run=True))
        assert os.listdir(self.host.state) == ["lock"]


@contextlib.contextmanager
def watching(host: Host) -> Iterator[Watch]:
    watch = Watch(host)
    try:
        yield watch
    finally:
        host.clear()
        watch.table.close()


class Loaders:
    """Processes that load as `admit load` does."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.logs = host.home / "logs"
        self.logs.mkdir()
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "tests.workers.loaders", str(host.config), str(host.state), str(self.logs)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, service: str, how: str = "now") -> int:
        assert self._worker.stdin is not None and self._worker.stdout is not None
        self._worker.stdin.write(f"{service} {how}\n")
        self._worker.stdin.flush()
        return int(self._worker.stdout.readline())

    def have_gone(self) -> bool:
        """Whether neither a loader is left, nor what one has forked that has not become a load command yet."""
        worker = f"tests.workers.loaders {self._host.config}".encode()
        return [pid for pid, line in command_lines().items() if worker in line] == [self._worker.pid]

    def close(self) -> None:
        self._worker.communicate(timeout=20)


@pytest.fixture
def six(tmp_path: Path) -> Host:
    """Six services of which two fit; the server of each starts a moment after its load command."""
    return Host(tmp_path / "host", {f"s{number}": 400 for number in range(6)}, starts="sleep 0.1; ")


@pytest.fixture
def loaders(six: Host) -> Iterator[Loaders]:
    loaders = Loaders(six)
    yield loaders
    loaders.close()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    return REAL.identify(pid) is None


def has_settled(host: Host) -> bool:
    """Whether no load command is on its way any more: each has become its server, or has ended."""
    for pid in host.processes():
        with contextlib.suppress(OSError):
            if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0"):
                return False
    return True


@pytest.mark.slow
def test_loaders_killed_at_random_points(six: Host, loaders: Loaders) -> None:
    dice = random.Random(7)
    loaded_after_all = 0
    with watching(six) as watch:
        for _ in range(KILLS_OF_LOADERS):
            pids = [loaders.start(service) for service in dice.sample(sorted(six.budgets), 3)]
            time.sleep(dice.uniform(0.0, 0.06))  # the random point
            kill(dice.choice(pids))
            for _ in range(3):
                watch.take_what_there_is()
                watch.check()
            until(lambda: has_settled(six))
            watch.take_what_there_is()
            watch.check()
            loaded_after_all += len(six.servers())
            for pid in pids:
                kill(pid)
            until(lambda pids=pids: all(is_gone(pid) for pid in pids))
            until(loaders.have_gone)
            six.clear()
            watch.next_admission_works()
    assert loaded_after_all > KILLS_OF_LOADERS / 4  # else nothing of it was tested


@pytest.mark.parametrize("where", ["reserved", "leased", "forked"])
def test_a_loader_killed_at_the_worst_point(six: Host, loaders: Loaders, where: str) -> None:
    """Between the reservation, the lease, the fork and the exec of the load command."""
    with watching(six) as watch:
        loader = loaders.start("s0", where)
        until((loaders.logs / where).exists)
        kill(loader)
        until(lambda: is_gone(loader))
        watch.take_what_there_is()
        # Where a load command is on its way, its room is kept; where there is none, it is free at once.
        assert len(watch.mine) == (1 if where == "forked" else 2)
        (loaders.logs / where).unlink()
        if where == "forked":
            until(lambda: six.servers() == ["s0"] and has_settled(six))
        watch.take_what_there_is()
        watch.check()
        six.clear()
        watch.next_admission_works()


def test_a_server_that_a_wrapper_starts_late_keeps_its_room_though_the_command_was_killed(tmp_path: Path) -> None:
    """`sh -c 'sleep 1; exec server'`, by the real command: what it started holds the lease."""
    host = Host(tmp_path / "host", {"late": 600, "other": 600}, starts="sleep 1; ")
    with watching(host) as watch:
        command = subprocess.Popen([str(ADMIT), "load", "late"], env=host.environ(), stderr=subprocess.DEVNULL)
        until(lambda: host.servers() == ["late"])
        command.kill()
        command.wait()
        seen = set()
        while not has_settled(host):
            seen.update(words(watch.gate, Ask("other", me())))
        assert seen == {"no-headroom"}
        assert words(watch.gate, Ask("late", me()), Ask("other", me())) == ["AlreadyLoaded", "no-headroom"]
        host.clear()
        watch.next_admission_works()


def test_a_load_command_that_ends_without_a_server_gives_its_room_back(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", {"late": 600, "other": 600}, starts="sleep 0.3; exit 1; ")
    with watching(host) as watch:
        command = subprocess.Popen([str(ADMIT), "load", "late"], env=host.environ(), stderr=subprocess.DEVNULL)
        until(lambda: host.servers() == ["late"])
        command.kill()
        command.wait()
        until(lambda: host.servers() == [])
        assert words(watch.gate, Ask("other", me())) == ["Admitted"]
        watch.mine["other"] = files(host.state)[0][-16:]
        watch.next_admission_works()


@pytest.mark.slow
def test_commands_killed_at_random_points(tmp_path: Path) -> None:
    """The real `admit load`, from its first import to its last line."""
    host = Host(tmp_path / "host", {f"s{number}": 400 for number in range(4)}, starts="sleep 0.1; ")
    dice = random.Random(8)
    with watching(host) as watch:
        for _ in range(KILLS_OF_COMMANDS):
            commands = [
                subprocess.Popen([str(ADMIT), "load", service], env=host.environ(), stderr=subprocess.DEVNULL)
                for service in dice.sample(sorted(host.budgets), 2)
            ]
            time.sleep(dice.uniform(0.1, 0.9))  # the random point
            commands[0].kill()
            watch.take_what_there_is()
            watch.check()
            until(lambda: has_settled(host))
            watch.take_what_there_is()
            watch.check()
            for command in commands:
                command.kill()
                command.wait()
            until(lambda: not host.commands())
            host.clear()
            watch.next_admission_works()


@pytest.mark.slow
def test_holders_killed_at_random_points(six: Host) -> None:
    """A holder that asks through others: its reservation ends with it, however often it was asked for."""
    dice = random.Random(9)
    with watching(six) as watch:
        for _ in range(KILLS_OF_HOLDERS):
            holders = [subprocess.Popen(["/bin/sleep", "1000"]) for _ in range(2)]
            ids: list[ProcessId] = [REAL.identify(holder.pid) or me() for holder in holders]
            asks = [Ask(f"s{number}", ids[number % 2]) for number in range(4)]
            killer = threading.Timer(dice.uniform(0.0, 0.02), holders[0].kill)
            killer.start()
            for _ in range(3):
                told = words(watch.gate, *asks)
                assert told.count("Admitted") <= 2
                watch.check()
            killer.join()
            holders[0].wait()
            watch.take_what_there_is()
            assert len(watch.mine) == 1
            watch.check()
            holders[1].kill()
            holders[1].wait()
            watch.next_admission_works()


@pytest.mark.slow
def test_daemons_killed_at_random_points(six: Host) -> None:
    """Six clients ask without pause; what the daemon had promised stands when it is gone, and no more than that."""
    dice = random.Random(10)
    with watching(six) as watch:
        for _ in range(KILLS_OF_DAEMONS):
            one = start(six)
            promised: set[str] = set()

            def ask(service: str, port: int = one.port, promised: set[str] = promised) -> None:
                with (
                    contextlib.suppress(OSError, http.client.HTTPException),
                    contextlib.closing(connect(port)) as connection,
                ):
                    while True:
                        send(connection, "POST", "/admit", {"service": service, "holder_pid": os.getpid()})
                        status, _ = answer(connection)
                        if status == 200:
                            promised.add(service)

            clients = [threading.Thread(target=ask, args=(service,)) for service in six.budgets]
            for client in clients:
                client.start()
            time.sleep(dice.uniform(0.0, 0.2))  # the random point
            one.process.kill()
            for client in clients:
                client.join()
            one.process.communicate()
            standing = {each.service for each in watch.gate.look().ledger.reservations}
            assert promised <= standing
            assert len(standing) <= 2
            for service in standing:
                assert words(watch.gate, Ask(service, me())) == ["Admitted"]  # the same one again
            watch.take_what_there_is()
            watch.mine = {name.split("~")[1]: name[-16:] for name in files(six.state)}
            assert len(watch.mine) == 2
            watch.check()
            shutil.rmtree(six.home / "home")
            watch.next_admission_works()
