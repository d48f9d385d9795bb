"""Unloading step by step, on a machine that is a row of looks: what is waited for, and what is said when it fails."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from admitd import hands, unloading
from admitd.core.events import Event
from admitd.core.ledger import Account
from admitd.core.respawn import Supervisor
from admitd.core.terms import RAM, Check, Process, ProcessId, Reading, Reservation, Service, Sighting, State
from admitd.processes.table import CannotSee

MIB = 1 << 20
SERVICE = Service("coder", {RAM: 6000 * MIB}, process_pattern="x", unload_timeout_s=5.0)
ONE, TWO, THREE = (Process(ProcessId(pid, 1), 0) for pid in (4711, 4712, 4713))
KEEPER = Supervisor("the systemd unit coder.service", "systemctl --user stop coder.service")


def there(*processes: Process, held_mb: int = 0, service: Service = SERVICE) -> Account:
    sightings = tuple(Sighting("coder", process, program="server") for process in processes)
    return Account(service, State.LOADED, {}, {RAM: held_mb * MIB}, sightings)


def gone(service: Service = SERVICE) -> Account:
    return Account(service, State.STOPPED, {})


Look = tuple[Account, int] | Account | Exception


class Machine:
    """A gate whose looks are the given ones, the last again and again; with how many MB are available at each. It
    keeps what is remembered, and whether somebody had his hands on it at each look; its notes are at `where`."""

    where: Path

    def __init__(self, *looks: Look) -> None:
        self._looks = list(looks)
        self.table = None
        self.looked = 0
        self.records = SimpleNamespace(where=self.where)
        self.remembered: list[Event] = []
        self.in_hands: list[bool] = []

    def record(self, event: Event) -> None:
        self.remembered.append(event)

    def capacity(self) -> Any:
        return None

    def matcher(self, capacity: Any) -> Any:
        return None

    def look(self) -> Any:
        self.looked += 1
        self.in_hands.append(hands.look(self.records.where, "coder").on)
        seen = self._looks[0] if len(self._looks) == 1 else self._looks.pop(0)
        if isinstance(seen, Exception):
            raise seen
        account, available = seen if isinstance(seen, tuple) else (seen, 1000)
        return SimpleNamespace(
            ledger=SimpleNamespace(account=lambda service: account),
            capacity=SimpleNamespace(services={"coder": account.service}),
            reading=Reading(available={RAM: available * MIB}),
        )


Sent = list[tuple[int, signal.Signals]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sent:
    """The signals that would have been sent; time passes only while it is slept."""
    monkeypatch.setattr(Machine, "where", tmp_path, raising=False)
    now = [1000.0]
    monkeypatch.setattr(unloading.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(unloading.time, "monotonic", lambda: now[0])
    signals: Sent = []
    monkeypatch.setattr(unloading.actuator, "send", sender(signals, lambda pid: None))
    monkeypatch.setattr(unloading.supervisors, "of", lambda pid: KEEPER)
    return signals


def sender(signals: Sent, refuse: Callable[[int], str | None]) -> Callable[..., str | None]:
    def send(process: Process, service: str, sig: signal.Signals, table: object, matcher: object) -> str | None:
        refused = refuse(process.id.pid)
        if refused is None:
            signals.append((process.id.pid, sig))
        return refused

    return send


def unload(*looks: Look, kill: bool = False) -> tuple[unloading.Outcome, list[str]]:
    said: list[str] = []
    return unloading.unload(Machine(*looks), "coder", said.append, kill=kill), said  # type: ignore[arg-type]


def test_sigterm_to_each_process_and_gone(sent: Sent) -> None:
    outcome, said = unload(there(ONE, TWO), there(TWO), gone())
    assert isinstance(outcome, unloading.Unloaded)
    assert sent == [(4711, signal.SIGTERM), (4712, signal.SIGTERM)]
    assert said == ["SIGTERM to 4711, 4712 (coder)"]


def test_a_stopped_one_is_continued_after_the_signal(sent: Sent) -> None:
    unload(there(replace(ONE, stopped=True)), gone())
    assert sent == [(4711, signal.SIGTERM), (4711, signal.SIGCONT)]


def test_what_is_not_there_is_done_and_nobody_is_signalled(sent: Sent) -> None:
    held = Account(SERVICE, State.RESERVED, {}, reservation=Reservation("id", "coder", {}, None, 0.0))
    for seen, note in ((gone(), ""), (held, "it is being loaded, and not visible yet")):
        outcome, _ = unload(seen)
        assert isinstance(outcome, unloading.Unloaded)
        assert (outcome.was_loaded, outcome.note) == (False, note)
    assert sent == []


@pytest.mark.parametrize("unload_cmd", [None, "touch called-off", "exit 4"])
def test_a_load_that_was_handed_over_is_called_off_by_its_unload_cmd(
    sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unload_cmd: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    given: list[str] = []
    monkeypatch.setattr(Machine, "give_back", lambda self, each: given.append(each), raising=False)
    service = replace(SERVICE, unload_cmd=unload_cmd)
    held = Reservation("id", "coder", {}, None, 0.0, handed_over=True)
    outcome, said = unload(Account(service, State.RESERVED, {}, reservation=held))
    assert sent == []
    if unload_cmd is None or unload_cmd == "exit 4":
        assert isinstance(outcome, unloading.UnloadFailed)
        assert ("no unload_cmd would call that off" in outcome.why) == (unload_cmd is None)
        assert given == [], "it may come up yet"
        return
    assert isinstance(outcome, unloading.Unloaded)
    assert (outcome.was_loaded, outcome.note) == (
        False,
        "it was not visible yet; what was reserved for it is given back",
    )
    assert given == ["id"]
    assert said == ["running the unload_cmd of coder"]
    assert [each.name for each in tmp_path.glob("called*")] == ["called-off"]


def test_who_closes_or_reloads_calls_nothing_off(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentinel ends what is there; a load that a user has begun since is not its to call off."""
    held = Reservation("id", "coder", {}, None, 0.0, handed_over=True)
    reserved = Account(replace(SERVICE, unload_cmd="exit 4"), State.RESERVED, {}, reservation=held)
    for outcome in (
        unloading.close(Machine(reserved), "coder", lambda _: None, 1.0),  # type: ignore[arg-type]
        unloading.unload(Machine(reserved), "coder", lambda _: None, asked=False),  # type: ignore[arg-type]
    ):
        assert isinstance(outcome, unloading.Unloaded)
        assert not outcome.was_loaded


