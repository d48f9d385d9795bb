"""A server that no longer answers, and faults of every kind: recovered where that helps, and left alone elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from admitd import hands, unloading
from admitd.gate import Answer, Ask
from tests.gates import held
from tests.live.sentinels import (
    STAND_IN,
    Guard,
    become,
    hits,
    listens,
    stand_in,
    start_stand_in,
)
from tests.live.servers import Servers, wait_until

# What a recovery starts goes on by itself: nobody waits for it, which subprocess finds worth a warning.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

FreePort = Callable[[], int]
MakeGuard = Callable[..., Guard]


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


def test_a_model_whose_server_was_switched_off_is_not_unloaded_and_one_that_hangs_is(
    servers: Servers, free_port: FreePort, guard: MakeGuard, tmp_path: Path
) -> None:
    """As LM Studio has it: its tool says what is loaded, its server is another thing, and no process is the model."""
    port, model = free_port(), tmp_path / "model"
    model.touch()
    checked = stand_in(port, loaded_check_cmd=f"test -e {model}", load_cmd=f"touch {model}", unload_cmd=f"rm {model}")
    del checked["process_pattern"]
    off = {**checked, "probe": {"url": f"http://127.0.0.1:{free_port()}/"}}
    process = start_stand_in(servers, port)
    with guard({"chat": checked, "off": off}) as at_work:
        told = at_work.wait_for("gave_up")
        assert told.service == "off"
        assert "nobody listens where its probe asks" in told.text
        wait_until(lambda: hits(port) >= 1)
        at_work.rounds(3)
        process.terminate()
        process.wait(30)
        told = at_work.wait_for("gave_up", times=2)
        assert told.service == "chat"
        assert not {"unloading", "unloaded", "recovering"} & set(at_work.kinds())
        process = start_stand_in(servers, port)
        at_work.wait_for("probe_answered")
        become(port, "hang")
        at_work.wait_for("recovering")
        wait_until(lambda: "unloaded" in at_work.kinds("chat"))
        assert at_work.kinds("off").count("gave_up") == 1


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
        servers.answer(port, within_s=30)
    assert at_work.kinds("chat").count("probe_failed") == 3


def test_one_that_never_comes_back_ends_in_gave_up_with_the_count(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    start_stand_in(servers, port, "--mode", "hang")
    broken = stand_in(port, load_cmd=f"{sys.executable} -c 'import sys; sys.exit(3)'")
    with guard({"chat": broken}, recoveries_per_hour=3) as at_work:
        gave_up = at_work.wait_for("gave_up", within_s=60)
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
    start_stand_in(servers, port, "--mode", "hang")
    loader = servers.start("sleep", "600")
    made = guard({"chat": stand_in(port)})
    gate = made.gate
    with gate.records.lock() as lock:
        held = gate.records.reserve(lock, gate.capacity().services["chat"], gate.table.identify(loader.pid))
    with made as at_work:
        at_work.rounds(6)
        assert at_work.kinds() == []
        gate.records.give_back(held.id)
        at_work.wait_for("recovered")  # to its end, so that nothing is started behind this test


def test_what_is_unloaded_on_purpose_while_the_sentinel_unloads_it_stays_unloaded(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    """Both have their hands on it then, and whoever comes second must leave a trace."""
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "hang", "--deaf")
    with guard({"chat": stand_in(port)}) as at_work:
        at_work.wait_for("recovering")
        wait_until(lambda: hands.look(at_work.gate.records.where, "chat").on)
        outcome = unloading.unload(at_work.gate, "chat", lambda _: None, kill=True)
        assert isinstance(outcome, unloading.Unloaded), outcome
        process.wait(10)
        at_work.wait_for("gave_up")
        at_work.rounds(6)
        assert at_work.pids("chat") == []
    assert "admitted" not in at_work.kinds()


def end_loading_shell() -> bool:
    """End the shell that waits before it starts the server; whether it was there."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "sleep 3; exec" in " ".join(child.cmdline()):
                child.kill()
                return True
    return False


