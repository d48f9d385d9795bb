"""condition: what is known of a service because somebody keeps watching it, beside what one look shows: whether it
works, whether its probe is answered, the most it was seen to hold; and how the whole machine's memory went. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from admitd.core import headroom
from admitd.core.ledger import Account, Ledger
from admitd.core.probing import Course
from admitd.core.terms import NOTHING, Amounts, Level, ProcessId, Reading, Service

SAMPLE_EVERY_S: Final = 10.0
SAMPLES_MAX: Final = 360
"""An hour, in some 350 KB."""


class Working(Protocol):
    """What is known of one service's activity. `busy` None: unknown, which counts as busy."""

    @property
    def busy(self) -> bool | None: ...
    @property
    def last_active_s(self) -> float | None: ...
    @property
    def detail(self) -> str: ...


class Answering(StrEnum):
    """What a service's probe came to."""

    UNASKED = "unasked"
    ANSWERS = "answers"
    BUSY = "busy"
    SILENT = "silent"
    RECOVERING = "recovering"
    LEFT_ALONE = "left_alone"


@dataclass(frozen=True, slots=True)
class Condition:
    """`active_s_ago` None: it was there before anyone looked, and never seen working. `probe` None: it has none, or is
    not loaded. `failures`: of its probe, in a row. `peak`: the most that was measured since it started; None where
    nothing was. `half`: why it counts as half loaded though its process is there; empty where it does not."""

    busy: bool | None
    active_s_ago: float | None
    activity: str
    probe: Answering | None
    failures: int
    peak: Amounts | None
    half: str = ""


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that these processes were seen to hold together."""

    ids: frozenset[ProcessId]
    most: Amounts


def peaks(before: Mapping[str, Peak], accounts: Iterable[Account]) -> dict[str, Peak]:
    """The peaks after one more look. Where every process is another than before, it begins anew."""
    after = {}
    for account in accounts:
        if account.measured is None or not account.processes:
            continue
        ids = frozenset(process.id for process in account.processes)
        known = before.get(account.service.name)
        most = known.most if known is not None and known.ids & ids else NOTHING
        after[account.service.name] = Peak(ids, headroom.larger(account.measured, most))
    return after


def answering(service: Service, course: Course | None, *, recovering: bool) -> Answering | None:
    """What its probe came to, in a word; the first that applies."""
    if recovering:
        return Answering.RECOVERING
    if service.probe is None or course is None or not course.ids:
        return Answering.LEFT_ALONE if course is not None and course.told else None
    if course.told:
        return Answering.LEFT_ALONE
    if course.failures:
        return Answering.SILENT
    if course.busy:
        return Answering.BUSY
    return Answering.ANSWERS if course.answered_once else Answering.UNASKED


def condition(
    now: float,
    known: Working | None,
    probe: Answering | None,
    course: Course | None,
    peak: Peak | None,
    half: str = "",
) -> Condition:
    """All of it together; `now` is of the clock by which `known` says when it was last active."""
    last = None if known is None else known.last_active_s
    return Condition(
        None if known is None else known.busy,
        None if last is None else max(0.0, now - last),
        "not looked at yet" if known is None else known.detail,
        probe,
        course.failures if course is not None else 0,
        None if peak is None else peak.most,
        half,
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """The machine's memory at one moment. `at` is the wall clock's word; `measured`: what the services really hold."""

    at: float
    charged: Amounts
    free: Amounts
    measured: Amounts
    available: Amounts | None
    level: Level | None


def sample(at: float, ledger: Ledger, reading: Reading) -> Sample:
    """What is kept of one look."""
    measured = headroom.total(account.measured or NOTHING for account in ledger.accounts.values())
    return Sample(at, ledger.charged, ledger.free, measured, reading.available, reading.level)
