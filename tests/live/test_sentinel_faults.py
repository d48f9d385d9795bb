"""Faults around the sentinel: a full disk, checks that fork, a machine that slept, a daemon killed while it unloads."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.daemons import Daemon, prepared
from tests.live.sentinels import Guard, become, hits, listens, stand_in, start_stand_in, state
from tests.live.servers import Servers, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

FreePort = Callable[[], int]
MakeGuard = Callable[..., Guard]


@pytest.fixture
def daemon(servers: Servers, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """`daemon(services)`: a real one with short intervals, not started yet; killed at the end."""
    made: list[Daemon] = []
    home = tempfile.TemporaryDirectory(prefix="a")

    def make(services: dict[str, Any], **settings: Any) -> Daemon:
        up = prepared(tmp_path / "daemon", "", Path(home.name))
        up.environ = {**servers.env, **up.environ, "PATH": servers.env["PATH"]}
        content = {
            "hosts": {"here": {"ram_physical_mb": 65_536, "ram_reserved_mb": 1, "ram_safety_mb": 1}},
            "services": services,
            "sentinel": {"stopped_interval_s": 0.5, "probe_interval_s": 0.5, **settings},
            "live_veto": "off",
        }
        up.write(yaml.safe_dump(content))
        made.append(up)
        return up

    yield make
    for each in made:
        if each.process is not None and each.process.poll() is None:
            each.process.kill()
            each.process.wait()
    home.cleanup()


def kinds(daemon: Daemon) -> list[str]:
    return [each["kind"] for each in daemon.ask("GET", "/events?limit=1000").json()["events"]]


def rounds(daemon: Daemon, more: int = 3) -> None:
    """Let `more` whole rounds go by."""

    def done() -> int:
        told: int = daemon.ask("GET", "/healthz").json()["sentinel"]["rounds"]
        return told

    until = done() + more
    wait_until(lambda: done() >= until)


# Pressure that the kernel tells of


class Bell:
    """An alarm that a test rings."""

    how = "told by the kernel at once"

    def __init__(self) -> None:
        self._rung = threading.Semaphore(0)
        self._over = False

    def ring(self) -> None:
        self._rung.release()

    def wait(self) -> bool:
        self._rung.acquire()
        return not self._over

    def end(self) -> None:
        self._over = True
        self._rung.release()


def test_pressure_that_the_kernel_tells_of_is_looked_at_at_once(guard: MakeGuard) -> None:
    """With ten minutes between rounds, one comes when the alarm rings, and none before."""
    bell = Bell()
    made = guard({}, stopped_interval_s=600)
    made.sentinel._alarm = bell
    with made as at_work:
        wait_until(lambda: at_work.sentinel.health().rounds == 1)
        assert at_work.sentinel.health().pressure == "told by the kernel at once"
        for expected in (2, 3):
            bell.ring()
            wait_until(lambda expected=expected: at_work.sentinel.health().rounds == expected)


def test_when_the_kernel_tells_nothing_any_more_that_is_said_and_rounds_go_on(guard: MakeGuard) -> None:
    bell = Bell()
    made = guard({})
    made.sentinel._alarm = bell
    with made as at_work:
        bell.end()
        wait_until(lambda: "not told any more" in at_work.sentinel.health().pressure)
        at_work.rounds(3)


# Checks


def test_a_check_that_forks_and_hangs_is_ended_with_its_children(guard: MakeGuard, tmp_path: Path) -> None:
    told = tmp_path / "pids"
    check = f"sleep 600 & echo $! > {told}; (sleep 600 & echo $! >> {told}; wait) & wait"
    with guard({"chat": {"ram_budget_mb": 10, "loaded_check_cmd": check}}, probe_interval_s=600) as at_work:
        at_work.rounds(2)
        pids = [int(pid) for pid in told.read_text().split()]
        assert len(pids) == 2
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
        at_work.rounds(2)
    assert at_work.sentinel.health().errors == 0


def test_a_check_that_leaves_a_child_behind_is_believed_and_holds_nobody_up(
    servers: Servers, guard: MakeGuard, tmp_path: Path
) -> None:
    """What starts a server on demand does that; the child is not ours to end."""
    told = tmp_path / "pids"
    check = f"test -e {told} || {{ sleep 600 & echo $! > {told}; }}"
    with guard({"chat": {"ram_budget_mb": 10, "loaded_check_cmd": check}}) as at_work:
        at_work.rounds(4)
        assert psutil.pid_exists(int(told.read_text()))
        assert at_work.gate.look().ledger.accounts["chat"].state.is_loaded
    assert at_work.sentinel.health().errors == 0


# A full disk


@pytest.fixture
def full_disk() -> Iterator[Callable[[Path], None]]:
    """`full_disk(folder)` puts a small file system of its own there; `fill` leaves not one byte of it."""
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        folder.mkdir(parents=True)
        if shutil.which("mount") is None:
            pytest.skip("there is no `mount` here")
        command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "admit-test", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, journal: Path) -> None:
    """A line of rubbish takes what is left of the journal's last page, and the ballast all other pages."""
    left = -journal.stat().st_size % 4096
    with journal.open("ab") as file:
        file.write(b"x" * (left - 1) + b"\n")
    with pytest.raises(OSError, match="No space"), (folder / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"x" * 4096)


