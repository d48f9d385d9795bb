"""Following a load: what counts as up, as failed, as late. The machine is a row of looks; the command is a real one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from admitd import actuator, loading, probe
from admitd.core.events import Event
from admitd.core.ledger import Account
from admitd.core.terms import RAM, Check, Probe, Process, ProcessId, Service, Sighting, State
from admitd.processes.table import CannotSee
from admitd.reservations import Busy

MIB = 1 << 20
SERVICE = Service("coder", {RAM: 6000 * MIB}, process_pattern="x", load_cmd="sleep 1000.148", load_timeout_s=30)
PROCESS = Process(ProcessId(4711, 1), 0)
IT = Sighting("coder", PROCESS, program="server")
MENTION = Sighting("coder", PROCESS, mention=True, program="tail")


def account(state: State, *sightings: Sighting, check: bool | None = None) -> Account:
    checked = None if check is None else Check("coder", check, "")
    return Account(SERVICE, state, {}, {RAM: 10 * MIB} if sightings else None, sightings, checked)


NOTHING = account(State.RESERVED)
THERE = account(State.LOADED, IT)


END = "while this look is taken, the load_cmd ends"


class Machine:
    """A gate whose looks are the given ones, the last again and again. It keeps what is remembered."""

    def __init__(self, *looks: Account | Exception | str) -> None:
        self._looks = list(looks)
        self.records = SimpleNamespace(lease=lambda record_id: None)
        self.load: loading.Load | None = None
        self.remembered: list[Event] = []

    def record(self, event: Event) -> None:
        self.remembered.append(event)

    def look(self) -> Any:
        if self._looks[0] is END:
            assert self.load is not None
            self.load.process.wait()
            self._looks.pop(0)
        seen = self._looks[0] if len(self._looks) == 1 else self._looks.pop(0)
        if isinstance(seen, Exception):
            raise seen
        return SimpleNamespace(ledger=SimpleNamespace(account=lambda service: seen))


Follow = Callable[..., tuple[loading.Outcome, list[loading.Progress], loading.Load]]


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Follow]:
    """Load `service` on a machine that shows these looks; time passes only as the looks are taken."""
    now = [1000.0]
    monkeypatch.setattr(loading.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(loading.time, "monotonic", lambda: now[0])
    loads: list[loading.Load] = []

    def follow(service: Service, *looks: Any) -> tuple[loading.Outcome, list[loading.Progress], loading.Load]:
        machine = Machine(*looks)
        load = loading.Load(machine, service, tmp_path / "logs" / "coder.log", None)  # type: ignore[arg-type]
        machine.load = load
        machine.records.where = tmp_path
        loads.append(load)
        shown: list[loading.Progress] = []
        return load.follow(shown.append), shown, load

    yield follow
    for load in loads:
        if load.process.poll() is None:
            os.killpg(load.process.pid, signal.SIGKILL)
        load.process.wait()


def with_(**changes: Any) -> Service:
    return replace(SERVICE, **changes)


@pytest.mark.parametrize(
    ("command", "problems", "handed"),
    [
        pytest.param("true", [], ["id"], id="it has ended well"),
        pytest.param("exit 3", [], [], id="it has failed"),
        pytest.param("true", [Busy("locked")], ["id"], id="it could not be written down at first"),
    ],
)
def test_room_is_kept_for_a_load_that_its_command_hands_over(
    tmp_path: Path, command: str, problems: list[Exception], handed: list[str]
) -> None:
    told: list[str] = []

    def hand_over(record_id: str) -> bool:
        if problems:
            raise problems.pop()
        told.append(record_id)
        return True

    machine = Machine(NOTHING)
    machine.hand_over = hand_over  # type: ignore[attr-defined]
    load = loading.Load(machine, with_(load_cmd=command), tmp_path / "coder.log", "id")  # type: ignore[arg-type]
    load.process.wait()
    load.hand_over()
    assert load.hand_over() is bool(handed)
    assert load.hand_over() is bool(handed)
    assert told == handed, "once"


def test_what_was_there_once_is_not_handed_over(tmp_path: Path) -> None:
    machine = Machine(THERE)
    load = loading.Load(machine, with_(load_cmd="true"), tmp_path / "coder.log", "id")  # type: ignore[arg-type]
    load.process.wait()
    next(load._looks(lambda _: None))
    assert load.hand_over() is False


def test_it_must_stay_for_a_moment_where_nothing_else_tells_that_it_is_up(follow: Follow) -> None:
    outcome, shown, _ = follow(SERVICE, NOTHING, THERE)
    assert isinstance(outcome, loading.Loaded)
    assert outcome.pids == (4711,)
    assert outcome.took_s >= loading.STEADY_S
    assert [each.doing for each in shown][:2] == ["waiting for it to appear", "it is there"]
    assert shown[-1].doing == "loaded"
    assert shown[-1].measured == {RAM: 10 * MIB}


def test_a_check_that_says_yes_is_enough_at_once(follow: Follow) -> None:
    outcome, shown, _ = follow(SERVICE, account(State.LOADED, check=True))
    assert isinstance(outcome, loading.Loaded)
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("seen", "doing"),
    [
        (account(State.LOADED, MENTION), "waiting for it to appear"),
        (account(State.HALF_LOADED, IT, check=False), "its process is there, its check does not say loaded yet"),
        (account(State.SUSPENDED, IT), "it is stopped (state T)"),
        (NOTHING, "waiting for it to appear"),
    ],
)
def test_what_is_not_up_is_late_in_the_end(follow: Follow, seen: Account, doing: str) -> None:
    outcome, shown, _ = follow(with_(load_timeout_s=3.0), seen)
    assert isinstance(outcome, loading.LoadTimedOut)
    assert (outcome.seen, outcome.state) == (doing, seen.state)
    assert shown[-1].elapsed_s >= 3.0


def test_a_command_that_ends_well_may_have_daemonised(follow: Follow) -> None:
    outcome, shown, _ = follow(with_(load_cmd="exit 0"), END, NOTHING, NOTHING, THERE)
    assert isinstance(outcome, loading.Loaded)
    assert shown[1].doing == "load_cmd has ended, waiting for it to appear"


@pytest.mark.parametrize(
    ("command", "looks", "why"),
    [
        ("exit 2", (END, NOTHING), "load_cmd ended with exit 2"),
        ("kill -9 $$", (END, NOTHING), "load_cmd ended with killed by SIGKILL"),
        ("exit 0", (THERE, END, NOTHING), "load_cmd ended with exit 0; coder was there and is gone"),
        ("exit 0", (THERE, NOTHING, END, NOTHING), "load_cmd ended with exit 0; coder was there and is gone"),
        ("exit 1", (END, THERE, NOTHING), "load_cmd ended with exit 1; coder was there and is gone"),
    ],
)
def test_failures(follow: Follow, command: str, looks: tuple[Account, ...], why: str) -> None:
    outcome, _, load = follow(with_(load_cmd=f"echo begun; {command}"), *looks)
    assert isinstance(outcome, loading.LoadFailed)
    assert outcome.why == why
    assert load.tail() == ("begun",)


def test_one_look_that_misses_it_is_not_its_end(follow: Follow) -> None:
    """A server that forks and goes while a look is taken is missed by it."""
    outcome, _, _ = follow(with_(load_cmd="exit 0"), END, THERE, NOTHING, THERE)
    assert isinstance(outcome, loading.Loaded)


def test_a_service_that_is_there_has_not_failed_whatever_its_command_says(follow: Follow) -> None:
    """`server & exit 1`: the memory is in use, and it answers."""
    outcome, _, load = follow(with_(load_cmd="exit 1"), THERE)
    assert isinstance(outcome, loading.Loaded)
    assert load.process.wait() == 1


def test_not_seeing_is_waited_out(follow: Follow) -> None:
    outcome, shown, _ = follow(SERVICE, CannotSee("the table is locked"), THERE)
    assert isinstance(outcome, loading.Loaded)
    assert shown[0].doing == "cannot look: the table is locked"
    outcome, _, _ = follow(with_(load_timeout_s=1.0), CannotSee("the table is locked"))
    assert isinstance(outcome, loading.LoadTimedOut)
    assert outcome.seen == "the table is locked"


def test_a_probe_must_answer_and_gets_no_more_time_than_is_left(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[float] = []

    def ask(declared: Probe, timeout_s: float) -> probe.Heard:
        bounds.append(timeout_s)
        return probe.Heard(len(bounds) == 3, "503 Loading", 0.0)

    monkeypatch.setattr(loading.probe, "ask", ask)
    declared = Probe("http://127.0.0.1:1/", "GET", None, 200, 30.0, 0.0)
    outcome, shown, _ = follow(with_(probe=declared, load_timeout_s=10.0), THERE)
    assert isinstance(outcome, loading.Loaded)
    assert [each.doing for each in shown] == ["no answer yet: 503 Loading"] * 2 + ["answers"]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] == 10.0


def test_a_command_that_cannot_be_started(follow: Follow) -> None:
    with pytest.raises(actuator.CannotStart, match="/no/such cannot be run: No such file"):
        follow(with_(load_cmd=("/no/such",)), NOTHING)
    with pytest.raises(actuator.CannotStart, match="has no load_cmd; start it with: admit run coder -- CMD"):
        follow(with_(load_cmd=None), NOTHING)


@pytest.mark.parametrize(
    ("changes", "looks", "kinds"),
    [
        ({}, (THERE,), ["loaded"]),
        ({"load_cmd": "exit 2"}, (END, NOTHING), ["load_failed"]),
        ({"load_timeout_s": 1.0}, (NOTHING,), ["load_failed"]),
    ],
)
def test_what_it_came_to_is_remembered_once(
    follow: Follow, changes: dict[str, Any], looks: tuple[Any, ...], kinds: list[str]
) -> None:
    _, _, load = follow(with_(**changes), *looks)
    machine: Any = load._gate
    assert [event.kind for event in machine.remembered] == kinds


def test_a_command_that_cannot_be_started_is_remembered(tmp_path: Path) -> None:
    machine: Any = Machine(NOTHING)
    with pytest.raises(actuator.CannotStart):
        loading.Load(machine, with_(load_cmd=("/no/such",)), tmp_path / "log", None)
    assert [event.kind for event in machine.remembered] == ["load_failed"]


def test_the_lease_goes_to_what_is_started_and_not_to_us(tmp_path: Path) -> None:
    lease_file = tmp_path / "lease"
    lease_file.touch()
    lease = os.open(lease_file, os.O_RDONLY)
    machine = Machine(NOTHING)
    machine.records = SimpleNamespace(lease=lambda record_id: lease)
    load = loading.Load(machine, with_(load_cmd="exec sleep 1000.149"), tmp_path / "log", "id")  # type: ignore[arg-type]
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(lease)
        until = time.monotonic() + 10
        fds = Path(f"/proc/{load.process.pid}/fd")
        while str(lease_file) not in [os.readlink(fd) for fd in fds.iterdir()]:
            assert time.monotonic() < until
    finally:
        os.killpg(load.process.pid, signal.SIGKILL)
        load.process.wait()


def test_the_share_of_the_budget_for_a_bar() -> None:
    half = loading.Progress(1.0, State.LOADED, {RAM: 3000 * MIB}, "")
    assert loading.share(half, SERVICE) == 0.5