def test_after_unload_timeout_s_it_says_who_is_left(sent: Sent) -> None:
    outcome, _ = unload(there(ONE))
    assert isinstance(outcome, unloading.UnloadTimedOut)
    assert (outcome.why, outcome.pids) == ("coder is still there 5 s after it was asked to go", (4711,))
    assert sent == [(4711, signal.SIGTERM)]


def test_kill_comes_only_after_the_polite_way(sent: Sent) -> None:
    looks = [there(ONE)] * 60 + [gone()]
    outcome, said = unload(*looks, kill=True)
    assert isinstance(outcome, unloading.Unloaded)
    assert outcome.took_s >= 5.0
    assert sent == [(4711, signal.SIGTERM), (4711, signal.SIGKILL)]
    assert said[-1] == "coder is still there; SIGKILL"


def test_what_survives_even_that_is_reported(sent: Sent) -> None:
    outcome, _ = unload(there(ONE), kill=True)
    assert isinstance(outcome, unloading.UnloadTimedOut)
    assert outcome.pids == (4711,)


@pytest.mark.parametrize("kill", [False, True])
def test_another_process_in_its_place_is_its_supervisors_and_never_signalled(sent: Sent, kill: bool) -> None:
    machine: Any = Machine(there(ONE), there(ONE), there(THREE, TWO))
    outcome = unloading.unload(machine, "coder", list[str]().append, kill=kill)
    why = "coder went, and the systemd unit coder.service started it again"
    assert outcome == unloading.UnloadTimedOut(why, (4712, 4713), KEEPER)
    assert sent == [(4711, signal.SIGTERM)]
    assert machine.looked == 4, "nobody waits for what does not go"
    (told,) = machine.remembered
    assert (told.kind, told.next, told.numbers["pid"]) == ("respawned", KEEPER.stop, 4712)


def test_two_looks_must_agree_that_another_is_in_its_place(sent: Sent) -> None:
    """A server that goes may start something that cleans up after it."""
    outcome, _ = unload(there(ONE), there(TWO), gone())
    assert isinstance(outcome, unloading.Unloaded)


def test_only_who_was_asked_to_go_is_killed(sent: Sent) -> None:
    outcome, _ = unload(there(ONE, TWO), *[there(TWO, THREE)] * 60, there(THREE), kill=True)
    assert isinstance(outcome, unloading.UnloadTimedOut)
    assert (outcome.pids, outcome.keeper) == ((4713,), KEEPER)
    assert sent == [(4711, signal.SIGTERM), (4712, signal.SIGTERM), (4712, signal.SIGKILL)]


def end_hung(*looks: Look) -> tuple[unloading.Outcome, list[str]]:
    machine: Any = Machine(*looks)
    outcome = unloading.end_hung(machine, "coder", list[str]().append, ladder_s=1.0)
    assert all(machine.in_hands)
    return outcome, [event.kind for event in machine.remembered]


