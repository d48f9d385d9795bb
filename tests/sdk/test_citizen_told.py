"""What an app among others tells of itself: all that it needs, no more often than there is news, and that it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from admit_sdk import Citizen, MemoryGovernor, door, statefile
from admitd.core.terms import RAM
from admitd.core.units import MIB, from_mb, to_mb
from tests.sdk.test_citizen import Machine

Answer = Callable[[int], door.Told]


class Door:
    """A daemon that answers by `answer`, and counts in whole MB as the real one."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.answer: Answer = door.Granted

    def ask(self, environ: object, name: str, budget: int, held: int) -> door.Told:
        self.asked.append((to_mb(budget), to_mb(held)))
        return self.answer(from_mb(to_mb(budget)))


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Door:
    made = Door()
    monkeypatch.setattr(door, "ask", made.ask)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own" / "runtime-state.json"


@pytest.fixture
def joined(daemon: Door, path: Path, tmp_path: Path) -> Iterator[Callable[[MemoryGovernor], Citizen]]:
    made: list[Citizen] = []

    def join(governor: MemoryGovernor) -> Citizen:
        made.append(Citizen(governor, path=path, environ={"HOME": str(tmp_path)}, memory=Machine(10_000 * MIB)))
        return made[-1]

    yield join
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("told", "is_given_back"),
    [
        (door.Denied("there is no room.", ""), True),
        (door.NoDaemon("the daemon gave no answer in 2 s", listens=True), True),
        (door.NoDaemon("no daemon answers: refused"), False),
    ],
    ids=["more was refused", "it is slow", "it is gone"],
)
def test_what_is_kept_is_given_back_whatever_was_answered_last(
    daemon: Door, joined: Callable[[MemoryGovernor], Citizen], told: door.Told, is_given_back: bool
) -> None:
    citizen = joined(MemoryGovernor(4_000 * MIB, soft=1_000 * MIB, name="leaves", watch=False))
    citizen.turn()
    daemon.answer = lambda _: told
    citizen.more(2_000 * MIB)
    citizen.turn()
    assert [budget for budget, _ in daemon.asked] == [1_000, 2_048]
    citizen.close()
    assert daemon.asked[2:] == ([(0, 0)] if is_given_back else [])


def test_where_nothing_was_kept_nothing_is_given_back(
    daemon: Door, joined: Callable[[MemoryGovernor], Citizen]
) -> None:
    daemon.answer = lambda _: door.Denied("there is no room.", "")
    citizen = joined(MemoryGovernor(4_000 * MIB, name="never", watch=False))
    citizen.turn()
    citizen.close()
    assert daemon.asked == [(4_000, 0)]


def test_what_is_reserved_is_told_with_the_rest(
    daemon: Door, path: Path, joined: Callable[[MemoryGovernor], Citizen]
) -> None:
    """The app's own heap is in the daemon's ledger, in the file and in the warning, and not to be allocated."""
    governor = MemoryGovernor(9_000 * MIB, 2_000 * MIB, soft=6_000 * MIB, name="heap", watch=False)
    citizen = joined(governor)
    with governor.try_allocate(500 * MIB):
        citizen.turn()
        assert daemon.asked == [(8_000, 2_500)]
        assert governor.free_bytes == 5_500 * MIB
        (entered,) = statefile.read(path)
        assert (entered.budget, entered.held) == ({RAM: 8_000 * MIB}, {RAM: 2_500 * MIB})
        assert citizen.warning is not None and "8,000 MB, of which it holds 2,500" in citizen.warning

        citizen.more(6_500 * MIB)
        citizen.turn()
        assert daemon.asked[1:] == [(2_000 + 6_656, 2_500)]
        assert governor.free_bytes == (6_656 - 500) * MIB


def test_an_app_that_is_denied_is_counted_with_the_budget_that_it_wants(
    daemon: Door, path: Path, joined: Callable[[MemoryGovernor], Citizen]
) -> None:
    """It asks on, and takes that as soon as there is room: the warning is the same, whether it was kept or not."""
    daemon.answer = lambda _: door.Denied("there is no room.", "")
    governor = MemoryGovernor(9_000 * MIB, 2_000 * MIB, soft=6_000 * MIB, name="heap", watch=False)
    citizen = joined(governor)
    for _ in range(2):  # the second time it is not asked again yet
        citizen.turn()
        assert governor.free_bytes == 0
        (entered,) = statefile.read(path)
        assert (entered.budget, entered.held) == ({RAM: 8_000 * MIB}, {RAM: 2_000 * MIB})
        assert citizen.warning is not None
        assert "the running apps may take 8,000 MB together, and 7,500 of 10,000 MB are for apps" in citizen.warning
        assert "heap (pid" in citizen.warning and "8,000 MB, of which it holds 2,000" in citizen.warning


def test_growth_that_is_denied_is_not_counted(
    daemon: Door, path: Path, joined: Callable[[MemoryGovernor], Citizen]
) -> None:
    citizen = joined(MemoryGovernor(9_000 * MIB, soft=1_000 * MIB, name="grows", watch=False))
    citizen.turn()
    daemon.answer = lambda _: door.Denied("there is no room.", "")
    citizen.more(8_500 * MIB)
    citizen.turn()
    (entered,) = statefile.read(path)
    assert (entered.budget, citizen.warning) == ({RAM: 1_000 * MIB}, None)


def test_amounts_that_are_no_whole_mb_are_no_news_each_time(
    daemon: Door, path: Path, joined: Callable[[MemoryGovernor], Citizen], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []
    write = statefile.write
    monkeypatch.setattr(statefile, "write", lambda path, app: (written.append(app), write(path, app))[1])
    governor = MemoryGovernor(4_000 * MIB, 300 * MIB + 4096, soft=1_000 * MIB + 5, name="odd", watch=False)
    citizen = joined(governor)
    with governor.try_allocate(7):
        for _ in range(3):
            citizen.turn()
    assert daemon.asked == [(1_301, 301)]
    assert len(written) == 1
    assert 1_000 * MIB + 5 <= governor.free_bytes < 1_001 * MIB
