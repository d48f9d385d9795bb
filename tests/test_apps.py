"""What is kept for an app: renewed whatever the system says by then, and made larger by what is new only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from admitd.apps import AppGate
from admitd.core.terms import Level, ProcessId, Reading
from admitd.core.verdict import Reason, Refused
from tests.core.worlds import MB, capacity, ram
from tests.gates import FakeTable, Quiet, me, no_checks, reservations


class System(Quiet):
    """What it has available, and what each app is seen to hold; MB, None: it does not say."""

    available_mb = 13_000
    level = Level.NORMAL
    seen_mb: int | None = 0

    def reading(self) -> Reading:
        return Reading(ram(self.available_mb), self.level, "7% available")

    def footprint(self, processes: Sequence[ProcessId], enough: int) -> int | None:
        return None if self.seen_mb is None else self.seen_mb * MB


class Stage:
    """A pool of 16,000 MB and a safety floor of 4,096, under the live veto."""

    def __init__(self, where: Path) -> None:
        self.system = System()
        declared = capacity(pool_mb=16_000)
        self.gate = AppGate(lambda: (declared, ()), FakeTable(), self.system, reservations(where), no_checks)

    def keep(self, budget_mb: int, held_mb: int = 0, name: str = "chat") -> int | Refused:
        """MB that are kept now, or the refusal."""
        told = self.gate.keep(name, me(), budget_mb * MB, held_mb * MB)
        return told if isinstance(told, Refused) else told.budget // MB

    def kept(self) -> list[int]:
        return [each.budget // MB for each in self.gate.apps()]

    def loads(self, megabytes: int) -> None:
        """The app fills what was kept for it."""
        self.system.available_mb -= megabytes
        self.system.seen_mb = megabytes


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "state")


def refused(told: int | Refused) -> Refused:
    assert isinstance(told, Refused), told
    return told


@pytest.mark.parametrize("level", [Level.NORMAL, Level.WARN, Level.CRITICAL])
@pytest.mark.parametrize("budget_mb", [8_000, 7_000])
def test_what_was_kept_is_renewed_whatever_the_system_says_by_then(stage: Stage, level: Level, budget_mb: int) -> None:
    assert stage.keep(8_000) == 8_000
    stage.loads(8_000)
    stage.system.available_mb, stage.system.level = 100, level
    assert stage.keep(budget_mb, 8_000) == budget_mb
    assert stage.kept() == [budget_mb]


@pytest.mark.parametrize("seen_mb", [8_000, 8_300, None], ids=["seen", "with its heap", "not to be seen"])
def test_growth_needs_only_what_is_new(stage: Stage, seen_mb: int | None) -> None:
    assert stage.keep(8_000) == 8_000
    stage.loads(8_000)
    stage.system.seen_mb = seen_mb
    assert stage.keep(8_904, 8_000) == 8_904  # 5,000 available, 4,096 of them the floor
    short = refused(stage.keep(9_905, 8_904))
    assert (short.reason, stage.kept()) == (Reason.NO_AVAILABLE_MEMORY, [8_904])


def test_a_refusal_of_growth_says_what_is_in_use_already(stage: Stage) -> None:
    assert stage.keep(8_000) == 8_000
    stage.loads(8_000)
    short = refused(stage.keep(9_000, 8_000))
    assert "chat needs 9000 MB, 8000 MB of it in use already, and fits the pool" in short.message
    assert "5000 MB available, 904 MB of it beyond the safety floor" in short.message
    assert "96 MB short" in short.message
    assert stage.kept() == [8_000]


def test_what_was_kept_and_is_not_filled_yet_must_be_there_too(stage: Stage) -> None:
    assert stage.keep(8_000) == 8_000
    stage.loads(1_000)
    stage.system.available_mb = 10_000  # something else has taken 2,000
    assert stage.keep(8_000) == 8_000
    assert "8256 MB, 1000 MB of it in use already" in refused(stage.keep(8_256, 8_000)).message


def test_an_app_that_is_there_before_the_daemon_has_its_memory_already(stage: Stage) -> None:
    stage.loads(8_000)
    stage.system.level = Level.WARN
    assert refused(stage.keep(8_000)).reason is Reason.PRESSURE  # it says that it holds nothing
    assert stage.keep(8_000, 8_000) == 8_000
    assert refused(stage.keep(8_256, 8_000)).reason is Reason.PRESSURE


def test_an_app_is_charged_what_it_holds_beyond_what_was_kept(stage: Stage) -> None:
    assert stage.keep(4_000) == 4_000
    stage.loads(10_000)
    scene = stage.gate.look()
    assert scene.ledger.free == ram(6_000)
    (warning,) = scene.warnings
    assert "chat (process" in warning and "holds 10,000 MB, and 4,000 MB were promised to it" in warning


def test_a_process_of_two_names_grows_by_what_is_new_only(stage: Stage) -> None:
    """What fills the one promise is no reason against making it larger because of the other."""
    stage.system.available_mb = 20_000
    assert (stage.keep(8_000), stage.keep(1_000, name="notes")) == (8_000, 1_000)
    stage.loads(9_000)
    assert stage.keep(9_000, 8_000) == 9_000
    assert stage.gate.look().ledger.free == ram(6_000)


def test_the_word_of_an_app_counts_no_further_than_what_it_is_seen_to_hold(stage: Stage) -> None:
    stage.system.available_mb = 5_000
    assert refused(stage.keep(8_000, 8_000)).reason is Reason.NO_AVAILABLE_MEMORY