def test_one_that_hangs_gets_signals_where_its_unload_cmd_does_not_help(sent: Sent) -> None:
    for command in ("/bin/false", "/bin/true"):
        sent.clear()
        service = replace(SERVICE, unload_cmd=(command,))
        outcome, told = end_hung(*[there(ONE, service=service)] * 80, gone(service))
        assert isinstance(outcome, unloading.Unloaded)
        assert sent == [(4711, signal.SIGTERM), (4711, signal.SIGKILL)]
        assert told == ["unload_failed", "unloaded"]


def test_one_that_hangs_and_that_its_supervisor_starts_again_is_left_to_that(sent: Sent) -> None:
    for service, signals in ((replace(SERVICE, unload_cmd=("/bin/true",)), []), (SERVICE, [(4711, signal.SIGTERM)])):
        sent.clear()
        outcome, told = end_hung(there(ONE, service=service), there(TWO, service=service))
        assert isinstance(outcome, unloading.UnloadTimedOut)
        assert outcome.keeper == KEEPER
        assert (sent, told) == (signals, []), "that is what was wanted"


def test_one_that_hangs_and_is_gone_by_now_is_done(sent: Sent) -> None:
    outcome, told = end_hung(gone())
    assert isinstance(outcome, unloading.Unloaded)
    assert (sent, told) == ([], [])


