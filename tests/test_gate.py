"""The gate: one look, one decision, written down before it is told; and the flight, which lets many share one look."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from admitd import safelist
from admitd.core.terms import Capacity, Check, Command, ProcessId, Sentinel
from admitd.core.verdict import Admitted
from admitd.flight import Flight
from admitd.gate import TRIES, Answer, Ask, Gate, Scene, Unknown
from admitd.processes.table import NOBODY, CannotSee
from admitd.reservations import NotRecorded, Reservations
from tests.core.worlds import capacity, service
from tests.gates import (
    PATIENCE_S,
    ROOM,
    FakeTable,
    decided,
    files,
    gate,
    held,
    is_loaded,
    me,
    refused,
    reservations,
    word,
    words,
)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "state"


# One decision.


def test_what_is_admitted_is_written_down(where: Path) -> None:
    made = held(decided(gate(where), Ask("first", me()))[0])
    assert reservations(where).standing(ROOM).reservations == (made,)


def test_the_last_room_goes_once(where: Path) -> None:
    one = gate(where)
    assert words(one, Ask("first", me())) == ["Admitted"]
    assert words(one, Ask("second", me()), Ask("small", me())) == ["no-headroom", "Admitted"]


def test_a_dry_run_writes_nothing(where: Path) -> None:
    one = gate(where)
    assert words(one, Ask("first", me(), dry_run=True), Ask("second", me(), dry_run=True)) == ["Admitted", "Admitted"]
    assert files(where) == []


def test_a_service_that_is_not_declared_is_unknown_and_disturbs_nobody(where: Path) -> None:
    answers, _ = gate(where).decide([Ask("frist", me()), Ask("first", me())])
    assert [word(each) for each in answers] == ["Unknown", "Admitted"]
    assert isinstance(answers[0], Unknown) and answers[0].near == ("first",)


def test_the_same_holder_is_told_of_the_same_reservation(where: Path) -> None:
    one = gate(where)
    made = held(decided(one, Ask("first", me()))[0])
    assert held(decided(one, Ask("first", me()))[0]) == made
    assert len(files(where)) == 1


@pytest.mark.parametrize("arrivals", [(1.0, 2.0), (2.0, 1.0), (1.0, 1.0)])
def test_the_same_holder_asking_twice_in_one_look_is_told_of_one_reservation(
    where: Path, arrivals: tuple[float, float]
) -> None:
    """Both answers name the one that was written, and not a promise on paper."""
    answers = decided(gate(where), *(Ask("first", me(), arrived_s=arrival) for arrival in arrivals))
    assert held(answers[0]) == held(answers[1])
    assert files(where) == [f"held~first~ram={600 << 20}~{held(answers[0]).id}"]


def test_a_dry_run_beside_an_admission_is_told_of_no_reservation(where: Path) -> None:
    answers = decided(gate(where), Ask("first", me(), arrived_s=1.0), Ask("first", me(), dry_run=True, arrived_s=2.0))
    assert [word(answer) for answer in answers] == ["Admitted", "Admitted"]
    assert len(files(where)) == 1


def test_the_higher_priority_wins_the_tie_whatever_came_first(where: Path) -> None:
    declared = capacity(service("low", 600), service("high", 600, priority=1), pool_mb=1_000, live_veto=False)
    for asks in ([Ask("low", me(), arrived_s=1.0), Ask("high", me(), arrived_s=2.0)],) * 2:
        one = gate(where, declared)
        answers = decided(one, *asks)
        assert [word(answer) for answer in answers] == ["no-headroom", "Admitted"]
        one.give_back(held(answers[1]).id)


def test_where_the_reservation_cannot_be_written_everyone_who_was_promised_it_is_refused(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = gate(where)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(one.records, "_publish", full)
    answers = decided(one, Ask("first", me()), Ask("first", me()), Ask("small", me(), dry_run=True))
    assert [word(answer) for answer in answers] == ["not-recorded", "not-recorded", "Admitted"]
    assert "No space left" in refused(answers[0]).message


@pytest.mark.parametrize(
    ("problem", "reason"), [(CannotSee("/proc is empty"), "unseen"), (NotRecorded("no folder"), "not-recorded")]
)
def test_what_cannot_be_seen_is_refused_and_not_guessed(where: Path, problem: Exception, reason: str) -> None:
    def fail() -> None:
        raise problem

    one = gate(where, table=FakeTable(on_look=fail))
    answers, scene = one.decide([Ask("first", me()), Ask("nothing")])
    assert [word(each) for each in answers] == [reason, "Unknown"]
    assert scene is None
    assert isinstance(answers[0], Answer) and str(problem) in refused(answers[0]).message
    with pytest.raises(type(problem)):
        one.look()
    assert files(where) == []
    assert words(gate(where), Ask("first", me())) == ["Admitted"]  # the lock was let go


def test_holders_are_told_to_the_table_as_launchers(where: Path) -> None:
    table = FakeTable()
    one = gate(where, table=table)
    words(one, Ask("first", me()))
    one.look()
    assert table.launchers == {me().pid: {"first"}}


def test_reservations_are_read_before_the_processes(where: Path) -> None:
    """A load that becomes visible in between is seen one way or the other."""
    made = held(decided(gate(where), Ask("first", me()))[0])
    table = FakeTable()

    def loaded_and_given_back() -> None:
        gate(where).give_back(made.id)
        table.show("first")

    table.on_look = loaded_and_given_back
    assert words(gate(where, table=table), Ask("second", me())) == ["no-headroom"]


# Checks run before the lock is taken: what they said may have been overtaken.

CHECKED = capacity(
    service("x", 600, process_pattern=None, loaded_check_cmd="is x there"),
    service("other", 600),
    service("third", 200),
    pool_mb=1_000,
    live_veto=False,
)


@dataclass
class Checks:
    """Checks that say what `loaded` says at the moment they run. `meanwhile` happens right after they have run."""

    loaded: bool = False
    meanwhile: list[Callable[[], object]] = field(default_factory=list)
    runs: int = 0

    def run(self, commands: Mapping[str, Command]) -> Mapping[str, Check]:
        self.runs += 1
        answers = {name: Check(name, self.loaded) for name in commands}
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return answers


@dataclass
class Stage:
    """The gate under test, and what another process does meanwhile, by the same records and a gate of its own."""

    where: Path
    checks: Checks = field(default_factory=Checks)
    declared: Capacity = CHECKED

    def one(self) -> Gate:
        return gate(self.where, CHECKED, run_checks=self.checks.run)

    def another(self) -> Gate:
        return gate(self.where, self.declared, run_checks=lambda c: {n: Check(n, self.checks.loaded) for n in c})

    def reserve(self) -> None:
        assert words(self.another(), Ask("x", me())) == ["Admitted"]

    def load(self) -> None:
        """x is there, and another's decision has seen it: the reservation has ended."""
        self.checks.loaded = True
        words(self.another(), Ask("third", dry_run=True))
        assert files(self.where) == []


