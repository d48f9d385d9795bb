"""The sentinel where something else is broken: records, process table, one of its own acts. The rest goes on."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from admitd import errands
from admitd.mending import Mending
from admitd.processes.table import CannotSee
from tests.live.sentinels import Guard, MakeGuard, become, hits, sleeper, stand_in, start_stand_in, state
from tests.live.servers import Servers, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

FreePort = Callable[[], int]


def is_awake(pid: int) -> bool:
    return state(pid) != psutil.STATUS_STOPPED


@pytest.fixture
def asleep(servers: Servers, guard: MakeGuard, tmp_path: Path) -> tuple[Guard, Any]:
    """A sentinel that has seen what is on its safelist, and that process."""
    process = sleeper(servers, tmp_path, "kept-alone")
    return guard({}, safelist=["kept-alone"]), process


def test_with_records_that_cant_be_read_it_wakes_and_recovers_nobody(
    servers: Servers, guard: MakeGuard, free_port: FreePort, tmp_path: Path
) -> None:
    """Nobody can tell then who is loading what; a process that stands still is told by the process alone."""
    process, port = sleeper(servers, tmp_path, "kept-alone"), free_port()
    served = start_stand_in(servers, port)
    made = guard({"chat": stand_in(port)}, safelist=["kept-alone"])
    shutil.rmtree(made.gate.records.where, ignore_errors=True)
    made.gate.records.where.write_text("no folder")
    with made as at_work:
        at_work.rounds(2)
        become(port, "hang")
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_awake(process.pid), 30, lambda: f"{at_work.events}")
        at_work.rounds(6)
        assert "recovering" not in at_work.kinds()
        assert "sentinel_error" in at_work.kinds()
        assert served.poll() is None


def test_without_a_look_the_safelist_that_is_known_is_woken(
    asleep: tuple[Guard, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, process = asleep

    def blind(*_: object) -> None:
        raise CannotSee("the table can't be read")

    with made as at_work:
        at_work.rounds(2)
        monkeypatch.setattr(at_work.gate, "glance", blind)
        wait_until(lambda: at_work.sentinel.health().errors > 0)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_awake(process.pid), 30, lambda: f"{at_work.events}")
        at_work.wait_for("woken")


def test_a_waking_that_could_not_be_tried_is_tried_again_and_is_no_waking(
    asleep: tuple[Guard, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, process = asleep
    real, tried = Mending.wake, []

    def failing(self: Mending, act: Any) -> bool:
        tried.append(act)
        if len(tried) <= 5:
            raise CannotSee("not now")
        return real(self, act)

    monkeypatch.setattr(Mending, "wake", failing)
    with made as at_work:
        at_work.rounds(2)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_awake(process.pid), 60, lambda: f"{at_work.events}")
        assert "gave_up_waking" not in at_work.kinds()


def test_where_no_thread_can_be_started_probes_and_recoveries_come_later(
    servers: Servers, guard: MakeGuard, free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under want of memory the system refuses threads; nothing is believed to be under way that never began."""
    port = free_port()
    process = start_stand_in(servers, port)
    refuses = threading.Event()
    refuses.set()
    refused: list[str] = []
    real = errands.Errands._thread

    def scarce(self: errands.Errands, name: str, work: Callable[[], None]) -> None:
        if refuses.is_set():
            refused.append(name)
            raise RuntimeError("can't start new thread")
        real(self, name, work)

    monkeypatch.setattr(errands.Errands, "_thread", scarce)
    with guard({"chat": stand_in(port)}, probe_failures=1) as at_work:
        wait_until(lambda: "admit-probe-chat" in refused)
        before = hits(port)
        refuses.clear()
        wait_until(lambda: hits(port) >= before + 3, 30, lambda: "it is probed after all")
        become(port, "hang")
        at_work.wait_for("probe_failed")
        at_work.wait_for("recovered")
        assert process.wait(30) == -signal.SIGTERM
        assert "gave_up" not in at_work.kinds()


def test_a_recovery_that_could_not_begin_is_begun_again(
    servers: Servers, guard: MakeGuard, free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    process = start_stand_in(servers, port)
    real, refused = errands.Errands.begin, []

    def once(self: errands.Errands, service: str, work: Any) -> bool:
        if not refused:
            refused.append(service)
            raise RuntimeError("can't start new thread")
        return real(self, service, work)

    monkeypatch.setattr(errands.Errands, "begin", once)
    with guard({"chat": stand_in(port)}, probe_failures=1) as at_work:
        at_work.rounds(2)
        become(port, "hang")
        at_work.wait_for("recovered")
        assert refused == ["chat"]
        assert process.wait(30) == -signal.SIGTERM


def test_a_rule_that_fails_keeps_no_other_from_being_followed(
    asleep: tuple[Guard, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, process = asleep

    def broken(*_: object) -> None:
        raise ValueError("a fault in a rule")

    monkeypatch.setattr(made.sentinel, "_step_probing", broken)
    monkeypatch.setattr(made.sentinel, "_step_memory", broken)
    with made as at_work:
        at_work.rounds(2)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_awake(process.pid), 30, lambda: f"{at_work.events}")
        assert at_work.sentinel.health().errors > 0
