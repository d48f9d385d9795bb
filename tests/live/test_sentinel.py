"""The sentinel on real processes: what is stopped, runs away, idles, or is brought back; and its own thread."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from admitd.core.terms import Level, Reading
from tests.live.sentinels import (
    Doing,
    Guard,
    SaidWatch,
    become,
    hits,
    listens,
    sleeper,
    stand_in,
    start_stand_in,
    state,
)
from tests.live.servers import Servers, wait_until

# What a recovery starts goes on by itself: nobody waits for it, which subprocess finds worth a warning.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

FreePort = Callable[[], int]
MakeGuard = Callable[..., Guard]


# Stopped


def test_a_stopped_mlx_server_is_awake_within_the_interval_and_answers(
    servers: Servers, mlx_model: Any, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    server = servers.start("mlx_lm.server", "--model", mlx_model(), "--port", str(port))
    servers.answer(port)
    services = {"chat": {"ram_budget_mb": 500, "process_pattern": rf"mlx_lm\.server .*--port {port}"}}
    with guard(services, safelist=["chat"], stopped_interval_s=2.0) as at_work:
        at_work.rounds(1)
        before = at_work.sentinel.health().rounds
        server.send_signal(signal.SIGSTOP)
        woken = at_work.wait_for("woken")
        assert at_work.sentinel.health().rounds <= before + 2
        assert state(server.pid) != psutil.STATUS_STOPPED
        servers.answer(port, within_s=30)
    assert "was stopped (state T) for" in woken.text
    assert "was woken" in woken.text


def test_between_two_full_looks_the_safelist_is_glimpsed(servers: Servers, guard: MakeGuard, tmp_path: Path) -> None:
    """With ten minutes between full looks, one that stops is awake before the next."""
    process = sleeper(servers, tmp_path, "qemu-one")
    with guard({}, safelist=["qemu-one"], stopped_interval_s=0.3) as at_work:
        at_work.rounds(2)
        at_work.write({}, {"safelist": ["qemu-one"], "stopped_interval_s": 600})
        wait_until(at_work.rests)
        before = at_work.sentinel.health().rounds
        process.send_signal(signal.SIGSTOP)
        at_work.wait_for("woken")
        assert at_work.sentinel.health().rounds <= before + 1, "a glimpse brought it forward"


def test_a_stopped_one_off_the_list_is_left_alone(servers: Servers, guard: MakeGuard, tmp_path: Path) -> None:
    process = sleeper(servers, tmp_path, "other")
    services = {"other": {"ram_budget_mb": 10, "process_pattern": r"other$"}}
    with guard(services, safelist=["qemu-one"]) as at_work:
        process.send_signal(signal.SIGSTOP)
        at_work.rounds(5)
        assert state(process.pid) == psutil.STATUS_STOPPED
    assert at_work.events == []


def test_what_only_mentions_the_safelist_is_left_alone(servers: Servers, guard: MakeGuard, tmp_path: Path) -> None:
    """`tail -f qemu-one.log` is not qemu-one, stopped or not."""
    (tmp_path / "qemu-one.log").touch()
    process = servers.start("tail", "-f", tmp_path / "qemu-one.log")
    with guard({}, safelist=["^qemu-one"]) as at_work:
        process.send_signal(signal.SIGSTOP)
        at_work.rounds(3)
        assert state(process.pid) == psutil.STATUS_STOPPED
    assert at_work.kinds() == []


TRACER = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
pid = int(sys.argv[1])
assert libc.ptrace(16, pid, None, None) == 0, os.strerror(ctypes.get_errno())  # PTRACE_ATTACH, sys/ptrace.h
os.waitpid(pid, 0)
print("attached", flush=True)
time.sleep(600)
"""


def traced(servers: Servers, pid: int) -> Any:
    """A debugger that holds that process until it is killed."""
    tracer = servers.start(sys.executable, "-c", TRACER, str(pid))
    wait_until(lambda: "attached" in servers.log(tracer) or tracer.poll() is not None)
    if tracer.poll() is not None:
        pytest.skip(f"no process may be traced here: {servers.log(tracer)}")
    return tracer


