"""Pressure: what it is called, who is told, how often it is looked at, and that being critical really frees a tenth."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from admit_sdk import Exhausted, MemoryGovernor, Pressure
from admitd.core import governing
from admitd.core.terms import RAM, Level, ProcessId, Reading
from admitd.core.verdict import Reason
from tests.daemons import ROOT
from tests.gates import until
from tests.sdk.candidates import Model, unload_all

LOW, NORMAL, HIGH, CRITICAL = Pressure.LOW, Pressure.NORMAL, Pressure.HIGH, Pressure.CRITICAL


class System:
    """What a machine says of its memory, as a test wants it."""

    def __init__(self, level: Level | None = Level.NORMAL, available: int = 100) -> None:
        self.level = level
        self.available = available

    def physical(self) -> int:
        return 100

    def reading(self) -> Reading:
        return Reading({RAM: self.available}, self.level, "the test says so")

    def footprint(self, processes: Sequence[ProcessId], enough: int) -> int | None:
        return None

    def peak(self, process: ProcessId) -> int | None:
        return None


# The rules.


@pytest.mark.parametrize(
    ("allocated", "soft", "level", "expected"),
    [
        (0, 1_000, Level.NORMAL, LOW),
        (499, 1_000, None, LOW),
        (500, 1_000, Level.NORMAL, NORMAL),
        (799, 1_000, Level.NORMAL, NORMAL),
        (800, 1_000, Level.NORMAL, HIGH),
        (949, 1_000, None, HIGH),
        (950, 1_000, Level.NORMAL, CRITICAL),
        (600, 600, Level.NORMAL, HIGH),
        (599, 600, Level.NORMAL, NORMAL),
        (0, 1_000, Level.WARN, HIGH),
        (0, 1_000, Level.CRITICAL, CRITICAL),
        (950, 1_000, Level.WARN, CRITICAL),
    ],
)
def test_pressure_is_the_worse_of_what_is_allocated_and_what_the_system_says(
    allocated: int, soft: int, level: Level | None, expected: Pressure
) -> None:
    assert governing.pressure_of(allocated, 1_000, soft, level) is expected


def test_the_words_are_ordered() -> None:
    assert LOW < NORMAL < HIGH < CRITICAL
    assert [each.word for each in Pressure] == ["low", "normal", "high", "critical"]


@pytest.mark.parametrize(
    ("before", "allocated", "expected"),
    [(LOW, 800, HIGH), (HIGH, 799, HIGH), (HIGH, 751, HIGH), (HIGH, 749, NORMAL), (CRITICAL, 400, LOW), (LOW, 0, LOW)],
)
def test_pressure_rises_at_once_and_falls_with_a_margin(before: Pressure, allocated: int, expected: Pressure) -> None:
    assert governing.settled(before, allocated, 1_000, 1_000, Level.NORMAL) is expected


@pytest.mark.parametrize("soft", [1_000, 900, 600, 300])
@pytest.mark.parametrize("now", [LOW, NORMAL, HIGH])
def test_the_alarm_is_the_first_byte_of_the_next_pressure(now: Pressure, soft: int) -> None:
    free = governing.alarm(now, 1_000, soft)
    assert governing.pressure_of(1_000 - free, 1_000, soft, None) <= now
    assert governing.pressure_of(1_000 - free + 1, 1_000, soft, None) > now
    assert governing.alarm(CRITICAL, 1_000, soft) == -1


def test_it_is_looked_at_more_often_the_less_is_left() -> None:
    intervals = [governing.interval_s(share) for share in (1.0, 0.5, 0.3, 0.1, 0.05, 0.0, -0.1)]
    assert intervals == sorted(intervals, reverse=True)
    assert (intervals[0], intervals[-1]) == (governing.LONGEST_S, governing.SHORTEST_S)


# Telling.


def test_whoever_listens_is_told_of_each_change_once_and_why() -> None:
    system = System()
    told: list[tuple[Pressure, str]] = []
    governor = MemoryGovernor(1_000, name="chat", memory=system, watch=False)
    end = governor.on_pressure(lambda pressure, why: told.append((pressure, why)))

    governor.look()
    with governor.try_allocate(850):
        governor.look()
        governor.look()
    governor.look()
    system.level = Level.WARN
    governor.look()
    end()
    system.level = Level.NORMAL
    governor.look()

    assert told == [
        (HIGH, "85% of chat's limit is allocated; the test says so"),
        (LOW, "0% of chat's limit is allocated; the test says so"),
        (HIGH, "0% of chat's limit is allocated; the test says so"),
    ]


def test_a_listener_that_fails_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Pressure] = []
    governor = MemoryGovernor(1_000, memory=System(Level.WARN), watch=False)

    def fails(pressure: Pressure, why: str) -> None:
        raise KeyError

    governor.on_pressure(fails)
    governor.on_pressure(lambda pressure, why: told.append(pressure))
    governor.look()
    assert told == [HIGH]
    assert "a listener for pressure failed" in caplog.text


def test_the_interval_goes_by_the_system_too() -> None:
    assert MemoryGovernor(1_000, memory=System(available=5), watch=False).look() == pytest.approx(0.5)
    assert MemoryGovernor(1_000, memory=System(available=100), watch=False).look() == governing.LONGEST_S


def test_a_watch_sees_at_once_that_much_was_taken() -> None:
    """Its next look would come in five seconds: who takes much rings it."""
    told: list[Pressure] = []
    seen = threading.Event()
    with MemoryGovernor(1_000, memory=System()) as governor:
        governor.on_pressure(lambda pressure, why: (told.append(pressure), seen.set()))
        governor.try_allocate(1).release()
        until(lambda: governor._alarm > 0)
        with governor.try_allocate(960):
            assert governor.pressure is CRITICAL
            assert seen.wait(60)
            assert told == [CRITICAL]


def test_the_real_system_can_be_asked() -> None:
    with MemoryGovernor(1_000) as governor:
        assert governing.SHORTEST_S <= governor.look() <= governing.LONGEST_S


# Acting.


def test_high_pressure_refuses_what_is_eager_and_nothing_else() -> None:
    governor = MemoryGovernor(1_000, memory=System(), watch=False)
    governor.try_allocate(1, eager=True).release()
    with governor.try_allocate(800):
        with pytest.raises(Exhausted, match="the pressure is high, so nothing is loaded ahead of need") as refused:
            governor.try_allocate(1, holder="gemma", eager=True)
        assert refused.value.reason is Reason.PRESSURE
        governor.try_allocate(1).release()


def test_before_anybody_has_looked_the_system_is_asked() -> None:
    system = System(Level.WARN)
    governor = MemoryGovernor(1_000, memory=system, watch=False)
    assert governor.pressure is HIGH
    with pytest.raises(Exhausted, match="the pressure is high, so nothing is loaded ahead of need"):
        governor.try_allocate(1, eager=True)
    system.level = Level.NORMAL
    governor.try_allocate(1, eager=True).release()
    assert governor.pressure is LOW
    governor.look()
    system.level = Level.CRITICAL
    assert governor.pressure is LOW  # what it said at the last look stands until the next one


def test_critical_pressure_frees_a_tenth_of_what_is_allocated_least_recently_used_first() -> None:
    governor = MemoryGovernor(1_000, memory=System(), watch=False)
    models = [Model(governor, f"m{used}", 96, used) for used in range(10)]
    models[0].busy = True
    models[1].eager = True

    governor.look()
    assert governor.evictions.pending == 1
    governor.look()
    assert governor.evictions.pending == 1  # one act, then its effect is waited for
    assert governor.evictions.work_off() == 1

    assert [each.name for each in models if each.evicted] == ["m2"]
    assert governor.allocated_bytes == 9 * 96
    unload_all(governor)


def test_where_a_tenth_cannot_be_had_what_there_is_goes(caplog: pytest.LogCaptureFixture) -> None:
    governor = MemoryGovernor(1_000, memory=System(), watch=False)
    with governor.try_allocate(950):
        model = Model(governor, "eager", 10, eager=True)
        governor.look()
        assert governor.evictions.work_off() == 1
    assert model.guard.released
    assert "eager was loaded eagerly and is unloaded all the same: the pressure is critical" in caplog.text


def test_the_maintenance_thread_unloads_by_itself() -> None:
    system = System()
    with MemoryGovernor(1_000, memory=system) as governor:
        model = Model(governor, "idle", 400)
        system.level = Level.CRITICAL
        governor.ring_below(1_000)
        governor.try_allocate(1).release()  # rings the watch
        until(lambda: model.evicted, 60)
        until(lambda: governor.allocated_bytes == 0)


def test_who_became_busy_since_is_spared_and_may_be_chosen_again() -> None:
    governor = MemoryGovernor(1_000, memory=System(), watch=False)
    model = Model(governor, "idle", 400)
    assert governor.evictions.put([model], "the test wants it") == 1
    assert governor.evictions.put([model], "the test wants it") == 0
    assert governor.evictions.plan(1) is None  # it is on its way already
    model.busy = True

    assert governor.evictions.work_off() == 0
    assert (model.evicted, governor.evictions.pending) == (0, 0)
    model.busy = False
    assert governor.evictions.plan(1) == (model,)
    unload_all(governor)


def test_a_busy_one_is_spared_even_where_it_does_not_look_itself() -> None:
    seen: list[str] = []

    class Careless(Model):
        def evict(self) -> bool:
            seen.append(self.name)
            return True

    governor = MemoryGovernor(1_000, memory=System(), watch=False)
    model = Careless(governor, "idle", 400)
    governor.evictions.put([model], "the test wants it")
    model.busy = True
    assert (governor.evictions.work_off(), seen) == (0, [])
    governor.evictions.unregister(model)
    model.guard.release()


def test_one_that_cannot_be_unloaded_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    governor = MemoryGovernor(1_000, memory=System(), watch=False)
    stuck, fine = Model(governor, "stuck", 400), Model(governor, "fine", 400)
    stuck.fault = OSError("no")
    governor.evictions.put([stuck, fine], "the test wants it")
    assert governor.evictions.work_off() == 1
    assert (fine.evicted, stuck.evicted, governor.evictions.pending) == (1, 0, 0)
    assert "stuck could not be unloaded" in caplog.text
    unload_all(governor)


def test_one_that_cannot_be_read_is_not_chosen(caplog: pytest.LogCaptureFixture) -> None:
    governor = MemoryGovernor(1_000, memory=System(), watch=False)

    class Broken:
        name, last_used_s, eager, busy = "broken", 0.0, False, False

        @property
        def size_bytes(self) -> int:
            raise KeyError

        def evict(self) -> bool:
            raise AssertionError

    governor.evictions.register(Broken())
    model = Model(governor, "fine", 400)
    assert governor.evictions.plan(400) == (model,)
    assert "could not be read" in caplog.text
    governor.evictions.unregister(model)
    assert governor.evictions.plan(400) is None
    model.guard.release()


def test_working_off_waits_for_something_to_come() -> None:
    governor = MemoryGovernor(1_000, memory=System(), watch=False)
    model = Model(governor, "idle", 400)
    gone: list[int] = []
    thread = threading.Thread(target=lambda: gone.append(governor.evictions.work_off(60)))
    thread.start()
    governor.evictions.put([model], "the test wants it")
    thread.join(60)
    assert gone == [1]


# The end.

LIVES = """
import sys, time, threading
from admit_sdk import MemoryGovernor
from tests.sdk.candidates import Model
governor = MemoryGovernor(1_000)
class Slow(Model):
    def evict(self):
        begun.set()
        time.sleep(1_000)