def test_on_a_full_disk_it_wakes_and_recovers_all_the_same(
    servers: Servers,
    free_port: FreePort,
    daemon: Callable[..., Daemon],
    full_disk: Callable[[Path], None],
) -> None:
    """What cannot be written down is lost, and said once in the log; what has to be done is done."""
    port = free_port()
    process = start_stand_in(servers, port)
    up = daemon({"chat": stand_in(port)}, safelist=["chat"])
    full_disk(up.places.parent)
    up.start()
    rounds(up)
    fill(up.places.parent, up.places / "journal.jsonl")
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state(process.pid) != psutil.STATUS_STOPPED, 30, lambda: "it is woken")
    become(port, "hang")
    assert process.wait(60) == -signal.SIGTERM
    wait_until(lambda: listens(port), 30, lambda: "it is loaded again")
    before = hits(port)
    wait_until(lambda: hits(port) >= before + 2, 30, lambda: "it is probed, and answers")
    health = up.ask("GET", "/healthz").json()["sentinel"]
    assert health["errors"] == 0
    assert up.log.count("No space left on device") == 1, up.log


# A machine that slept, and a daemon that is killed


def test_after_a_sleep_of_the_machine_nobody_is_hung_and_nobody_is_woken(
    servers: Servers, free_port: FreePort, daemon: Callable[..., Daemon]
) -> None:
    """All processes stand still for longer than three probes take, and go on: that was the machine, not the service."""
    port = free_port()
    process = start_stand_in(servers, port)
    up = daemon({"chat": stand_in(port)}).start()
    rounds(up)
    assert up.process is not None
    up.process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state(process.pid) == state(up.pid) == psutil.STATUS_STOPPED)
    asleep_until = time.monotonic() + 3
    wait_until(lambda: time.monotonic() > asleep_until)
    process.send_signal(signal.SIGCONT)
    up.process.send_signal(signal.SIGCONT)
    before = hits(port)
    rounds(up, 4)
    wait_until(lambda: hits(port) > before, 30, lambda: "it is probed as before")
    assert not {"recovering", "woken", "gave_up", "sentinel_error"} & set(kinds(up))
    assert process.poll() is None


@pytest.mark.slow
def test_killed_while_it_unloads_the_next_daemon_recovers_it(
    servers: Servers, free_port: FreePort, daemon: Callable[..., Daemon]
) -> None:
    """SIGTERM has been sent, and nobody is left to send SIGKILL: it hangs on, until the next daemon finds so."""
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "hang", "--deaf")
    up = daemon({"chat": stand_in(port, unload_timeout_s=3)}).start()
    wait_until(lambda: "recovering" in kinds(up))
    assert up.stop(signal.SIGKILL) == -signal.SIGKILL
    assert process.poll() is None
    up.start()
    wait_until(lambda: "recovered" in kinds(up), 60, lambda: str(kinds(up)))
    assert process.wait(10) == -signal.SIGKILL
    assert listens(port)
    assert kinds(up).count("recovering") == 2
    assert up.capacity()["reservations"] == []
