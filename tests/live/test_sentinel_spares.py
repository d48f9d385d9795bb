"""What need not be recovered any more when its turn has come: it answers, works, or is another process by then.
And what is not to be, because the machine went down with it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from admitd import hands
from admitd.core.reboot import Finding
from admitd.errands import Errands
from admitd.vitals import Vitals
from tests.live.sentinels import Guard, become, hits, listens, sleeper, stand_in, start_stand_in
from tests.live.servers import Servers, wait_until

# What a recovery starts goes on by itself: nobody waits for it, which subprocess finds worth a warning.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

FreePort = Callable[[], int]
MakeGuard = Callable[..., Guard]


@pytest.fixture
def when_its_turn_comes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], list[str]]:
    """`when_its_turn_comes(act)` acts once, after a recovery was decided on and before it begins; whose it was."""

    def arrange(act: Callable[[], None]) -> list[str]:
        real, whose = Errands.begin, list[str]()

        def begin(self: Errands, service: str, work: Any) -> bool:
            if not whose:
                act()
            whose.append(service)
            return real(self, service, work)

        monkeypatch.setattr(Errands, "begin", begin)
        return whose

    return arrange


@pytest.mark.parametrize(("mode", "told"), [("ok", "probe_answered"), ("works", "busy")])
def test_one_that_answers_or_works_by_then_is_left_alone(
    servers: Servers,
    free_port: FreePort,
    guard: MakeGuard,
    when_its_turn_comes: Callable[[Callable[[], None]], list[str]],
    mode: str,
    told: str,
) -> None:
    port = free_port()
    process = start_stand_in(servers, port)
    begun = when_its_turn_comes(lambda: become(port, mode))
    with guard({"chat": stand_in(port)}) as at_work:
        at_work.rounds(2)
        become(port, "hang")
        at_work.wait_for(told)
        at_work.rounds(6)
        become(port, "ok")
    assert begun == ["chat"]
    assert process.poll() is None
    assert set(at_work.kinds()) <= {"probe_failed", "probe_answered", "busy"}


def test_one_that_somebody_started_anew_by_then_is_given_its_time(
    servers: Servers,
    free_port: FreePort,
    guard: MakeGuard,
    when_its_turn_comes: Callable[[Callable[[], None]], list[str]],
) -> None:
    """It is on its way, and answers nothing yet: what hung was another."""
    port = free_port()
    hung = start_stand_in(servers, port)
    chat = stand_in(port)
    made = guard({"chat": chat})
    anew: list[Any] = []

    def start_anew() -> None:
        hung.kill()
        hung.wait()
        chat["probe"]["startup_grace_s"] = 600
        made.write({"chat": chat}, {})
        anew.append(servers.start(*chat["load_cmd"].split(), "--delay", "4"))
        wait_until(lambda: made.pids("chat") == [anew[0].pid])

    begun = when_its_turn_comes(start_anew)
    with made as at_work:
        become(port, "hang")
        wait_until(lambda: listens(port) and anew, 60, lambda: str(at_work.events))
        at_work.rounds(2)
    assert begun == ["chat"]
    assert anew[0].poll() is None
    assert "recovering" not in at_work.kinds()


def test_what_its_check_calls_loaded_by_then_is_left_alone(
    servers: Servers,
    guard: MakeGuard,
    tmp_path: Path,
    when_its_turn_comes: Callable[[Callable[[], None]], list[str]],
) -> None:
    """Checks run once a probe_interval_s: what they said may be a minute old."""
    flag = tmp_path / "up"
    process = sleeper(servers, tmp_path, "half-way")
    begun = when_its_turn_comes(flag.touch)
    half = {
        "ram_budget_mb": 10,
        "process_pattern": "half-way$",
        "loaded_check_cmd": f"test -e {flag}",
        "load_cmd": f"{sys.executable} -c ''",
        "load_timeout_s": 1,
    }
    with guard({"half": half}, probe_interval_s=600) as at_work:
        at_work.wait_for("half_loaded")
        wait_until(lambda: begun == ["half"], 30, lambda: str(at_work.events))
        at_work.rounds(5)
    assert begun == ["half"], "and it is not asked for again"
    assert process.poll() is None
    assert "recovering" not in at_work.kinds()


@pytest.mark.parametrize("since", ["nothing", "a load was admitted", "it answered"])
def test_what_the_machine_went_down_with_is_left_alone_until_it_was_loaded_or_answered(
    servers: Servers, free_port: FreePort, guard: MakeGuard, since: str
) -> None:
    port = free_port()
    process = start_stand_in(servers, port, "--mode", "ok" if since == "it answered" else "hang")
    made = guard({"chat": stand_in(port, load_timeout_s=600)})
    vitals = Vitals(made.folder / "alive")
    vitals.hold_back({"chat"}, time.monotonic())
    made.sentinel._found = found = vitals.judge([])
    made.sentinel._held_back = found.held_back
    if since == "a load was admitted":
        hands.heed(made.gate.records.where, "chat")
        hands.admitted(made.gate.records.where, "chat")
    with made as at_work:
        at_work.rounds(2)
        if since == "it answered":
            wait_until(lambda: hits(port) > 0)
            at_work.rounds(2)
            become(port, "hang")
        if since == "nothing":
            gave_up = at_work.wait_for("gave_up")
            assert "the machine went down within a minute of its load" in gave_up.text
            at_work.rounds(3)
        else:
            at_work.wait_for("recovered")
    assert ("recovering" in at_work.kinds()) is (since != "nothing")
    assert (process.poll() is None) is (since == "nothing")
    assert Vitals(made.folder / "alive").judge([]) == (found if since == "nothing" else Finding())


def test_what_became_of_admit_run_is_watched_as_soon_as_it_is_there(
    servers: Servers, tmp_path: Path, free_port: FreePort, guard: MakeGuard
) -> None:
    """The reservation's holder is the server itself, which nobody waits for; it lasts for the whole load_timeout_s."""
    port = free_port()
    declared = stand_in(port, load_timeout_s=600)
    with guard({"chat": declared}) as at_work:
        command = ["admit", "--config", at_work.file, "run", "chat", "--", *declared["load_cmd"].split()]
        process = servers.start(*command, env=at_work.environ)
        wait_until(lambda: listens(port), 60, lambda: servers.log(process))
        (held,) = at_work.gate.records.standing(at_work.gate.capacity()).reservations
        assert held.holder is not None
        assert [held.holder.pid] == at_work.pids("chat") == [process.pid]
        wait_until(lambda: hits(port) >= 2, 60, lambda: "it is probed")
