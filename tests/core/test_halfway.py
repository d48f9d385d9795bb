"""Half loaded: what just loads, what stalls, and what has taken too long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admitd.core import halfway
from admitd.core.acts import Tell
from admitd.core.halfway import Memory, Standing
from admitd.core.ledger import Account
from admitd.core.terms import Check, State
from tests.core.worlds import loaded, ram, service

X = service("x", 1_000, load_timeout_s=300.0)


def at(
    age_s: float,
    measured_mb: int = 400,
    *,
    says: bool | None = False,
    state: State = State.HALF_LOADED,
    **fields: object,
) -> Standing:
    account = Account(X, state, ram(1_000), ram(measured_mb), (loaded("x", 5, age_s=age_s),))
    if says is not None:
        account = replace(account, check=Check("x", says))
    return replace(Standing(account, None), **fields)  # type: ignore[arg-type]


ANOTHER = replace(at(0), account=replace(at(0).account, sightings=(loaded("x", 6, age_s=1),)))

ROWS = [
    ("its check says no, for a while", [at(10), at(20)], []),
    ("its check says yes", [at(400, says=True, state=State.LOADED)], []),
    ("too long", [at(299), at(301)], ["1 too long"]),
    ("told once", [at(301), at(310), at(900)], ["0 too long"]),
    ("somebody is loading it", [at(301, handled=True)], []),
    ("it never answered its probe, for a while", [at(100, says=None, answered=False, state=State.LOADED)], []),
    ("it never answered its probe",
     [at(10, 900, says=None, answered=False, state=State.LOADED),
      at(301, 900, says=None, answered=False, state=State.LOADED)], ["1 too long"]),
    ("it was there before anyone watched", [at(301, says=None, answered=False, state=State.LOADED)], []),
    ("it answered once", [at(301, says=None, answered=True, state=State.LOADED)], []),
    ("it has no probe and no check", [at(301, says=None, state=State.LOADED)], []),
    ("it is stopped", [at(301, state=State.SUSPENDED)], []),
    ("it stalls", [at(10), at(70)], ["1 stalls"]),
    ("it stalls, told once", [at(10), at(70), at(130)], ["1 stalls"]),
    ("it stalls with most of its memory there", [at(10, 600), at(70, 600)], []),
    ("it grows", [at(10, 100), at(70, 150), at(130, 200)], []),
    ("it computes", [at(10, progress=0), at(70, progress=500)], []),
    ("it idles as a Python server does, 0.2 % of a core",
     [at(age, progress=age // 5) for age in range(10, 80, 10)], ["6 stalls"]),
    ("it is known to work, whatever it counts", [at(10, busy=True), at(70, busy=True)], []),
    ("it still works when its time is up, and is told as soon as one that stands still",
     [at(250, progress=0), at(299, progress=500), at(301, progress=900), at(311, progress=1300)], ["2 too long"]),
    ("it is known to work when its time is up", [at(250, busy=True), at(301, busy=True)], ["1 too long"]),
    ("it still grows when its time is up", [at(250, 700), at(301, 750), at(311, 800)], ["1 too long"]),
    ("a debugger held it until now", [at(10, handled=True), at(301, handled=True), at(311)], []),
    ("it was let go, and stands still",
     [at(10, handled=True), at(301, handled=True), at(362)], ["2 too long"]),
    ("it grows, then stalls", [at(10, 100), at(70, 150), at(130, 152), at(140, 152)], ["2 stalls"]),
    ("it is another process now", [at(10), ANOTHER], []),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "told"), [pytest.param(looks, told, id=why) for why, looks, told in ROWS])
def test_what_is_told(looks: list[Standing], told: list[str]) -> None:
    memory = Memory()
    found = []
    for turn, look in enumerate(looks):
        now = look.account.processes[0].age_s or 0.0
        memory, acts = halfway.step(memory, now, [look])
        for act in acts:
            assert isinstance(act, Tell)
            found.append(f"{turn} {'stalls' if 'stalls' in act.event.text else 'too long'}")
    assert found == told


def test_what_spins_and_never_answered_is_told_and_shown_and_counts_as_hung_once_it_stands_still() -> None:
    memory, told = Memory(), []
    late = []
    for age_s, progress in ((250, 0), (301, 500), (311, 900), (370, 901), (371, 901)):
        seen = at(age_s, says=None, answered=False, state=State.LOADED, progress=progress)
        memory, acts = halfway.step(memory, float(age_s), [seen])
        told += [act.event.text for act in acts if isinstance(act, Tell)]
        late.append("x" in memory.late())
        assert ("x" in memory.told()) is (age_s > 300)
    assert late == [False, False, False, False, True]
    assert told == [
        "x is half loaded: its process is there for 5 min, and it has never answered its probe. "
        "It works or grows meanwhile, and is left alone as long as it does."
    ]


def test_what_works_again_counts_as_hung_no_more_until_it_stands_still() -> None:
    memory = Memory()
    late = []
    for age_s, progress in ((290, 0), (301, 0), (311, 500), (321, 500), (371, 500)):
        memory, _ = halfway.step(memory, float(age_s), [at(age_s, progress=progress)])
        late.append("x" in memory.late())
        assert ("x" in memory.told()) is (age_s > 300)
    assert late == [False, True, False, False, True]


def test_only_what_took_too_long_counts_as_hung() -> None:
    memory, _ = halfway.step(Memory(), 0.0, [at(10)])
    memory, _ = halfway.step(memory, 60.0, [at(70)])
    assert memory.late() == frozenset()
    memory, acts = halfway.step(memory, 300.0, [at(310)])
    assert memory.late() == {"x"}
    (told,) = acts
    assert isinstance(told, Tell)
    assert (
        told.event.text == "x is half loaded: its process is there for 5 min, and its check says that it is not loaded."
    )