@pytest.fixture
def stage(where: Path) -> Stage:
    return Stage(where)


def test_a_check_runs_once_a_look(stage: Stage) -> None:
    one = stage.one()
    assert words(one, Ask("other", me()), Ask("third", me())) == ["Admitted", "Admitted"]
    assert stage.checks.runs == 1
    one.look()
    assert stage.checks.runs == 2


def test_a_slow_check_holds_up_nobody_who_needs_none(stage: Stage) -> None:
    """A load under way looks four times a second; while its checks run, others look and are decided."""
    running, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        running.set()
        assert go_on.wait(20)

    stage.checks.meanwhile = [slow]
    one = stage.one()
    looking = threading.Thread(target=one.look)
    looking.start()
    try:
        assert running.wait(20)
        assert not one.look({}).ledger.charged
        assert words(one, Ask("other", me())) == ["Admitted"]
        assert looking.is_alive()
    finally:
        go_on.set()
        looking.join()


def test_without_checks_nothing_is_run_twice(where: Path) -> None:
    table = FakeTable()
    words(gate(where, table=table), Ask("first", me()))
    assert len(table.looks) == 1


def test_a_load_that_was_admitted_meanwhile_is_charged(stage: Stage) -> None:
    stage.checks.meanwhile = [stage.reserve]
    assert words(stage.one(), Ask("other", me())) == ["no-headroom"]
    assert stage.checks.runs == 2


