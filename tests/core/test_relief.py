"""Memory pressure: when it is believed, when it is acted on, and who goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from admitd.core import relief
from admitd.core.acts import Act, Evict, Tell
from admitd.core.ledger import Account
from admitd.core.relief import Memory, Standing
from admitd.core.terms import Level, OnPressure, Reading, Sentinel, State
from tests.core.worlds import loaded, mentioned, ram, reserved, service

EVICT = Sentinel(on_pressure=OnPressure.EVICT)
TELL = Sentinel(on_pressure=OnPressure.TELL)
NORMAL, WARN, CRITICAL = Level.NORMAL, Level.WARN, Level.CRITICAL


def reading(level: Level | None) -> Reading:
    return Reading(ram(500), level, "3 % available")


def standing(name: str = "x", held_mb: int = 1_000, *, idle: bool = True, **fields: object) -> Standing:
    active = fields.pop("last_active_s", None)
    declared = service(name, 1_000, **fields)
    account = Account(declared, State.LOADED, ram(1_000), ram(held_mb), (loaded(name),))
    return Standing(account, idle, active)  # type: ignore[arg-type]


def word(act: Act) -> str:
    return f"evict {act.service}" if isinstance(act, Evict) else act.event.kind if isinstance(act, Tell) else "?"


def run(looks: list[tuple[float, Level | None]], settings: Sentinel, *seen: Standing) -> list[str]:
    memory = Memory()
    found = []
    for now, level in looks:
        memory, acts = relief.step(memory, now, reading(level), seen, settings)
        found += [f"{now:g} {word(act)}" for act in acts]
    return found


LEVELS = [
    ("normal", [(0, NORMAL), (10, NORMAL)], []),
    ("it warns", [(0, NORMAL), (10, WARN), (20, WARN)], ["10 pressure"]),
    ("it sways", [(0, WARN), (10, NORMAL), (20, WARN), (30, NORMAL)], ["0 pressure"]),
    ("it is over", [(0, WARN), (10, NORMAL), (29, NORMAL), (30, NORMAL), (40, NORMAL)], ["0 pressure", "30 pressure"]),
    ("it gets worse", [(0, WARN), (10, CRITICAL)], ["0 pressure", "10 pressure"]),
    ("it gets better, but not good", [(0, CRITICAL), (10, WARN), (31, WARN)], ["0 pressure", "31 pressure"]),
    ("the system does not tell", [(0, None), (10, None)], []),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "told"), [pytest.param(looks, told, id=why) for why, looks, told in LEVELS])
def test_when_it_is_believed(looks: list[tuple[float, Level | None]], told: list[str]) -> None:
    assert run(looks, EVICT) == told


ACTS = [
    ("one critical look", [(0, CRITICAL)], EVICT, ["0 pressure"]),
    ("a second, too soon", [(0, CRITICAL), (9, CRITICAL)], EVICT, ["0 pressure"]),
    ("it lasts", [(0, CRITICAL), (10, CRITICAL)], EVICT, ["0 pressure", "10 evict x"]),
    ("it lasts, with a break", [(0, CRITICAL), (5, WARN), (10, CRITICAL), (19, CRITICAL)], EVICT, ["0 pressure"]),
    ("it lasts, and the system stops telling", [(0, CRITICAL), (5, None), (10, CRITICAL)], EVICT, ["0 pressure"]),
    ("it only warns", [(0, WARN), (100, WARN)], EVICT, ["0 pressure"]),
    ("measured again before the next", [(0, CRITICAL), (10, CRITICAL), (20, CRITICAL), (24, CRITICAL)], EVICT,
     ["0 pressure", "10 evict x"]),
    ("still critical when it has settled", [(0, CRITICAL), (10, CRITICAL), (25, CRITICAL)], EVICT,
     ["0 pressure", "10 evict x", "25 evict x"]),
    ("told only", [(0, CRITICAL), (10, CRITICAL), (100, CRITICAL)], TELL, ["0 pressure", "10 would_evict"]),
    ("told again when it comes back",
     [(0, CRITICAL), (10, CRITICAL), (20, NORMAL), (60, NORMAL), (70, CRITICAL), (80, CRITICAL)], TELL,
     ["0 pressure", "10 would_evict", "60 pressure", "70 pressure", "80 would_evict"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("looks", "settings", "asked"), [pytest.param(looks, s, asked, id=why) for why, looks, s, asked in ACTS]
)
def test_when_it_is_acted_on(looks: list[tuple[float, Level | None]], settings: Sentinel, asked: list[str]) -> None:
    assert run(looks, settings, standing()) == asked


def changed(standing: Standing, **fields: object) -> Standing:
    return replace(standing, account=replace(standing.account, **fields))  # type: ignore[arg-type]


MAY_NOT = [
    ("it is busy, or nobody knows", standing(idle=False), "busy, or not known to be idle"),
    ("not evictable", standing(evictable=False), "not evictable"),
    ("pinned", standing(pinned=True), "pinned"),
    ("not loaded", changed(standing(), state=State.STOPPED), "not loaded"),
    ("a mention", changed(standing(), sightings=(mentioned("x"),)), "not loaded"),
    ("being loaded", changed(standing(), reservation=reserved("x")), "being loaded or unloaded"),
    ("being unloaded", replace(standing(), handled=True), "being loaded or unloaded"),
    ("no way to unload it", changed(standing(), sightings=()), "without a way to unload it"),
    ("it holds nothing", standing(held_mb=10), "holding next to nothing"),
]


@pytest.mark.parametrize(("seen", "why"), [pytest.param(seen, why, id=name) for name, seen, why in MAY_NOT])
def test_who_may_not_go(seen: Standing, why: str) -> None:
    assert relief.why_not(seen) == why
    assert relief.choose([seen]) is None


def test_what_nobody_has_measured_may_go() -> None:
    assert relief.choose([changed(standing(), measured=None)]) is not None


ORDERS = [
    ("the lower priority", [standing("a", priority=5), standing("b", priority=4)], "b"),
    ("eager ones last, whatever their priority", [standing("a", eager=True, priority=-9), standing("b")], "b"),
    ("an eager one, where all others are busy", [standing("a", eager=True), standing("b", idle=False)], "a"),
    ("active longest ago", [standing("a", last_active_s=50.0), standing("b", last_active_s=40.0)], "b"),
    ("never active", [standing("a", last_active_s=1.0), standing("b")], "b"),
    ("the priority before the time",
     [standing("a", priority=1, last_active_s=1.0), standing("b", last_active_s=9.0)], "b"),
    ("the larger", [standing("a", 500), standing("b", 600)], "b"),
    ("by name", [standing("b"), standing("a")], "a"),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "first"), [pytest.param(seen, first, id=why) for why, seen, first in ORDERS])
def test_who_goes_first(seen: list[Standing], first: str) -> None:
    chosen = relief.choose(seen)
    assert chosen is not None
    assert chosen.account.service.name == first


def test_the_advice_names_the_cheapest_and_the_command() -> None:
    memory, _ = relief.step(Memory(), 0.0, reading(CRITICAL), [standing()], TELL)
    _, (told,) = relief.step(memory, 10.0, reading(CRITICAL), [standing()], TELL)
    assert isinstance(told, Tell)
    assert told.event.next == "admit unload x"
    assert "gives back about 1000 MB" in told.event.text


@pytest.mark.parametrize("settings", [TELL, EVICT])
def test_where_nobody_may_go_that_is_told_with_the_reasons(settings: Sentinel) -> None:
    seen = [standing("a", idle=False), standing("b", pinned=True)]
    memory, _ = relief.step(Memory(), 0.0, reading(CRITICAL), seen, settings)
    memory, (told,) = relief.step(memory, 10.0, reading(CRITICAL), seen, settings)
    assert isinstance(told, Tell)
    assert "a is busy, or not known to be idle; b is pinned" in told.event.text
    assert relief.step(memory, 20.0, reading(CRITICAL), seen, settings)[1] == ()


IDLE = [
    ("no limit", [(0, standing()), (9_999, standing())], []),
    ("not yet", [(0, standing(idle_unload_s=60.0)), (59, standing(idle_unload_s=60.0))], []),
    ("long enough", [(0, standing(idle_unload_s=60.0)), (60, standing(idle_unload_s=60.0))], ["60 evict x"]),
    ("busy in between", [(0, standing(idle_unload_s=60.0)), (30, standing(idle=False, idle_unload_s=60.0)),
                         (60, standing(idle_unload_s=60.0)), (119, standing(idle_unload_s=60.0))], []),
    ("active between two looks",
     [(0, standing(idle_unload_s=60.0)), (60, standing(idle_unload_s=60.0, last_active_s=30.0))], []),
    ("idle since before the first look", [(100, standing(idle_unload_s=60.0, last_active_s=30.0))], ["100 evict x"]),
    ("not known to be idle",
     [(0, standing(idle=False, idle_unload_s=1.0)), (99, standing(idle=False, idle_unload_s=1.0))], []),
    ("somebody is at it", [(100, replace(standing(idle_unload_s=60.0, last_active_s=30.0), handled=True))], []),
    ("it was just loaded, and its disk kept it waiting for long",
     [(0, replace(standing(idle_unload_s=60.0, last_active_s=0.0), handled=True)),
      (90, replace(standing(idle_unload_s=60.0, last_active_s=0.0), handled=True)),
      (100, standing(idle_unload_s=60.0, last_active_s=0.0)),
      (110, standing(idle=False, idle_unload_s=60.0, last_active_s=0.0)),
      (149, standing(idle_unload_s=60.0, last_active_s=0.0)),
      (150, standing(idle_unload_s=60.0, last_active_s=0.0))], ["150 evict x"]),
    ("it would not go, and is not asked again at once",
     [(100, standing(idle_unload_s=60.0, last_active_s=30.0)),
      (110, replace(standing(idle_unload_s=60.0, last_active_s=30.0), handled=True)),
      (120, standing(idle_unload_s=60.0, last_active_s=30.0)),
      (170, standing(idle_unload_s=60.0, last_active_s=30.0))], ["100 evict x", "170 evict x"]),
    ("asked once", [(100, standing(idle_unload_s=60.0, last_active_s=30.0)),
                    (110, standing(idle_unload_s=60.0, last_active_s=105.0))], ["100 evict x"]),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "asked"), [pytest.param(looks, asked, id=why) for why, looks, asked in IDLE])
def test_who_is_unloaded_because_it_idles(looks: list[tuple[float, Standing]], asked: list[str]) -> None:
    memory: Mapping[str, float] = {}
    found = []
    for now, seen in looks:
        memory, acts = relief.idle_too_long(memory, now, [seen])
        assert all(isinstance(act, Evict) and act.kind == "idle_unloaded" for act in acts)
        found += [f"{now:g} {word(act)}" for act in acts]
    assert found == asked