@pytest.mark.parametrize("starts", [pytest.param(False, id="and its load is ended"), True])
def test_what_is_unloaded_on_purpose_during_its_recovery_stays_unloaded(
    servers: Servers, free_port: FreePort, guard: MakeGuard, starts: bool
) -> None:
    """It is not to be seen yet, so that whoever unloads it is told that it is gone."""
    port = free_port()
    start_stand_in(servers, port, "--mode", "hang")
    slow = stand_in(port, load_cmd=f"sleep 3; exec {stand_in(port)['load_cmd']}")
    with guard({"chat": slow}) as at_work:
        at_work.wait_for("admitted")
        at_work.unloaded_by_hand("chat")
        wait_until(lambda: starts or end_loading_shell())
        at_work.wait_for("gave_up")
        at_work.rounds(6)
        assert at_work.pids("chat") == []
    assert at_work.kinds().count("recovering") == 1
    assert at_work.kinds().count("loaded") == starts


def test_what_is_unloaded_on_purpose_after_a_failed_recovery_stays_unloaded(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    start_stand_in(servers, port, "--mode", "hang")
    with guard({"chat": stand_in(port, load_cmd="exit 3")}, probe_interval_s=2) as at_work:
        at_work.wait_for("load_failed", within_s=60)
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
        at_work.wait_for("recovered", within_s=60)
    assert process.wait(5) == -signal.SIGTERM, "SIGKILL is for who is deaf to that"


def test_what_its_unload_cmd_does_not_end_and_is_deaf_to_sigterm_is_killed(
    servers: Servers, free_port: FreePort, guard: MakeGuard
) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "hang", "--deaf")
    with guard({"chat": stand_in(port, unload_cmd="exit 1")}) as at_work:
        at_work.wait_for("recovered", within_s=60)
    assert process.wait(5) == -signal.SIGKILL
    said = [each.text for each in at_work.events if each.kind == "unload_failed"]
    assert len(said) == 1
    assert "its unload_cmd ended with exit 1" in said[0]


def test_one_that_is_deaf_to_sigterm_is_killed(servers: Servers, free_port: FreePort, guard: MakeGuard) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "hang", "--deaf")
    with guard({"chat": stand_in(port)}) as at_work:
        at_work.wait_for("recovered", within_s=60)
    assert process.wait(5) == -signal.SIGKILL


PHOENIX = """
import os, runpy, signal, sys
def rise(*_):
    os.posix_spawn(sys.executable, sys.orig_argv, os.environ)
    os._exit(0)
signal.signal(signal.SIGTERM, rise)
signal.signal = lambda *_: None
with open({starts!r}, "a") as starts:
    print(os.getpid(), file=starts)
runpy.run_path({stand_in!r}, run_name="__main__")
"""


@pytest.mark.parametrize("fields", [pytest.param({}, id="by signals"), {"unload_cmd": "true"}])
def test_what_is_started_again_as_soon_as_it_goes_is_left_to_work(
    servers: Servers, free_port: FreePort, guard: MakeGuard, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """As under a supervisor without a pause. The new one is healthy, and was never asked to go."""
    port, starts, program = free_port(), tmp_path / "starts", tmp_path / "phoenix.py"
    program.write_text(PHOENIX.format(starts=str(starts), stand_in=str(STAND_IN)))
    process = servers.start(sys.executable, program, "--port", str(port))
    wait_until(lambda: listens(port), 20)
    chat = stand_in(port, process_pattern=rf"phoenix\.py --port {port}\b", **fields)
    with guard({"chat": chat}) as at_work:
        at_work.rounds(2)
        become(port, "hang")
        recovered = at_work.wait_for("recovered")
        process.wait(10)
        (second,) = at_work.pids("chat")
        at_work.rounds(4)
        assert at_work.pids("chat") == [second]
    assert starts.read_text().split() == [str(process.pid), str(second)]
    assert "its supervisor has loaded it again" in recovered.text
    assert not {"respawned", "admitted", "gave_up"} & set(at_work.kinds()), "that is what was wanted"