def test_a_traced_one_is_left_alone(servers: Servers, guard: MakeGuard, tmp_path: Path) -> None:
    """A debugger holds it: a SIGCONT is not ours to send."""
    process = sleeper(servers, tmp_path, "qemu-one")
    tracer = traced(servers, process.pid)
    with guard({}, safelist=["qemu-one"]) as at_work:
        at_work.rounds(5)
        assert state(process.pid) == psutil.STATUS_TRACING_STOP
    assert at_work.kinds() == []
    tracer.kill()
    tracer.wait()


def test_a_traced_service_is_not_probed_nor_recovered_and_told_once(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    """Who debugs his server would lose the session with it."""
    port = free_port()
    process = start_stand_in(servers, port)
    tracer = traced(servers, process.pid)
    with guard({"chat": stand_in(port, load_timeout_s=3)}) as at_work:
        at_work.rounds(8)
        assert at_work.kinds() == ["stopped"]
        assert state(process.pid) == psutil.STATUS_TRACING_STOP
        tracer.kill()
        tracer.wait()

        def is_probed() -> bool:
            process.send_signal(signal.SIGCONT)  # a debugger that is killed may leave it stopped, as nobody's
            return listens(port) and hits(port) > 0

        wait_until(is_probed, 30, lambda: f"it runs again, and is probed: {at_work.events}")
        assert process.poll() is None
    assert "held by a debugger" in at_work.events[0].text


@pytest.mark.slow
def test_who_is_stopped_again_and_again_is_given_up(servers: Servers, guard: MakeGuard, tmp_path: Path) -> None:
    """After 1 and 5 s it is woken again; after the third time, and 30 s, someone seems to mean it."""
    process = sleeper(servers, tmp_path, "qemu-one")
    with guard({}, safelist=["qemu-one"], stopped_interval_s=0.3) as at_work:
        for times in (1, 2, 3):
            process.send_signal(signal.SIGSTOP)
            at_work.wait_for("woken", within_s=60, times=times)
        process.send_signal(signal.SIGSTOP)
        at_work.wait_for("gave_up_waking", within_s=60)
        at_work.rounds(3)
        assert state(process.pid) == psutil.STATUS_STOPPED
    assert at_work.kinds() == ["woken"] * 3 + ["gave_up_waking"]


# Runaways, idleness, respawns


def test_a_runaway_is_closed_and_that_is_told(servers: Servers, free_port: FreePort, guard: MakeGuard) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mb", "150")
    grows = stand_in(port, ram_budget_mb=200, hard_limit_mb=300)
    with guard({"chat": grows}, save_grace_s=1) as at_work:
        at_work.rounds(2)
        assert at_work.kinds() == []
        become(port, "grow")
        closed = at_work.wait_for("closed", within_s=60)
    assert process.wait(5) == -signal.SIGTERM
    assert "above its hard_limit_mb of 300" in closed.text
    assert at_work.kinds("chat").count("over_budget") == 1
    assert "recovering" not in at_work.kinds()


def test_above_its_budget_and_without_a_limit_it_is_only_told(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mb", "150")
    with guard({"chat": stand_in(port, ram_budget_mb=100)}) as at_work:
        at_work.wait_for("over_budget")
        at_work.rounds(4)
    assert at_work.kinds() == ["over_budget"]
    assert process.poll() is None


@pytest.mark.parametrize("busy", [False, True])
def test_an_idle_one_is_unloaded_and_a_busy_one_is_not(
    servers: Servers, free_port: FreePort, guard: MakeGuard, busy: bool
) -> None:
    port = free_port()
    process = start_stand_in(servers, port)
    with guard({"chat": stand_in(port, idle_unload_s=1.0)}, watch=SaidWatch(busy)) as at_work:
        if not busy:
            at_work.wait_for("idle_unloaded")
        at_work.rounds(5)
    assert at_work.kinds() == ([] if busy else ["unloaded", "idle_unloaded"])
    assert (process.poll() is None) is busy


def test_whether_it_is_idle_is_never_guessed(servers: Servers, free_port: FreePort, guard: MakeGuard) -> None:
    port = free_port()
    process = start_stand_in(servers, port)
    with guard({"chat": stand_in(port, idle_unload_s=0.5)}, watch=SaidWatch(None)) as at_work:
        at_work.rounds(5)
    assert at_work.kinds() == []
    assert process.poll() is None


def test_one_that_its_supervisor_brings_back_is_told_with_what_stops_it(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    from admitd import unloading

    port = free_port()
    command = stand_in(port)["load_cmd"]
    loop = servers.start("bash", "-c", f"while true; do {command}; sleep 0.2; done # keeper")
    with guard({"chat": stand_in(port)}) as at_work:
        wait_until(lambda: len(at_work.pids("chat")) == 1)
        at_work.rounds(2)
        assert "respawned" not in at_work.kinds()
        unloading.unload(at_work.gate, "chat", lambda _: None)
        told = at_work.wait_for("respawned")
    assert told.next == f"kill {loop.pid}"
    assert "bash" in told.text


# The thread itself


def test_an_error_in_a_round_is_told_once_and_counted_and_the_next_round_comes(
    servers: Servers, guard: MakeGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = guard({})
    glance = made.gate.glance
    failing = [True]

    def sometimes(checked: Any = None) -> Any:
        if failing[0]:
            raise RuntimeError("no way")
        return glance(checked)

    monkeypatch.setattr(made.gate, "glance", sometimes)
    with made as at_work:
        wait_until(lambda: at_work.sentinel.health().errors >= 3)
        failing[0] = False
        at_work.rounds(3)
    assert at_work.kinds() == ["sentinel_error"]
    assert "RuntimeError: no way" in at_work.events[0].text


def test_a_broken_edit_of_the_file_leaves_the_rounds_going(servers: Servers, guard: MakeGuard) -> None:
    with guard({}) as at_work:
        at_work.file.write_text("services: [")
        at_work.rounds(4)
        assert at_work.sentinel.health().errors == 0


@pytest.mark.parametrize("jump_s", [3_600.0, 1e6])
def test_a_clock_that_jumps_makes_no_one_hung(
    servers: Servers, free_port: FreePort, guard: MakeGuard, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slept, and a wall clock that is set to and fro meanwhile."""
    port = free_port()
    process = start_stand_in(servers, port)
    offset = [0.0]
    wall = time.time
    with guard({"chat": stand_in(port)}, safelist=["chat"], clock=lambda: time.monotonic() + offset[0]) as at_work:
        at_work.rounds(2)
        offset[0] = jump_s
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: wall() - jump_s)
            at_work.rounds(2)
            patch.setattr(time, "time", lambda: wall() + jump_s)
            at_work.rounds(2)
        process.send_signal(signal.SIGSTOP)
        at_work.wait_for("woken", within_s=60)
    assert at_work.kinds() == ["woken"]
    assert at_work.sentinel.health().errors == 0


CRITICAL = Reading(None, Level.CRITICAL, "3 % of memory available")


def test_under_critical_pressure_one_idle_service_goes_and_a_busy_one_stays(
    servers: Servers, free_port: FreePort, guard: MakeGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [free_port(), free_port()]
    idle, busy = (start_stand_in(servers, port, "--mb", "80") for port in ports)
    services = {"idle": stand_in(ports[0]), "busy": stand_in(ports[1], priority=-5)}
    watch = SaidWatch(None)
    monkeypatch.setattr(watch, "look", lambda scene, now: {"idle": Doing(False, None), "busy": Doing(True, now)})
    made = guard(services, on_pressure="evict", watch=watch)
    monkeypatch.setattr(made.gate._memory, "reading", lambda: CRITICAL)
    with made as at_work:
        evicted = at_work.wait_for("evicted")
        at_work.rounds(4)
    assert at_work.kinds().count("evicted") == 1
    assert "memory pressure is critical" in evicted.text
    assert idle.wait(5) == -signal.SIGTERM
    assert busy.poll() is None


def test_under_critical_pressure_the_default_is_to_tell(
    servers: Servers, free_port: FreePort, guard: MakeGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mb", "80")
    made = guard({"idle": stand_in(port)}, watch=SaidWatch(False))
    monkeypatch.setattr(made.gate._memory, "reading", lambda: CRITICAL)
    with made as at_work:
        told = at_work.wait_for("would_evict")
        at_work.rounds(4)
    assert at_work.kinds() == ["pressure", "would_evict"]
    assert told.next == "admit unload idle"
    assert process.poll() is None
