"""An app that capacity.yaml declares: its budget is granted once, and whatever was granted is charged."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from admit_sdk.citizen import RENEW_S
from admitd.apps import AppGate
from admitd.core.terms import RAM, Check, Command, Process, ProcessId, Reservation, Sighting
from admitd.core.verdict import Reason, Refused
from admitd.processes.cputime import LinuxCpuTimes
from admitd.processes.table import CannotSee
from admitd.reservations import Busy, NotRecorded
from tests import daemons
from tests.core.worlds import MB, capacity, ram, service
from tests.gates import REAL, Ask, FakeTable, Quiet, decided, files, reservations, until
from tests.gates import held as held_by

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")

POOL_MB = 20_000
CHILD = "import sys; print('up', flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {CHILD!r}]).returncode)"


class App:
    """A real process, and its child where it has one."""

    def __init__(self, code: str = CHILD) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None and self.process.stdout.readline() == b"up\n"
        self.id = identified(self.process.pid)

    @property
    def child(self) -> ProcessId:
        (child,) = [each for each in LinuxCpuTimes().of([self.id]) or () if each != self.id]
        return child

    def end(self) -> None:
        self.process.communicate()


def identified(pid: int) -> ProcessId:
    found = REAL.identify(pid)
    assert found is not None
    return found


class Stage:
    """A pool of 20,000 MB, `chat` with 12,000 and `other` with 9,000 of them; what is loaded is what a test says."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.table = FakeTable()
        self.checked: Mapping[str, Check] = {}
        self.declared = capacity(
            service("chat", 12_000, load_timeout_s=300.0), service("other", 9_000), pool_mb=POOL_MB, live_veto=False
        )
        self.gate = self.restarted()

    def restarted(self) -> AppGate:
        """A daemon that knows nothing but what is written down and what it sees."""
        self.gate = AppGate(lambda: (self.declared, ()), self.table, Quiet(), reservations(self.where), self._checks)
        return self.gate

    def _checks(self, commands: Mapping[str, Command]) -> Mapping[str, Check]:
        return self.checked

    def check(self, loaded: bool) -> None:
        services = [service("chat", 12_000, process_pattern=None, loaded_check_cmd="true")]
        self.declared = capacity(*services, pool_mb=POOL_MB, live_veto=False)
        self.checked = {"chat": Check("chat", loaded)}

    def shows(self, *processes: ProcessId, mention: bool = False) -> None:
        self.table.shown = [Sighting("chat", Process(each, os.getuid()), mention) for each in processes]

    def keep(self, app: ProcessId, budget_mb: int = 12_000) -> int | Refused:
        """MB that are kept now, or the refusal."""
        told = self.gate.keep("chat", app, budget_mb * MB, 0)
        return told if isinstance(told, Refused) else told.budget // MB

    def standing(self) -> tuple[Reservation, ...]:
        return self.gate.standing().reservations

    def charged_mb(self) -> int:
        return self.gate.look().ledger.charged.get(RAM, 0) // MB


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "state")


@pytest.fixture
def start() -> Iterator[Callable[..., App]]:
    started: list[App] = []

    def begin(code: str = CHILD) -> App:
        started.append(App(code))
        return started[-1]

    yield begin
    for each in started:
        each.end()


@pytest.fixture
def two(start: Callable[..., App]) -> tuple[App, App]:
    """Two copies of the app, the older one first."""
    return start(), start()


def refused(told: int | Refused) -> Refused:
    assert isinstance(told, Refused), told
    return told


def is_second(told: int | Refused, first: ProcessId) -> bool:
    refusal = refused(told)
    assert refusal.reason is Reason.LOADING
    assert f"chat is declared with 12000 MB, and process {first.pid} has them already" in refusal.message
    assert f"End process {first.pid}, or give this one a name of its own" in refusal.message
    assert (refusal.budget, refusal.shortfall, refusal.remedy) == (ram(12_000), ram(12_000), None)
    assert [each.label for each in refusal.blockers] == ["chat"]
    return True


# Once.


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen"])
def test_of_two_copies_one_has_the_budget(stage: Stage, two: tuple[App, App], seen: bool) -> None:
    first, second = (each.id for each in two)
    stage.shows(*([first, second] if seen else []))
    assert stage.keep(first) == 12_000
    assert is_second(stage.keep(second), first)
    assert (stage.keep(first), stage.charged_mb()) == (12_000, 12_000)


