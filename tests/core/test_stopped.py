"""Who is woken, and who is left alone: rows of one look after another, by a clock of paper."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from admitd.core import stopped
from admitd.core.acts import Act, Tell, Wake
from admitd.core.stopped import Memory, Safelisted
from admitd.core.terms import Level, Process, ProcessId

QEMU = ProcessId(70, 1)


def seen(*, stands: bool = True, traced: bool = False, starved: bool = False, id: ProcessId = QEMU) -> Safelisted:
    return Safelisted(Process(id, 501, stopped=stands, traced=traced), "qemu", "qemu", starved)


def word(act: Act) -> str:
    return "wake" if isinstance(act, Wake) else act.event.kind if isinstance(act, Tell) else "?"


@dataclass(frozen=True)
class At:
    """One look at `now`."""

    now: float
    what: Safelisted | None = None
    level: Level | None = None


RUNS, STANDS = seen(stands=False), seen()

ROWS = [
    ("it runs", [At(0, RUNS), At(10, RUNS)], []),
    ("it stands", [At(0, RUNS), At(10, STANDS)], ["10 wake"]),
    ("it stands at the first look", [At(0, STANDS)], ["0 wake"]),
    ("a debugger holds it", [At(0, seen(traced=True)), At(10, seen(traced=True))], []),
    ("traced, and not stopped by a signal", [At(0, seen(stands=False, traced=True))], []),
    ("it was woken and runs", [At(0, STANDS), At(1, RUNS), At(100, RUNS)], ["0 wake"]),
    ("half a second later it stands again: not yet", [At(0, STANDS), At(0.5, STANDS)], ["0 wake"]),
    ("a second later", [At(0, STANDS), At(1, STANDS)], ["0 wake", "1 wake"]),
    ("the second pause is 5 s", [At(0, STANDS), At(1, STANDS), At(5.9, STANDS)], ["0 wake", "1 wake"]),
    ("and then over", [At(0, STANDS), At(1, STANDS), At(6, STANDS)], ["0 wake", "1 wake", "6 wake"]),
    ("the third is 30 s, and then someone means it",
     [At(0, STANDS), At(1, STANDS), At(6, STANDS), At(35, STANDS), At(36, STANDS)],
     ["0 wake", "1 wake", "6 wake", "36 gave_up_waking"]),
    ("that is told once",
     [At(0, STANDS), At(1, STANDS), At(6, STANDS), At(36, STANDS), At(37, STANDS), At(5000, STANDS)],
     ["0 wake", "1 wake", "6 wake", "36 gave_up_waking"]),
    ("given up, and someone continues it: it is watched again",
     [At(0, STANDS), At(1, STANDS), At(6, STANDS), At(36, STANDS), At(700, RUNS), At(710, STANDS)],
     ["0 wake", "1 wake", "6 wake", "36 gave_up_waking", "710 wake"]),
    ("three times in ten minutes, with hours of running between",
     [At(0, STANDS), At(10, RUNS), At(200, STANDS), At(210, RUNS), At(400, STANDS), At(410, RUNS), At(599, STANDS)],
     ["0 wake", "200 wake", "400 wake", "599 gave_up_waking"]),
    ("the fourth comes after the first is ten minutes old",
     [At(0, STANDS), At(10, RUNS), At(200, STANDS), At(210, RUNS), At(400, STANDS), At(410, RUNS), At(600, STANDS)],
     ["0 wake", "200 wake", "400 wake", "600 wake"]),
    ("critical pressure: told once, not woken",
     [At(0, STANDS, Level.CRITICAL), At(10, STANDS, Level.CRITICAL)], ["0 stopped"]),
    ("woken when it is over", [At(0, STANDS, Level.CRITICAL), At(10, STANDS, Level.WARN)], ["0 stopped", "10 wake"]),
    ("pressure that only warns", [At(0, STANDS, Level.WARN)], ["0 wake"]),
    ("pressure that the system does not tell", [At(0, STANDS, None)], ["0 wake"]),
    ("the pid is another process now", [At(0, STANDS), At(0.5, seen(id=ProcessId(70, 2)))], ["0 wake", "0.5 wake"]),
    ("it is gone", [At(0, STANDS), At(1)], ["0 wake"]),
    ("macOS parked it, which ps does not show", [At(0, seen(stands=False, starved=True))], ["0 wake"]),
    ("and the flag stays after it was woken",
     [At(0, seen(stands=False, starved=True)), At(60, seen(stands=False, starved=True)),
      At(900, seen(stands=False, starved=True))], ["0 wake"]),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "asked"), [pytest.param(looks, asked, id=why) for why, looks, asked in ROWS])
def test_who_is_woken(looks: list[At], asked: list[str]) -> None:
    memory = Memory()
    found = []
    for look in looks:
        memory, acts = stopped.step(memory, look.now, [look.what] if look.what else [], look.level)
        found += [f"{look.now:g} {word(act)}" for act in acts]
    assert found == asked


def test_the_time_that_it_stood_counts_from_the_last_look_that_saw_it_run() -> None:
    memory, _ = stopped.step(Memory(), 100.0, [RUNS], None)
    _, acts = stopped.step(memory, 108.0, [STANDS], None)
    assert acts == (Wake(STANDS.process, "qemu", "qemu", 8.0),)


def test_what_the_system_does_not_let_be_woken_is_not_tried_again() -> None:
    memory, _ = stopped.step(Memory(), 0.0, [STANDS], None)
    memory = stopped.refused(memory, QEMU)
    assert stopped.step(memory, 60.0, [STANDS], None)[1] == ()
    assert stopped.refused(Memory(), QEMU) == Memory()


def test_each_process_has_its_own_course() -> None:
    other = seen(id=ProcessId(71, 1))
    memory, _ = stopped.step(Memory(), 0.0, [STANDS, RUNS], None)
    _, acts = stopped.step(memory, 0.5, [STANDS, other], None)
    assert [act.process.id.pid for act in acts if isinstance(act, Wake)] == [71]


def test_the_clock_of_a_machine_that_slept_ends_no_pause_too_early() -> None:
    """`now` is monotonic: it never runs back; a jump forward is a long pause, and no more."""
    memory, _ = stopped.step(Memory(), 0.0, [STANDS], None)
    _, acts = stopped.step(memory, 1e6, [STANDS], None)
    assert [word(act) for act in acts] == ["wake"]


def test_what_is_told_names_the_command_and_the_time() -> None:
    _, acts = stopped.step(Memory(), 0.0, [STANDS], Level.CRITICAL)
    told = acts[0]
    assert isinstance(told, Tell)
    assert "is stopped (state T)" in told.event.text
    assert told.event.next == "kill -CONT 70"
