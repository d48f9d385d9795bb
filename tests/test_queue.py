"""The queue, over real HTTP and beside it: priority, then arrival; and who goes away is gone."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from admitd import capacity
from admitd.gate import Ask, Gate
from tests.gates import Quiet, Undisturbed, me, no_checks, reservations, until, words
from tests.hosts import ADMIT, Daemon, Host, answer, connect, daemon, send

CLIENT = """
import http.client, json, os, sys
port, service, wait_s, named = sys.argv[1:]
body = {"service": service, "wait_s": float(wait_s)} | ({"holder_pid": os.getpid()} if named == "named" else {})
connection = http.client.HTTPConnection("127.0.0.1", int(port))
connection.request("POST", "/admit", json.dumps(body), {"Content-Type": "application/json"})
print(connection.getresponse().status)
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Three services of which one fits, and a small one that fits beside it."""
    host = Host(
        tmp_path / "host",
        {"low": 600, "high": 600, "also-low": 600, "small": 300, "tiny": 50, "filler": 700},
        priorities={"high": 9},
    )
    yield host
    host.clear()


@pytest.fixture
def one(host: Host) -> Iterator[Daemon]:
    with daemon(host) as running:
        yield running


def fill(one: Daemon, service: str = "filler") -> Callable[[], None]:
    """Take the room; what comes back gives it back."""
    status, body = one.admit(service, holder_pid=os.getpid())
    assert status == 200, body
    return lambda: give_back(one, body)


def give_back(one: Daemon, body: Any) -> None:
    status, _ = one.ask("DELETE", f"/reservations/{body['reservation']['id']}")
    assert status == 204


class Waiting:
    """A request that waits its turn, in a thread of its own. It is in the queue once this is made."""

    def __init__(self, one: Daemon, service: str, wait_s: float = 30.0, **body: object) -> None:
        self._one = one
        self.service = service
        self.connection = connect(one.port, wait_s + 20)
        self.told: tuple[int, Any] | None = None
        before = len(one.waiting())
        send(self.connection, "POST", "/admit", {"service": service, "wait_s": wait_s, **body})
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()
        until(lambda: len(one.waiting()) == before + 1)

    def _wait(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.told = answer(self.connection)
        self.connection.close()

    @property
    def is_told(self) -> bool:
        return self.told is not None

    def result(self) -> tuple[int, Any]:
        self._thread.join(timeout=40)
        assert self.told is not None
        return self.told

    def leave(self) -> None:
        """Close the connection, as a client does that was interrupted."""
        assert self.connection.sock is not None
        self.connection.sock.shutdown(2)
        self._thread.join(timeout=20)


def beside(host: Host) -> Gate:
    """A process that decides for itself."""
    declared = capacity.load(host.config, detect_physical=lambda: 0)
    return Gate(lambda: (declared, ()), Undisturbed(), Quiet(), reservations(host.state), no_checks)


# Order.


def test_the_higher_priority_first_and_then_who_came_first(one: Daemon) -> None:
    free = fill(one)
    waiting = {name: Waiting(one, name) for name in ("low", "also-low", "high")}
    assert one.waiting() == ["high", "low", "also-low"]
    for expected in ("high", "low", "also-low"):
        free()
        status, body = waiting[expected].result()
        assert (status, body["verdict"]) == (200, "admitted")
        left = [each for each in waiting.values() if not each.is_told]
        assert sorted(one.waiting()) == sorted(each.service for each in left)
        free = lambda body=body: give_back(one, body)  # noqa: E731
    free()


def test_a_later_smaller_request_does_not_take_the_room_of_one_ahead(one: Daemon, host: Host) -> None:
    free = fill(one)
    waits = Waiting(one, "high")
    # The small one would fit beside the filler, and even then the one ahead would not fit when the filler goes.
    assert [one.admit("small")[1]["reason"], words(beside(host), Ask("small", me()))] == ["queued", ["queued"]]
    free()
    assert waits.result()[0] == 200
    assert one.admit("small", holder_pid=os.getpid())[0] == 200


def test_one_of_higher_priority_passes_those_who_wait(one: Daemon) -> None:
    fill(one, "low")
    waits = Waiting(one, "also-low", wait_s=1.0)
    status, body = one.admit("high")
    assert (status, body["reason"]) == (409, "no-headroom")  # and not `queued`
    assert waits.result()[0] == 409


# Position and time.


def test_who_waited_in_vain_is_told_his_place_and_is_gone(one: Daemon) -> None:
    fill(one)
    ahead = Waiting(one, "high", wait_s=4.0)
    status, body = Waiting(one, "low", wait_s=1.0).result()
    assert (status, body["reason"], body["queue_position"]) == (409, "no-headroom", 2)
    assert one.waiting() == ["high"]
    status, body = ahead.result()
    assert (status, body["queue_position"]) == (409, 1)
    assert one.waiting() == []
    assert list(body["blockers"])


def test_what_never_fits_does_not_wait(one: Daemon, host: Host) -> None:
    host.config.write_text(host.config.read_text().replace("budget_mb: 700", "budget_mb: 1001"))
    host.config.write_text(
        host.config.read_text().replace("ram_budget_mb: 1001", "ram_budget_mb: 1000\n    pinned: true")
    )
    until(lambda: one.ask("GET", "/capacity")[1]["charged_mb"] == 1000)
    status, body = one.admit("low", wait_s=600.0)
    assert (status, body["reason"]) == (409, "too-large")


# Who goes away.


@pytest.mark.parametrize("named", ["named", "nameless"])
def test_a_waiting_client_that_is_killed_is_gone(one: Daemon, host: Host, named: str) -> None:
    free = fill(one)
    client = subprocess.Popen([sys.executable, "-I", "-S", "-c", CLIENT, str(one.port), "high", "60", named])
    until(lambda: one.waiting() == ["high"])
    other = Waiting(one, "low")
    client.send_signal(signal.SIGKILL)
    client.wait()
    if named == "named":
        assert one.waiting() == ["low"]  # the kernel says so, at once
    until(lambda: one.waiting() == ["low"], patience_s=2.0)
    assert [each.service for each in reservations(host.state).standing(beside(host).capacity()).waiters] == ["low"]
    free()
    assert other.result()[0] == 200


def test_a_client_that_disconnects_is_gone(one: Daemon) -> None:
    free = fill(one)
    leaves = Waiting(one, "high", holder_pid=os.getpid())
    stays = Waiting(one, "low")
    leaves.leave()
    until(lambda: one.waiting() == ["low"], patience_s=2.0)
    free()
    assert stays.result()[0] == 200


def test_a_killed_daemon_takes_its_nameless_clients_with_it(host: Host) -> None:
    """A place that nobody can claim any more would hold up everyone behind it."""
    gate = beside(host)
    with daemon(host) as one:
        fill(one)
        waits = Waiting(one, "high", wait_s=60.0)
        assert words(gate, Ask("small", me())) == ["queued"]
        one.kill()
        waits._thread.join(timeout=20)
    assert words(gate, Ask("small", me())) == ["Admitted"]


# One queue for all.


@contextlib.contextmanager
def waiting_command(host: Host, service: str, environ: dict[str, str], queue: Callable[[], list[str]]) -> Iterator[Any]:
    before = len(queue())
    command = subprocess.Popen(
        [str(ADMIT), "load", service, "--wait", "1m"], env=environ, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: len(queue()) == before + 1)
        yield command
    finally:
        command.kill()
        command.communicate()


def test_commands_that_decide_for_themselves_wait_in_the_same_queue(one: Daemon, host: Host) -> None:
    free = fill(one)
    first = Waiting(one, "low")
    with waiting_command(host, "high", host.environ("elsewhere"), one.waiting) as command:
        assert one.waiting() == ["high", "low"]
        assert one.ask("POST", "/admit", {"service": "small", "wait_s": 0})[1]["reason"] == "queued"
        free()
        _, said = command.communicate(timeout=40)
        assert command.returncode == 0, said
        assert not first.is_told
    host.clear()
    assert first.result()[0] == 200


def test_a_lock_that_is_held_for_too_long_ends_no_wait(one: Daemon, host: Host) -> None:
    """Neither that of a client of the daemon, nor that of a command that decides for itself."""
    free = fill(one)
    asked = Waiting(one, "low")
    with waiting_command(host, "high", host.environ("elsewhere"), one.waiting) as command:
        with reservations(host.state).lock():
            # Who asks twice meanwhile has seen a whole decision fail, and so has everyone who waits.
            assert [one.admit("small")[1]["reason"] for _ in range(2)] == ["busy", "busy"]
        assert one.waiting() == ["high", "low"]
        free()
        _, said = command.communicate(timeout=40)
        assert command.returncode == 0, said
        assert not asked.is_told
    host.clear()
    assert asked.result()[0] == 200


def test_two_daemons_have_one_queue(one: Daemon, host: Host) -> None:
    free = fill(one)
    with daemon(host, "second") as two:
        low = Waiting(one, "low")
        high = Waiting(two, "high")
        assert one.waiting() == two.waiting() == ["high", "low"]
        free()
        status, body = high.result()
        assert status == 200
        assert not low.is_told
        give_back(one, body)
        assert low.result()[0] == 200


def test_a_waiting_command_keeps_its_place_when_its_daemon_is_killed(host: Host) -> None:
    """It goes on by itself, as the same holder; who came later stays behind it."""
    gate = beside(host)

    def queue() -> list[str]:
        waiters = reservations(host.state).standing(gate.capacity()).waiters
        return [each.service for each in sorted(waiters, key=lambda each: each.order)]

    with daemon(host) as one, daemon(host, "second") as two:
        free = fill(two)
        with waiting_command(host, "low", host.environ("home", one.port), queue) as command:
            later = Waiting(two, "also-low")
            assert queue() == ["low", "also-low"]
            before = [each.arrived_s for each in reservations(host.state).standing(gate.capacity()).waiters]
            one.kill()
            until(lambda: command.poll() is not None or queue() == ["low", "also-low"])
            free()
            _, said = command.communicate(timeout=40)
            assert command.returncode == 0, said
            assert not later.is_told
            assert len(before) == 2
        host.clear()
        assert later.result()[0] == 200