def test_the_older_of_two_that_are_seen_has_it_also_where_the_daemon_was_restarted(
    stage: Stage, two: tuple[App, App]
) -> None:
    first, second = (each.id for each in two)
    stage.shows(second, first)
    assert is_second(stage.keep(second), first)
    assert stage.keep(first) == 12_000
    stage.restarted()
    assert is_second(stage.keep(second), first)
    assert stage.keep(first) == 12_000


def test_what_is_kept_for_one_that_is_not_seen_outlives_the_daemon(stage: Stage, two: tuple[App, App]) -> None:
    first, second = (each.id for each in two)
    assert stage.keep(first) == 12_000
    stage.restarted()
    other = refused(stage.keep(second))
    assert (other.reason, other.remedy) == (Reason.LOADING, None)
    assert f"process {first.pid}" in other.message
    assert stage.keep(first) == 12_000


def test_a_process_that_is_not_the_service_that_is_seen_does_not_have_its_budget(
    stage: Stage, two: tuple[App, App]
) -> None:
    older, seen = (each.id for each in two)
    stage.shows(seen)
    assert is_second(stage.keep(older), seen)
    assert stage.charged_mb() == 12_000


def test_a_parent_and_its_child_are_one_copy(stage: Stage, start: Callable[..., App]) -> None:
    """Whichever of them is seen; and whichever asks first has the budget, once."""
    app = start(PARENT)
    for shown in ([app.id], [app.child], [app.id, app.child]):
        for asks, other in ((app.id, app.child), (app.child, app.id)):
            stage.restarted()
            stage.shows(*shown)
            assert stage.keep(asks) == 12_000
            assert is_second(stage.keep(other), asks)


def test_what_is_loaded_by_its_check_is_granted_once(stage: Stage, two: tuple[App, App]) -> None:
    first, second = (each.id for each in two)
    stage.check(loaded=True)
    assert stage.keep(first) == 12_000
    assert is_second(stage.keep(second), first)
    assert (stage.keep(first), stage.charged_mb()) == (12_000, 12_000)


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen"])
@pytest.mark.parametrize("how", ["ends", "gives it back"])
def test_the_second_has_it_once_the_first_has_it_no_more(
    stage: Stage, two: tuple[App, App], seen: bool, how: str
) -> None:
    first, second = (each.id for each in two)
    stage.shows(*([first] if seen else []))
    assert stage.keep(first) == 12_000
    assert is_second(stage.keep(second), first)
    stage.shows()
    if how == "ends":
        two[0].end()
        until(lambda: REAL.identify(first.pid) != first)
    else:
        assert stage.keep(first, 0) == 0
    assert (stage.keep(second), stage.charged_mb()) == (12_000, 12_000)


def test_who_gave_it_back_and_is_charged_as_the_service_still_is_in_the_way(stage: Stage, two: tuple[App, App]) -> None:
    first, second = (each.id for each in two)
    stage.shows(first, second)
    assert stage.keep(first) == 12_000
    assert stage.keep(first, 0) == 0
    assert is_second(stage.keep(second), first)
    stage.shows(second)
    assert (stage.keep(second), stage.charged_mb()) == (12_000, 12_000)


def test_who_had_it_is_in_nobodys_way_once_the_file_declares_it_no_more(stage: Stage, two: tuple[App, App]) -> None:
    first, second = (each.id for each in two)
    assert stage.keep(first, 9_000) == 12_000
    stage.declared = capacity(service("other", 9_000), pool_mb=POOL_MB, live_veto=False)
    assert stage.keep(second, 1_000) == 1_000
    assert stage.charged_mb() == 13_000


# For as long as it is granted.


def test_what_is_granted_is_charged_until_it_is_asked_for_again(stage: Stage, two: tuple[App, App]) -> None:
    """Its load_timeout_s is less: an app that no pattern sees would be charged for a part of the time only."""
    assert stage.declared.services["chat"].load_timeout_s < RENEW_S
    assert stage.keep(two[0].id) == 12_000
    (before,) = stage.standing()
    assert before.deadline_s - time.monotonic() > 2 * RENEW_S
    assert stage.keep(two[0].id, 500) == 12_000
    (after,) = stage.standing()
    assert after.id != before.id and after.deadline_s > before.deadline_s
    two[0].end()
    until(lambda: stage.standing() == ())


