"""The sentinel on real processes and real servers: each thing that it does, and beside it what it must leave alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from admitd.core.terms import Level, Reading
from admitd.gate import Answer, Ask
from tests.gates import held
from tests.live.sentinels import Doing, Guard, SaidWatch, become, environment, hits, stand_in, start_stand_in, state
from tests.live.servers import Servers, wait_until

# What a recovery starts goes on by itself: nobody waits for it, which subprocess finds worth a warning.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

FreePort = Callable[[], int]
MakeGuard = Callable[..., Guard]

SLEEPER = "#!{}\nimport time\nprint('up', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def guard(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeGuard]:
    """`guard(services, **settings)` makes a sentinel; a test starts it by `with`."""
    environment(monkeypatch, servers)
    made: list[Guard] = []

    def make(services: dict[str, Any], **settings: Any) -> Guard:
        folder = tmp_path / f"guard-{len(made)}"
        folder.mkdir()
        kept = {name: settings.pop(name) for name in ("watch", "clock") if name in settings}
        made.append(Guard(folder, servers, services, settings, **kept))
        return made[-1]

    yield make
    for each in made:
        each.sentinel.stop()


def sleeper(servers: Servers, folder: Path, name: str) -> subprocess.Popen[bytes]:
    """A program of that name, which does nothing."""
    program = folder / name
    program.write_text(SLEEPER.format(sys.executable))
    program.chmod(0o700)
    process = servers.start(program)
    wait_until(lambda: "up" in servers.log(process))
    return process


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
        servers.answer(port, within_s=10)
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


def test_a_traced_one_is_left_alone(servers: Servers, guard: MakeGuard, tmp_path: Path) -> None:
    """A debugger holds it: a SIGCONT is not ours to send."""
    process = sleeper(servers, tmp_path, "qemu-one")
    tracer = servers.start(sys.executable, "-c", TRACER, str(process.pid))
    wait_until(lambda: "attached" in servers.log(tracer) or tracer.poll() is not None)
    if tracer.poll() is not None:
        pytest.skip(f"no process may be traced here: {servers.log(tracer)}")
    with guard({}, safelist=["qemu-one"]) as at_work:
        at_work.rounds(5)
        assert state(process.pid) == psutil.STATUS_TRACING_STOP
    assert at_work.kinds() == []
    tracer.kill()
    tracer.wait()


@pytest.mark.slow
def test_who_is_stopped_again_and_again_is_given_up(servers: Servers, guard: MakeGuard, tmp_path: Path) -> None:
    """After 1 and 5 s it is woken again; after the third time, and 30 s, someone seems to mean it."""
    process = sleeper(servers, tmp_path, "qemu-one")
    with guard({}, safelist=["qemu-one"], stopped_interval_s=0.3) as at_work:
        for times in (1, 2, 3):
            process.send_signal(signal.SIGSTOP)
            at_work.wait_for("woken", within_s=10, times=times)
        process.send_signal(signal.SIGSTOP)
        at_work.wait_for("gave_up_waking", within_s=40)
        at_work.rounds(3)
        assert state(process.pid) == psutil.STATUS_STOPPED
    assert at_work.kinds() == ["woken"] * 3 + ["gave_up_waking"]


# Not answering


def test_one_that_hangs_is_recovered_after_the_third_probe_and_answers_again(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    process = start_stand_in(servers, port)
    with guard({"chat": stand_in(port)}) as at_work:
        at_work.rounds(3)
        assert at_work.kinds() == []
        become(port, "hang")
        recovered = at_work.wait_for("recovered")
        assert at_work.pids("chat") != [process.pid]
        before = len(at_work.events)
        at_work.rounds(4)
    assert hits(port) >= 2, "it is probed on, and answers"
    kinds = at_work.kinds()
    assert kinds[: kinds.index("recovering")] == ["probe_failed"] * 3
    assert [kind for kind in kinds if kind in ("unloaded", "admitted", "loaded", "recovered")] == [
        "unloaded",
        "admitted",
        "loaded",
        "recovered",
    ]
    assert at_work.events[before:] == []
    assert "was hung and is back after" in recovered.text
    assert at_work.gate.records.standing(at_work.gate.capacity()).reservations == ()


def test_a_stopped_server_off_the_safelist_does_not_answer_and_is_recovered(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    process = start_stand_in(servers, port)
    with guard({"chat": stand_in(port)}) as at_work:
        process.send_signal(signal.SIGSTOP)
        at_work.wait_for("recovered")
        assert hits(port) >= 1
    assert "woken" not in at_work.kinds()


def test_a_stopped_mlx_server_off_the_safelist_is_recovered_and_answers(
    servers: Servers, mlx_model: Any, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    command = f"mlx_lm.server --model {mlx_model()} --port {port}"
    server = servers.start(*command.split())
    servers.answer(port)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    chat = {
        "ram_budget_mb": 500,
        "process_pattern": rf"mlx_lm\.server .*--port {port}",
        "load_cmd": command,
        "probe": {"url": url, "timeout_s": 3, "startup_grace_s": 0.1},
    }
    with guard({"chat": chat}) as at_work:
        at_work.rounds(3)
        assert at_work.kinds() == []
        server.send_signal(signal.SIGSTOP)
        at_work.wait_for("recovered", within_s=60)
        servers.answer(port, within_s=10)
    assert at_work.kinds("chat").count("probe_failed") == 3


def test_a_server_in_a_long_generation_is_not_touched(
    servers: Servers, mlx_model: Any, free_port: FreePort, guard: MakeGuard
) -> None:
    """It answers no probe in time while it computes; busy is not down."""
    port = free_port()
    model = mlx_model("--mb", "300")
    server = servers.start("mlx_lm.server", "--model", model, "--port", str(port))
    servers.answer(port)
    chat = {
        "ram_budget_mb": 800,
        "process_pattern": rf"mlx_lm\.server .*--port {port}",
        "load_cmd": "false",
        "probe": {"url": f"http://127.0.0.1:{port}/v1/chat/completions", "timeout_s": 0.02, "startup_grace_s": 0.1},
    }
    body = '{"messages": [{"role": "user", "content": "%s"}], "max_tokens": 2000}' % ("many words " * 2000)
    generation = servers.start(
        sys.executable, "-c",
        "import sys, urllib.request as u\n"
        "r = u.Request(sys.argv[1], sys.argv[2].encode(), {'Content-Type': 'application/json'})\n"
        "u.urlopen(r, timeout=600).read(1); print('done')",
        chat["probe"]["url"], body,
    )  # fmt: skip
    with guard({"chat": chat}, probe_interval_s=0.5) as at_work:
        at_work.wait_for("busy", within_s=20)
        for _ in range(10):
            if generation.poll() is None:
                at_work.rounds(1)
        assert "recovering" not in at_work.kinds()
        assert server.poll() is None


def test_one_that_works_and_does_not_answer_is_told_once_and_left_alone(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    process = start_stand_in(servers, port)
    with guard({"chat": stand_in(port)}) as at_work:
        become(port, "works")
        at_work.wait_for("busy")
        at_work.rounds(6)
        become(port, "ok")
    assert at_work.kinds() == ["busy"]
    assert process.poll() is None


def test_one_that_never_comes_back_ends_in_gave_up_with_the_count(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    start_stand_in(servers, port, "--mode", "hang")
    broken = stand_in(port, load_cmd=f"{sys.executable} -c 'import sys; sys.exit(3)'")
    with guard({"chat": broken}, recoveries_per_hour=3) as at_work:
        gave_up = at_work.wait_for("gave_up", within_s=40)
        at_work.rounds(4)
    assert at_work.kinds("chat").count("recovering") == 3
    assert at_work.kinds("chat").count("gave_up") == 1
    assert gave_up.numbers["recoveries"] == 3
    assert "recovered 3 times" in gave_up.text


def test_one_that_comes_back_hung_each_time_ends_in_gave_up(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    start_stand_in(servers, port, "--mode", "hang")
    hangs = stand_in(port, "--mode", "hang", load_timeout_s=1)
    with guard({"chat": hangs}, recoveries_per_hour=2) as at_work:
        gave_up = at_work.wait_for("gave_up", within_s=60)
    assert at_work.kinds("chat").count("recovering") == 2
    assert gave_up.numbers["recoveries"] == 2


def test_a_refusal_is_told_and_never_forced(servers: Servers, free_port: FreePort, guard: MakeGuard) -> None:
    """Its place is taken by another as soon as it is unloaded: the pool is the pool."""
    port, other = free_port(), free_port()
    start_stand_in(servers, port, "--mode", "hang")
    start_stand_in(servers, other)
    services = {
        "chat": stand_in(port, ram_budget_mb=40_000),
        "other": stand_in(other, ram_budget_mb=40_000, exclusive_with=["chat"]),
    }
    with guard(services) as at_work:
        refused = at_work.wait_for("refused_recovery")
        assert at_work.pids("chat") == []
    assert "never runs beside other" in refused.text
    assert refused.next == f"admit --config {at_work.file} unload other" or refused.next == "admit unload other"


LEFT_ALONE = [
    ("recover is false", {"recover": False}),
    ("there is no load_cmd", {"load_cmd": None}),
]


@pytest.mark.parametrize("fields", [pytest.param(fields, id=why) for why, fields in LEFT_ALONE])
def test_a_hung_one_is_only_told_where(
    servers: Servers, free_port: FreePort, guard: MakeGuard, fields: dict[str, Any]
) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "hang")
    with guard({"chat": stand_in(port, **fields)}) as at_work:
        at_work.wait_for("gave_up")
        at_work.rounds(3)
    assert "recovering" not in at_work.kinds()
    assert process.poll() is None


def test_what_somebody_is_loading_is_left_alone(servers: Servers, free_port: FreePort, guard: MakeGuard) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "hang")
    made = guard({"chat": stand_in(port)})
    gate = made.gate
    with gate.records.lock() as lock:
        held = gate.records.reserve(lock, gate.capacity().services["chat"], gate.table.identify(process.pid))
    with made as at_work:
        at_work.rounds(6)
        assert at_work.kinds() == []
        gate.records.give_back(held.id)
        at_work.wait_for("recovering")


def test_what_is_unloaded_on_purpose_during_its_recovery_stays_unloaded(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    start_stand_in(servers, port, "--mode", "hang")
    slow = stand_in(port, load_cmd=f"sleep 3; exec {stand_in(port)['load_cmd']}")
    with guard({"chat": slow}) as at_work:
        at_work.wait_for("admitted")
        at_work.unloaded_by_hand("chat")
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "sleep 3" in " ".join(child.cmdline()):
                    child.kill()
        at_work.wait_for("gave_up")
        at_work.rounds(6)
        assert at_work.pids("chat") == []
    assert at_work.kinds().count("recovering") == 1


def test_what_is_unloaded_on_purpose_after_a_failed_recovery_stays_unloaded(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    start_stand_in(servers, port, "--mode", "hang")
    with guard({"chat": stand_in(port, load_cmd="exit 3")}, probe_interval_s=2) as at_work:
        at_work.wait_for("load_failed", within_s=30)
        at_work.rounds(1)
        at_work.unloaded_by_hand("chat")
        at_work.rounds(9)
    assert at_work.kinds().count("recovering") == 1


@pytest.mark.parametrize("loader_lives", [True, False])
def test_a_server_that_keeps_its_lease_is_probed_once_its_loader_is_gone(
    servers: Servers, free_port: FreePort, guard: MakeGuard, loader_lives: bool
) -> None:
    """What a load command started inherits the lease for as long as it lives; only a living loader follows the load."""
    port = free_port()
    loader = servers.start("sleep", "600")
    made = guard({"chat": stand_in(port, load_timeout_s=600)})
    (answer,), _ = made.gate.decide([Ask("chat", made.gate.table.identify(loader.pid))])
    assert isinstance(answer, Answer)
    lease = made.gate.records.lease(held(answer).id)
    start_stand_in(servers, port, pass_fds=[lease])
    os.close(lease)
    if not loader_lives:
        loader.kill()
        loader.wait()
    with made as at_work:
        at_work.rounds(4)
        if not loader_lives:
            wait_until(lambda: hits(port) >= 2)
    assert len(made.gate.records.standing(made.gate.capacity()).reservations) == 1
    assert (hits(port) > 0) is not loader_lives


# Faults

FAULTS = ["hang", "close", "drip", "fail", "redirect"]


@pytest.mark.parametrize("mode", FAULTS)
def test_a_probe_that_comes_to_nothing_is_bounded_and_counts(
    servers: Servers, free_port: FreePort, guard: MakeGuard, mode: str
) -> None:
    port, elsewhere = free_port(), free_port()
    start_stand_in(servers, elsewhere)
    start_stand_in(servers, port, "--mode", mode, "--elsewhere", f"http://127.0.0.1:{elsewhere}/")
    with guard({"chat": stand_in(port)}) as at_work:
        at_work.wait_for("recovered")
    failed = [each for each in at_work.events if each.kind == "probe_failed"]
    assert len(failed) == 3
    assert all(float(each.numbers["took_s"] or 0) < 1.0 for each in failed), "the bound is 0.5 s"
    assert hits(elsewhere) == 0, "a redirect is not followed"


def test_a_body_of_a_gigabyte_is_not_read(servers: Servers, free_port: FreePort, guard: MakeGuard) -> None:
    port = free_port()
    start_stand_in(servers, port, "--mode", "huge")
    before = psutil.Process().memory_info().rss
    with guard({"chat": stand_in(port)}) as at_work:
        at_work.rounds(4)
    assert at_work.kinds() == [], "the status came, and that is the answer"
    assert psutil.Process().memory_info().rss - before < 64 << 20


UNLOADS = [
    ("hangs", "sleep 60"),
    ("fails", "exit 1"),
    ("lies", "true"),
]


@pytest.mark.parametrize("unload_cmd", [pytest.param(command, id=why) for why, command in UNLOADS])
def test_an_unload_cmd_that_does_not_help_ends_in_the_ladder(
    servers: Servers, free_port: FreePort, guard: MakeGuard, unload_cmd: str
) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "hang")
    with guard({"chat": stand_in(port, unload_cmd=unload_cmd)}) as at_work:
        at_work.wait_for("recovered", within_s=30)
    assert process.wait(5) in (-signal.SIGTERM, -signal.SIGKILL)


def test_one_that_is_deaf_to_sigterm_is_killed(servers: Servers, free_port: FreePort, guard: MakeGuard) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "hang", "--deaf")
    with guard({"chat": stand_in(port)}) as at_work:
        at_work.wait_for("recovered", within_s=30)
    assert process.wait(5) == -signal.SIGKILL


# Runaways, idleness, respawns


def test_a_runaway_is_closed_and_that_is_told(servers: Servers, free_port: FreePort, guard: MakeGuard) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mb", "150")
    grows = stand_in(port, ram_budget_mb=200, hard_limit_mb=300)
    with guard({"chat": grows}, save_grace_s=1) as at_work:
        at_work.rounds(2)
        assert at_work.kinds() == []
        become(port, "grow")
        closed = at_work.wait_for("closed", within_s=30)
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
        at_work.wait_for("woken", within_s=5)
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