begun = threading.Event()
model = Slow(governor, "slow", 960)
governor.on_pressure(lambda pressure, why: time.sleep(1_000))
if sys.argv[1] == "evicting":
    governor.evictions.put([model], "the test wants it")
    begun.wait()
else:
    while not any(each.name.startswith("admit-pressure") for each in threading.enumerate()):
        time.sleep(0.001)
model.guard.release()
print(flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("doing", ["looking", "evicting"])
def test_the_interpreter_ends_whatever_the_threads_are_doing(doing: str) -> None:
    """Even in the middle of a turn that would take a quarter of an hour."""
    command = [sys.executable, "-c", LIVES, doing]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    process.stdout.readline()
    _, said = process.communicate(b"\n", timeout=60)
    assert (process.returncode, said) == (0, b"")


def test_closing_ends_the_threads_and_the_governor_goes_on_without_them() -> None:
    governor = MemoryGovernor(1_000, name="closes")
    model = Model(governor, "idle", 100)
    governor.evictions.put([model], "the test wants it")
    until(lambda: model.evicted)
    assert governor.close(60)
    assert not [each.name for each in threading.enumerate() if each.name.endswith("-closes")]
    governor.try_allocate(1).release()


def test_a_turn_that_fails_is_told_and_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    from admit_sdk.rounds import Rounds

    turns: list[float] = []

    class Owner:
        pass

    def turn(owner: Owner) -> float:
        turns.append(time.monotonic())
        if len(turns) == 1:
            raise KeyError
        return 1_000.0

    owner = Owner()
    rounds = Rounds("rounds-that-fail", owner, turn)
    with caplog.at_level(logging.ERROR):
        rounds.start()
        until(lambda: len(turns) == 2)
    assert "rounds-that-fail goes on after a fault" in caplog.text
    assert rounds.stop(60)