def test_what_was_kept_by_admit_run_lasts_as_long_once_the_app_asks(stage: Stage, two: tuple[App, App]) -> None:
    before = held_by(decided(stage.gate, Ask("chat", two[0].id))[0])
    assert before.deadline_s - time.monotonic() <= 300
    assert stage.keep(two[0].id) == 12_000
    (after,) = stage.standing()
    assert after.deadline_s - time.monotonic() > 2 * RENEW_S


def test_it_ends_where_the_pattern_sees_it(stage: Stage, two: tuple[App, App]) -> None:
    assert stage.keep(two[0].id) == 12_000
    stage.shows(two[0].id)
    assert stage.keep(two[0].id) == 12_000
    assert (stage.standing(), stage.charged_mb(), files(stage.where)) == ((), 12_000, [])


def test_a_renewal_is_no_decision(stage: Stage, two: tuple[App, App]) -> None:
    assert stage.keep(two[0].id) == 12_000
    stage.declared = capacity(*stage.declared.services.values(), pool_mb=1_000, live_veto=False)
    assert stage.keep(two[0].id) == 12_000


# What merely mentions it.


def test_what_merely_mentions_it_keeps_nothing_for_it(stage: Stage, two: tuple[App, App]) -> None:
    """It may go at any moment: what was granted is charged all the same."""
    editor, app = (each.id for each in two)
    stage.shows(editor, mention=True)
    assert (stage.keep(app), stage.charged_mb()) == (12_000, 12_000)
    stage.shows()
    assert stage.charged_mb() == 12_000


def test_what_merely_mentions_it_makes_no_room_for_it(stage: Stage, two: tuple[App, App]) -> None:
    editor, app = (each.id for each in two)
    held_by(decided(stage.gate, Ask("other"))[0])
    stage.shows(editor, mention=True)
    told = refused(stage.keep(app))
    assert (told.reason, told.shortfall) == (Reason.NO_HEADROOM, ram(1_000))
    assert stage.standing()[0].service == "other"


# What could not be decided.


@pytest.mark.parametrize("problem", [CannotSee("late"), Busy("held"), NotRecorded("full")], ids=str)
def test_where_nothing_can_be_decided_it_is_refused(stage: Stage, two: tuple[App, App], problem: Exception) -> None:
    def fail() -> None:
        raise problem

    stage.table.on_look = fail
    told = refused(stage.keep(two[0].id))
    assert told.reason in (Reason.UNSEEN, Reason.BUSY, Reason.NOT_RECORDED)
    assert str(problem) in told.message and told.budget == ram(12_000)
    stage.table.on_look = lambda: None
    assert stage.keep(two[0].id) == 12_000


def test_two_processes_of_one_app_are_never_granted_more_than_there_is(tmp_path: Path) -> None:
    """Over HTTP, and seen for what they are by a real look."""
    line = daemons.nap(9)
    declared = daemons.service("twin", 6_000, process_pattern=f"^{line.replace('.', '[.]')}$")
    copies = [subprocess.Popen(line.split()) for _ in range(2)]
    try:
        with daemons.running(tmp_path, declared) as one:
            daemons.until(lambda: len(one.capacity()["services"][0]["pids"]) == 2)

            def ask(pid: int, budget_mb: int) -> daemons.Reply:
                return one.ask("POST", "/apps/twin", {"pid": pid, "budget_mb": budget_mb})

            first, second = sorted((each.pid for each in copies), key=lambda pid: (identified(pid).started, pid))
            assert ask(first, 5_000).json()["budget_mb"] == 6_000
            told = ask(second, 5_000)
            assert (told.status, told.json()["reason"], told.json()["remedy"]) == (409, "loading", None)
            assert f"process {first} has them already" in told.json()["detail"]
            assert one.capacity()["charged_mb"] == 6_000
            assert ask(first, 0).status == 200
            next(each for each in copies if each.pid == first).kill()
            daemons.until(lambda: ask(second, 5_000).status == 200)
    finally:
        for each in copies:
            each.kill()
            each.wait()