def test_another_users_process_cannot_be_signalled(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    no = "process 4711 belongs to another user (uid 501): it cannot be signalled"
    monkeypatch.setattr(unloading.actuator, "send", sender(sent, lambda pid: no if pid == 4711 else None))
    outcome, _ = unload(there(ONE))
    assert outcome == unloading.UnloadFailed(no)
    _, said = unload(there(ONE, TWO), gone())
    assert said[-1] == no
    assert sent == [(4712, signal.SIGTERM)]


def test_a_process_that_went_by_itself_is_no_failure(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unloading.actuator, "send", sender(sent, lambda pid: f"process {pid} is gone"))
    outcome, _ = unload(there(ONE), gone())
    assert isinstance(outcome, unloading.Unloaded)


def test_not_seeing_for_a_moment_is_waited_out(sent: Sent) -> None:
    outcome, _ = unload(there(ONE), CannotSee("busy"), CannotSee("busy"), gone())
    assert isinstance(outcome, unloading.Unloaded)
    with pytest.raises(CannotSee):
        unload(there(ONE), CannotSee("for good"))


def test_not_seeing_at_first_touches_nothing(sent: Sent) -> None:
    with pytest.raises(CannotSee):
        unload(CannotSee("busy"))
    assert sent == []


def test_it_waits_until_most_of_the_memory_is_back(sent: Sent) -> None:
    looks: list[Look] = [(there(ONE, held_mb=1000), 500), (gone(), 510), (gone(), 900), (gone(), 1240), (gone(), 1251)]
    outcome, _ = unload(*looks)
    assert isinstance(outcome, unloading.Unloaded)
    assert (outcome.back, outcome.note) == ({RAM: 751 * MIB}, "")


def test_but_not_for_ever(sent: Sent) -> None:
    outcome, _ = unload((there(ONE, held_mb=1000), 500), (gone(), 400))
    assert isinstance(outcome, unloading.Unloaded)
    assert outcome.note.startswith("0 MB of the 1000 MB it held are back so far")
    assert unloading.BACK_WAIT_S <= outcome.took_s < unloading.BACK_WAIT_S + 1


def test_where_the_kernel_is_only_late_to_count_it_is_waited_for_and_no_word_said(sent: Sent) -> None:
    outcome, _ = unload((there(ONE, held_mb=1000), 500), (gone(), 1010))
    assert isinstance(outcome, unloading.Unloaded)
    assert (outcome.back, outcome.note) == ({RAM: 510 * MIB}, "")
    assert outcome.took_s >= unloading.BACK_WAIT_S


BY_COMMAND = replace(SERVICE, unload_cmd=("/bin/true",))
NEVER = "a mention is never signalled: process 4712 (tail)"


@pytest.fixture
def commanded(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unload_cmd ends well, in no time."""
    monkeypatch.setattr(unloading, "_run_unload_cmd", lambda service, pids: None)


def mentioned(service: Service = BY_COMMAND, check: bool | None = None) -> Account:
    tail = Sighting("coder", TWO, mention=True, program="tail")
    return Account(service, State.LOADED, {}, None, (tail,), Check("coder", check))


def test_a_mention_that_is_left_is_no_reason_to_wait(commanded: None) -> None:
    asked = ((there(ONE), mentioned(SERVICE)), (there(ONE, service=BY_COMMAND), mentioned()))
    for before, after in (*asked, (mentioned(check=True), mentioned(check=False))):
        outcome, _ = unload(before, after)
        assert isinstance(outcome, unloading.Unloaded)
        assert outcome.took_s < 1.0


def test_where_there_are_only_mentions_they_are_what_is_said(commanded: None) -> None:
    """An unload_cmd may end what looks like one; of a check that says yes, it is said that it does."""
    refused, _ = unload(mentioned(SERVICE))
    assert isinstance(refused, unloading.UnloadFailed)
    assert NEVER in refused.why
    ended, _ = unload(*[mentioned()] * 9, gone(BY_COMMAND))
    assert isinstance(ended, unloading.Unloaded)
    assert ended.took_s >= 9 * unloading.LOOK_EVERY_S, "and that is waited for"
    for after, why in ((mentioned(), NEVER), (mentioned(check=True), "its loaded_check_cmd still says that")):
        stays, _ = unload(mentioned(check=after.check and after.check.loaded), after)
        assert isinstance(stays, unloading.UnloadTimedOut)
        assert (why in stays.why, stays.pids) == (True, ())


def test_clean_up_runs_the_unload_cmd_where_nothing_is_seen_and_unloads_where_something_is(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with_command = replace(SERVICE, unload_cmd=("/bin/false",))
    machine: Any = Machine(gone(with_command))
    outcome = unloading.clean_up(machine, "coder", said.append)
    assert outcome == unloading.UnloadFailed("its unload_cmd ended with exit 1")
    assert isinstance(unloading.clean_up(Machine(gone()), "coder", said.append), unloading.Unloaded)  # type: ignore[arg-type]
    seen: Any = Machine(there(ONE), there(ONE), gone())
    assert isinstance(unloading.clean_up(seen, "coder", said.append), unloading.Unloaded)
    assert sent == [(4711, signal.SIGTERM)]


def test_with_kill_an_unload_cmd_that_fails_is_followed_by_sigkill_at_once(sent: Sent) -> None:
    with_command = replace(SERVICE, unload_cmd=("/bin/false",))
    outcome, said = unload(there(ONE, service=with_command), gone(with_command), kill=True)
    assert isinstance(outcome, unloading.Unloaded)
    assert sent == [(4711, signal.SIGKILL)]
    assert "its unload_cmd ended with exit 1" in said


def test_two_looks_must_agree_that_it_is_gone(sent: Sent) -> None:
    """A server that forks and goes while a look is taken is missed by it."""
    outcome, _ = unload(there(ONE), gone(), there(TWO))
    assert isinstance(outcome, unloading.UnloadTimedOut)
    assert outcome.pids == (4712,)


def test_between_the_two_there_is_time_for_a_supervisor_that_starts_it_again_at_once(sent: Sent) -> None:
    outcome, _ = unload(there(ONE), gone())
    assert isinstance(outcome, unloading.Unloaded)
    assert outcome.took_s >= unloading.LOOK_EVERY_S


def test_it_is_in_somebodys_hands_until_it_is_gone_and_then_written_down(sent: Sent) -> None:
    machine: Any = Machine(there(ONE), there(ONE), gone())
    assert isinstance(unloading.unload(machine, "coder", list[str]().append), unloading.Unloaded)
    assert all(machine.in_hands)
    hand = hands.look(machine.where, "coder")
    assert not hand.on
    assert hand.unloaded_at is not None
    assert [event.kind for event in machine.remembered] == ["unloaded"]


def test_what_could_not_be_unloaded_is_remembered_and_not_written_down_as_unloaded(sent: Sent) -> None:
    machine: Any = Machine(there(ONE))
    assert isinstance(unloading.unload(machine, "coder", list[str]().append), unloading.UnloadTimedOut)
    assert hands.look(machine.where, "coder").unloaded_at is None
    assert [(event.kind, event.numbers.get("pids")) for event in machine.remembered] == [("unload_failed", "4711")]


def test_what_was_not_there_is_wanted_gone_all_the_same(sent: Sent) -> None:
    """Nothing happened, so nothing is remembered; but the sentinel brings back nothing that a user let go."""
    machine: Any = Machine(gone())
    assert isinstance(unloading.unload(machine, "coder", list[str]().append), unloading.Unloaded)
    assert hands.look(machine.where, "coder").unloaded_at is not None
    assert machine.remembered == []


def test_close_asks_by_signals_alone_and_kills_after_its_grace(sent: Sent) -> None:
    with_command = replace(SERVICE, unload_cmd=("/bin/false",))
    machine: Any = Machine(*[there(ONE, service=with_command)] * 30, gone(with_command))
    said: list[str] = []
    outcome = unloading.close(machine, "coder", said.append, grace_s=1.0)
    assert isinstance(outcome, unloading.Unloaded)
    assert 1.0 <= outcome.took_s < SERVICE.unload_timeout_s
    assert sent == [(4711, signal.SIGTERM), (4711, signal.SIGKILL)]
    assert all(machine.in_hands)