def test_a_load_that_was_admitted_and_finished_meanwhile_is_charged(stage: Stage) -> None:
    """Its reservation has come and gone by the time the lock is held, and the check ran before it was there."""

    def come_and_go() -> None:
        stage.reserve()
        stage.load()

    stage.checks.meanwhile = [come_and_go]
    assert words(stage.one(), Ask("other", me())) == ["no-headroom"]
    assert stage.checks.runs == 2


def test_a_load_that_finished_meanwhile_is_charged(stage: Stage) -> None:
    stage.reserve()
    stage.checks.meanwhile = [stage.load]
    assert words(stage.one(), Ask("other", me())) == ["no-headroom"]
    assert stage.checks.runs == 2


def test_a_load_that_was_admitted_while_the_records_were_read_is_charged(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of the mark and of the names, whichever comes first."""
    one = stage.one()
    come = [stage.reserve]
    real_list, real_mark = one.records._list, one.records._lock.mark

    def in_between(read: Callable[[], object]) -> Callable[[], object]:
        def reading() -> object:
            found = read()
            if come:
                come.pop()()
            return found

        return reading

    monkeypatch.setattr(one.records, "_list", in_between(real_list))
    monkeypatch.setattr(one.records._lock, "mark", in_between(real_mark))
    stage.checks.meanwhile = [stage.load]
    assert words(one, Ask("other", me())) == ["no-headroom"]


def test_a_load_whose_record_was_written_after_the_records_were_read_is_charged(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading falls between the new mark and the record, and by the next one the record has come and gone."""
    real_publish, one = Reservations._publish, stage.one()
    told: list[str] = []

    def reading_first(records: Reservations, name: str, content: bytes) -> None:
        monkeypatch.setattr(Reservations, "_publish", real_publish)
        reader.start()
        assert has_checked.wait(PATIENCE_S)
        records._publish(name, content)

    def checked() -> None:
        has_checked.set()
        assert has_loaded.wait(PATIENCE_S)

    has_checked, has_loaded = threading.Event(), threading.Event()
    reader = threading.Thread(target=lambda: told.extend(words(one, Ask("other", me()))))
    stage.checks.meanwhile = [checked]
    monkeypatch.setattr(Reservations, "_publish", reading_first)
    stage.reserve()
    stage.load()
    has_loaded.set()
    reader.join()
    assert told == ["no-headroom"]


def test_a_load_that_one_admitted_who_knows_no_check_is_charged(stage: Stage) -> None:
    """Another user's capacity.yaml finds x by its processes."""
    stage.declared = capacity(service("x", 600), service("third", 200), pool_mb=1_000, live_veto=False)

    def come_and_go() -> None:
        stage.reserve()
        stage.checks.loaded = True
        table = FakeTable()
        table.show("x")
        words(gate(stage.where, stage.declared, table), Ask("third", dry_run=True))
        assert files(stage.where) == []

    stage.checks.meanwhile = [come_and_go]
    assert words(stage.one(), Ask("other", me())) == ["no-headroom"]


def test_a_load_that_failed_meanwhile_is_not_charged(stage: Stage) -> None:
    stage.reserve()
    stage.checks.meanwhile = [lambda: [stage.another().give_back(name[-16:]) for name in files(stage.where)]]
    assert words(stage.one(), Ask("other", me())) == ["Admitted"]
    assert stage.checks.runs == 2


def test_a_promise_that_was_made_anew_meanwhile_is_not_ended_by_an_older_check(stage: Stage) -> None:
    """x was loaded when the check ran; then it was unloaded, and its holder asked again and was told: admitted."""
    stage.reserve()
    stage.checks.loaded = True

    def unloaded_and_asked_again() -> None:
        stage.checks.loaded = False
        stage.reserve()

    stage.checks.meanwhile = [unloaded_and_asked_again]
    assert words(stage.one(), Ask("other", me())) == ["no-headroom"]
    assert len(files(stage.where)) == 1
    assert words(stage.one(), Ask("other", me())) == ["no-headroom"]


def test_a_check_that_says_loaded_is_believed_once_it_is_overtaken_by_nothing(stage: Stage) -> None:
    stage.checks.loaded = True
    assert is_loaded(decided(stage.one(), Ask("x", me()))[0])
    assert stage.checks.runs == 1


def test_a_removed_lock_hides_nothing_that_came_meanwhile(stage: Stage) -> None:
    """Its mark begins anew with it, and is still another one."""
    stage.reserve()
    stage.load()
    stage.checks.loaded = False

    def come_and_go() -> None:
        (stage.where / "lock").unlink()
        stage.reserve()
        stage.load()

    stage.checks.meanwhile = [come_and_go]
    assert words(stage.one(), Ask("other", me())) == ["no-headroom"]


def test_where_loads_come_and_go_without_end_nothing_is_decided(stage: Stage) -> None:
    def come_and_go() -> None:
        stage.reserve()
        for name in files(stage.where):
            stage.another().give_back(name[-16:])
        stage.checks.meanwhile.append(come_and_go)

    stage.checks.meanwhile = [come_and_go]
    answer = decided(stage.one(), Ask("other", me()))[0]
    assert word(answer) == "busy"
    assert stage.checks.runs == TRIES
    assert files(stage.where) == []


# The queue, in one process: priority, then arrival.


@pytest.fixture
def full(where: Path) -> Gate:
    """A gate with 400 MB left of 1,000."""
    one = gate(where)
    held(decided(one, Ask("first", me()))[0])
    return one


def free(one: Gate) -> None:
    for name in files(one.records.where):
        one.give_back(name[-16:])


def test_who_waits_is_told_his_place(full: Gate) -> None:
    answers = decided(full, *(Ask("second", wait_s=60.0, arrived_s=arrived) for arrived in (3.0, 1.0, 2.0)))
    assert [refused(answer).queue_position for answer in answers] == [3, 1, 2]
    (later,) = decided(full, Ask("second", wait_s=60.0, arrived_s=1.5))
    assert refused(later).queue_position == 2


def test_a_smaller_request_does_not_take_what_one_ahead_of_it_waits_for(full: Gate) -> None:
    assert decided(full, Ask("second", wait_s=60.0))[0].waiter
    free(full)
    assert words(full, Ask("first", me()), Ask("small", me())) == ["queued", "Admitted"]


def test_nor_in_the_same_look(where: Path) -> None:
    """Whoever is ahead is in the queue before those behind him are decided on."""
    declared = capacity(
        service("there", 500), service("large", 600, priority=1), service("small", 450), pool_mb=1_000, live_veto=False
    )
    one = gate(where, declared)
    held(decided(one, Ask("there", me()))[0])
    answers = decided(one, Ask("small", me()), Ask("large", me(), wait_s=60.0))
    assert [word(answer) for answer in answers] == ["queued", "no-headroom"]
    assert answers[1].waiter and refused(answers[1]).queue_position == 1


def test_what_will_never_fit_waits_for_nothing_and_holds_nobody_up(where: Path) -> None:
    declared = capacity(service("huge", 2_000, priority=9), service("small", 450), pool_mb=1_000, live_veto=False)
    answers = decided(gate(where, declared), Ask("huge", me(), wait_s=60.0), Ask("small", me()))
    assert [word(answer) for answer in answers] == ["too-large", "Admitted"]
    assert answers[0].waiter is None
    assert files(where, "waiting") == []


def test_a_place_is_left_where_the_file_makes_it_hopeless(full: Gate, where: Path) -> None:
    assert decided(full, Ask("second", me(), wait_s=60.0))[0].waiter
    smaller = capacity(service("first", 600), service("second", 601), pool_mb=600, live_veto=False)
    assert words(gate(where, smaller), Ask("second", me(), wait_s=60.0)) == ["too-large"]
    assert files(where, "waiting") == []


def test_who_is_admitted_leaves_the_queue(full: Gate, where: Path) -> None:
    waiter = decided(full, Ask("second", me(), wait_s=60.0))[0].waiter
    assert waiter and len(files(where, "waiting")) == 1
    free(full)
    assert words(full, Ask("second", me(), wait_s=60.0, waiter=waiter)) == ["Admitted"]
    assert files(where, "waiting") == []


def test_who_finds_it_loaded_leaves_the_queue(where: Path) -> None:
    table = FakeTable()
    one = gate(where, table=table)
    held(decided(one, Ask("first", me()))[0])
    decided(one, Ask("second", me(), wait_s=60.0))
    table.show("second")
    assert words(one, Ask("second", me(), wait_s=60.0)) == ["AlreadyLoaded"]
    assert files(where, "waiting") == []


def test_a_dry_run_ends_no_place(full: Gate, where: Path) -> None:
    decided(full, Ask("second", me(), wait_s=60.0))
    free(full)
    assert words(full, Ask("second", me(), dry_run=True)) == ["Admitted"]
    assert len(files(where, "waiting")) == 1


def test_the_same_holder_keeps_its_place_when_it_asks_anew(full: Gate, where: Path) -> None:
    """By another connection, or after the daemon was killed."""
    first = decided(full, Ask("second", me(), wait_s=60.0, arrived_s=1.0))[0]
    other = decided(full, Ask("second", wait_s=60.0, arrived_s=2.0))[0]
    again = decided(gate(where), Ask("second", me(), wait_s=60.0, arrived_s=3.0))[0]
    assert again.waiter == first.waiter
    assert [refused(answer).queue_position for answer in (first, other, again)] == [1, 2, 1]


def test_two_asks_of_one_holder_in_one_look_have_one_place(full: Gate, where: Path) -> None:
    answers = decided(full, Ask("second", me(), wait_s=60.0), Ask("second", me(), wait_s=60.0))
    assert answers[0].waiter == answers[1].waiter
    assert len(files(where, "waiting")) == 1


def test_a_place_whose_record_was_lost_is_the_same_place(full: Gate, where: Path) -> None:
    mine = Ask("second", wait_s=60.0, arrived_s=1.0)
    waiter = decided(full, mine)[0].waiter
    decided(full, Ask("second", wait_s=60.0, arrived_s=2.0))
    for name in files(where, "waiting"):
        if waiter and name.endswith(waiter):
            (where / name).unlink()
    assert refused(decided(full, replace(mine, waiter=waiter))[0]).queue_position == 1


def test_nobody_can_have_arrived_later_than_now(full: Gate) -> None:
    decided(full, Ask("second", wait_s=60.0, arrived_s=1e18))
    assert refused(decided(full, Ask("second", wait_s=60.0))[0]).queue_position == 2


def test_where_the_queue_cannot_be_written_it_is_a_plain_refusal(full: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(full.records, "_publish", full_disk)
    answer = decided(full, Ask("second", me(), wait_s=60.0))[0]
    assert (word(answer), answer.waiter) == ("no-headroom", None)


def test_who_waits_for_one_that_is_killed_is_gone(where: Path) -> None:
    """A place without a name lasts as long as the process that waits on its behalf."""

    def dead(pid: int) -> ProcessId:
        return ProcessId(pid, 1)

    owner = Reservations(where, dead, shared=False)
    one = gate(owner)
    made = held(decided(one, Ask("first"))[0])
    assert decided(one, Ask("second", wait_s=60.0))[0].waiter
    assert len(files(where, "waiting")) == 1
    assert reservations(where).standing(ROOM).waiters == ()
    assert reservations(where).standing(ROOM).reservations == (made,)


# Many at once: they share a look that began after each of them had asked.


@dataclass
class Slow:
    """A table whose look waits until it is let go on."""

    table: FakeTable = field(default_factory=FakeTable)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.table.on_look = self.wait

    def wait(self) -> None:
        self.started.release()
        assert self.go.acquire(timeout=20)

    async def under_way(self) -> None:
        """Wait until a look is under way."""
        assert await asyncio.to_thread(self.started.acquire, True, 20)


def flying(one: Gate, story: Callable[[Flight], object]) -> None:
    async def run() -> None:
        flight = Flight(one)
        try:
            await story(flight)  # type: ignore[misc]
        finally:
            flight.close()

    asyncio.run(run())


async def aboard(flight: Flight, many: int) -> None:
    """Wait until so many have boarded the next look."""
    while len(flight._boarding) < many:
        await asyncio.sleep(0)


def test_sixteen_who_ask_while_a_look_is_under_way_share_the_next_one(where: Path) -> None:
    slow = Slow()

    async def story(flight: Flight) -> None:
        first = asyncio.create_task(flight.look())
        await slow.under_way()
        others = [
            asyncio.create_task(flight.ask(Ask("small", dry_run=True)) if i % 2 else flight.look()) for i in range(16)
        ]
        await aboard(flight, 16)
        slow.go.release(2)
        await asyncio.gather(first, *others)
        assert len(slow.table.looks) == 2

    flying(gate(where, table=slow.table), story)


def test_every_answer_comes_from_a_look_that_began_after_its_request(where: Path) -> None:
    """Looks are numbered as they begin; two hundred requests come whenever they like."""
    table = FakeTable()
    one = gate(where, table=table)
    begun = 0

    def begin() -> None:
        nonlocal begun
        begun += 1
        table.shown = table.shown[:0]

    table.on_look = begin
    real = table.look
    table.look = lambda matcher, launchers=NOBODY: replace(real(matcher, launchers), count=begun)  # type: ignore[method-assign]

    async def story(flight: Flight) -> None:
        async def client(number: int) -> None:
            for _ in range(20):
                await asyncio.sleep(0 if number % 3 else 0.001 * number)
                before = begun
                scene: Scene | None
                if number % 2:
                    scene = await flight.look()
                else:
                    _, scene = await flight.ask(Ask("small", dry_run=True))
                assert scene is not None and scene.look.count > before

        await asyncio.gather(*(client(number) for number in range(10)))
        assert begun < 200

    flying(one, story)


def test_two_who_meet_in_one_flight_are_decided_by_priority(where: Path) -> None:
    declared = capacity(service("low", 600), service("high", 600, priority=1), pool_mb=1_000, live_veto=False)
    slow = Slow()

    async def story(flight: Flight) -> None:
        looking = asyncio.create_task(flight.look())
        await slow.under_way()
        low = asyncio.create_task(flight.ask(Ask("low", me())))
        await aboard(flight, 1)
        high = asyncio.create_task(flight.ask(Ask("high", me())))
        await aboard(flight, 2)
        slow.go.release(2)
        await looking
        assert [word((await each)[0]) for each in (low, high)] == ["no-headroom", "Admitted"]

    flying(gate(where, declared, slow.table), story)


def test_one_that_is_not_declared_disturbs_nobody(where: Path) -> None:
    async def story(flight: Flight) -> None:
        good, bad = await asyncio.gather(
            flight.ask(Ask("first", me())), flight.ask(Ask("frist")), return_exceptions=True
        )
        assert isinstance(bad, Unknown)
        assert not isinstance(good, BaseException) and word(good[0]) == "Admitted"

    flying(gate(where), story)


def test_a_fault_reaches_all_who_wait_and_nobody_after_them(where: Path) -> None:
    table = FakeTable()

    def fail() -> None:
        table.on_look = lambda: None
        raise ZeroDivisionError

    table.on_look = fail

    async def story(flight: Flight) -> None:
        wishes = [flight.look(), flight.ask(Ask("first", me())), flight.ask(Ask("small", dry_run=True))]
        told = await asyncio.gather(*wishes, return_exceptions=True)
        assert [type(each) for each in told] == [ZeroDivisionError] * 3
        assert word((await flight.ask(Ask("first", me())))[0]) == "Admitted"

    flying(gate(where, table=table), story)


def test_where_nothing_can_be_seen_those_who_ask_are_refused_and_those_who_look_are_told(where: Path) -> None:
    def fail() -> None:
        raise CannotSee("no /proc")

    async def story(flight: Flight) -> None:
        wishes = [flight.look(), flight.ask(Ask("first", me())), flight.look()]
        look, answer, other = await asyncio.gather(*wishes, return_exceptions=True)
        assert isinstance(look, CannotSee) and isinstance(other, CannotSee)
        assert isinstance(answer, tuple) and word(answer[0]) == "unseen"

    flying(gate(where, table=FakeTable(on_look=fail)), story)


def test_who_has_gone_before_the_look_is_not_decided_for(where: Path) -> None:
    slow = Slow()

    async def story(flight: Flight) -> None:
        looking = asyncio.create_task(flight.look())
        await slow.under_way()
        gone, stays = (asyncio.create_task(flight.ask(Ask(name, me()))) for name in ("first", "second"))
        await aboard(flight, 2)
        gone.cancel()
        slow.go.release(2)
        await looking
        answer, _ = await stays
        assert word(answer) == "Admitted"

    flying(gate(where, table=slow.table), story)


@pytest.mark.parametrize("named", [False, True])
def test_who_goes_while_he_is_decided_for_hurts_nobody(where: Path, named: bool) -> None:
    """What was reserved for one without a name is given back: nobody was told of it. A holder may ask again."""
    slow = Slow()
    one = gate(where, table=slow.table)

    async def story(flight: Flight) -> None:
        gone = asyncio.create_task(flight.ask(Ask("first", me() if named else None)))
        await slow.under_way()
        looking = asyncio.create_task(flight.look())
        await aboard(flight, 1)
        gone.cancel()
        slow.go.release(2)
        scene = await looking
        assert [each.service for each in scene.ledger.reservations] == (["first"] if named else [])
        again = asyncio.create_task(flight.ask(Ask("first", me())))
        slow.go.release()
        answer, _ = await again
        assert isinstance(answer.verdict, Admitted)

    flying(one, story)


def test_a_place_in_the_queue_of_one_who_has_gone_is_given_back(where: Path) -> None:
    slow = Slow()
    one = gate(where, table=slow.table)
    slow.go.release(2)
    held(decided(one, Ask("first", me()))[0])
    slow.started = threading.Semaphore(0)
    slow.go = threading.Semaphore(0)

    async def story(flight: Flight) -> None:
        gone = asyncio.create_task(flight.ask(Ask("second", wait_s=60.0)))
        await slow.under_way()
        looking = asyncio.create_task(flight.look())
        await aboard(flight, 1)
        gone.cancel()
        slow.go.release(2)
        assert (await looking).ledger.waiters == ()

    flying(one, story)


def test_giving_back_while_a_look_is_under_way_waits_for_it(where: Path) -> None:
    slow = Slow()
    one = gate(where, table=slow.table)
    slow.go.release()
    made = held(decided(one, Ask("first", me()))[0])
    slow.started = threading.Semaphore(0)

    async def story(flight: Flight) -> None:
        looking = asyncio.create_task(flight.look())
        await slow.under_way()
        giving = asyncio.create_task(flight.give_back(made.id))
        slow.go.release(2)
        assert (await looking).ledger.reservations == (made,)
        assert await giving
        assert (await flight.look()).ledger.reservations == ()

    flying(one, story)


def test_a_pattern_of_the_safelist_is_matched_beside_a_service_of_any_name() -> None:
    both = capacity(service("safelist..0"), service("x"))
    declared = replace(both, sentinel=Sentinel(safelist=("x", "qemu", "WindowServer")))
    named = {entry: claim.name for entry, claim in safelist.services_of(declared).items()}
    assert named == {"qemu": "safelist..1", "WindowServer": "safelist..2"}
