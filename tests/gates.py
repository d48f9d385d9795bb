"""gates: a gate whose processes, memory and checks are what a test says; its reservations and its lock are real."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from admitd.core.terms import Capacity, Check, Command, Process, ProcessId, Reading, Reservation, Service, Sighting
from admitd.core.verdict import Admitted, AlreadyLoaded, Refused
from admitd.gate import Answer, Ask, Gate, RunChecks, Unknown
from admitd.processes.linux import LinuxTable
from admitd.processes.matching import Judgement, Matcher
from admitd.processes.table import NOBODY, Launchers, Look
from admitd.reservations import Reservations
from tests.core.worlds import capacity, service

REAL = LinuxTable()
"""Tells who lives; it is never asked to look, so it starts no thread."""
PATIENCE_S = 20.0

ROOM = capacity(service("first", 600), service("second", 600), service("small", 300), pool_mb=1_000, live_veto=False)
"""Room for one of the two large ones, and then for the small one."""


def me() -> ProcessId:
    """This process."""
    found = REAL.identify(os.getpid())
    assert found is not None
    return found


@dataclass
class FakeTable:
    """A process table that shows what it is told to show. `on_look` is called inside each look."""

    shown: list[Sighting] = field(default_factory=list)
    on_look: Callable[[], None] = lambda: None
    looks: list[float] = field(default_factory=list)
    launchers: Launchers = field(default_factory=dict)

    def look(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
        self.looks.append(time.monotonic())
        self.launchers = launchers
        self.on_look()
        return Look(len(self.shown), tuple(self.shown))

    glance = look

    def identify(self, pid: int) -> ProcessId | None:
        return REAL.identify(pid)

    def again(self, process: Process, matcher: Matcher) -> Judgement | None:
        return None

    def show(self, name: str, pid: int = 1) -> None:
        self.shown.append(Sighting(name, Process(ProcessId(pid, 1), os.getuid())))

    def hide(self, name: str) -> None:
        self.shown = [each for each in self.shown if each.service != name]


class Undisturbed(LinuxTable):
    """The real table, without those of other people's processes that happen to be stalled: they would be charged."""

    def look(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
        return replace(super().look(matcher, launchers), unread=())


class Quiet:
    """A memory that says nothing."""

    def physical(self) -> int:
        raise OSError

    def reading(self) -> Reading:
        return Reading()

    def footprint(self, processes: Sequence[ProcessId], enough: int) -> int | None:
        return None

    def peak(self, process: ProcessId) -> int | None:
        return None

    def group_peak(self, processes: Sequence[ProcessId]) -> int | None:
        return None


def no_checks(commands: Mapping[str, Command]) -> Mapping[str, Check]:
    raise AssertionError(f"no check is to run here, and not {', '.join(commands)}")


def reservations(where: Path) -> Reservations:
    """The records at `where`, as one more process would open them."""
    return Reservations(where, REAL.identify, shared=False)


def gate(
    where: Path | Reservations,
    declared: Capacity = ROOM,
    table: FakeTable | None = None,
    run_checks: RunChecks = no_checks,
) -> Gate:
    records = where if isinstance(where, Reservations) else reservations(where)
    return Gate(lambda: (declared, ()), table or FakeTable(), Quiet(), records, run_checks)


def decided(gate: Gate, *asks: Ask) -> list[Answer]:
    answers, _ = gate.decide(asks)
    assert not any(isinstance(answer, Unknown) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Answer)]


def word(answer: Answer | Unknown) -> str:
    """Admitted, AlreadyLoaded, Unknown, or the reason of a refusal."""
    if isinstance(answer, Answer) and isinstance(answer.verdict, Refused):
        return answer.verdict.reason.value
    return type(answer.verdict).__name__ if isinstance(answer, Answer) else "Unknown"


def words(gate: Gate, *asks: Ask) -> list[str]:
    return [word(answer) for answer in gate.decide(asks)[0]]


def held(answer: Answer) -> Reservation:
    assert isinstance(answer.verdict, Admitted), answer.verdict
    assert answer.verdict.reservation is not None
    return answer.verdict.reservation


def refused(answer: Answer) -> Refused:
    assert isinstance(answer.verdict, Refused), answer.verdict
    return answer.verdict


def is_loaded(answer: Answer) -> bool:
    return isinstance(answer.verdict, AlreadyLoaded)


def until(what: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait for something that no event tells of, looking often. It fails when it does not come."""
    give_up = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < give_up, "it did not happen"
        select.select([], [], [], 0.005)


def files(where: Path, kind: str = "held") -> list[str]:
    """The names of the records of one kind."""
    return sorted(name for name in os.listdir(where) if name.startswith(f"{kind}~"))


def one_service(**fields: object) -> tuple[Service, Capacity]:
    declared = capacity(service("x", 600, **fields), pool_mb=1_000, live_veto=False)
    return declared.services["x"], declared
