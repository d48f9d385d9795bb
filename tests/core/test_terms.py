"""The nouns are frozen, and valid if they exist."""

from __future__ import annotations

import dataclasses

import pytest

from admitd.core.terms import Level, ProcessId, Reading, Request, Service, State
from admitd.core.verdict import Reason
from tests.core.worlds import MB, SANCTUM, capacity, ram, request, service, waiting


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="no name"),
        pytest.param("../../x", id="a way out of the folder"),
        pytest.param("a/b", id="a path"),
        pytest.param("-rf", id="an option"),
        pytest.param(".hidden", id="a hidden file"),
        pytest.param("a b", id="two words"),
        pytest.param("x\n", id="a line break at the end"),
        pytest.param("a;reboot", id="two commands"),
        pytest.param("größe", id="letters beyond ASCII"),
        pytest.param("x" * 64, id="one letter too many"),
    ],
)
def test_what_is_not_a_service_name_makes_no_service(name: str) -> None:
    with pytest.raises(ValueError, match="is not a service name"):
        service(name)


@pytest.mark.parametrize("name", ["x", "sanctum-mlx", "lmstudio.coder_14b", "9lives", "x" * 63])
def test_a_service_name_makes_a_service(name: str) -> None:
    assert service(name).name == name


@pytest.mark.parametrize(
    "budget",
    [
        pytest.param({}, id="no budget"),
        pytest.param({"ram": 0}, id="a budget of nothing"),
        pytest.param({"ram": -1}, id="a budget of less than nothing"),
        pytest.param({"ram": 5 * MB, "vram0": -1}, id="one resource less than nothing"),
    ],
)
def test_a_service_without_a_budget_does_not_exist(budget: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a budget is more than nothing"):
        service("x", budget=budget)


@pytest.mark.parametrize("pid", [0, -1])
def test_a_process_has_a_positive_pid_since_signals_to_others_reach_groups(pid: int) -> None:
    with pytest.raises(ValueError, match="a pid is positive"):
        ProcessId(pid, 1)


def test_a_reused_pid_is_another_process() -> None:
    assert ProcessId(41, 1) != ProcessId(41, 2)


def test_a_noun_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SANCTUM.priority = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("state", "is_loaded"),
    [
        pytest.param(State.STOPPED, False, id="stopped: it holds nothing"),
        pytest.param(State.RESERVED, False, id="reserved: it holds a promise"),
        pytest.param(State.LOADED, True, id="loaded: it holds its memory"),
        pytest.param(State.HALF_LOADED, True, id="half loaded: its process is there, its check says no"),
        pytest.param(State.SUSPENDED, True, id="suspended: it does not run, and holds its memory"),
    ],
)
def test_which_states_hold_memory(state: State, is_loaded: bool) -> None:
    assert state.is_loaded is is_loaded


def test_every_state_and_reason_has_its_stable_word() -> None:
    assert {state.value for state in State} == {"stopped", "reserved", "loaded", "half_loaded", "suspended"}
    stable = {"exclusive", "too-large", "no-headroom", "pressure", "no-available-memory", "loading", "queued"}
    assert stable <= {reason.value for reason in Reason}


def test_levels_are_ordered_from_normal_to_critical() -> None:
    assert Level.NORMAL < Level.WARN < Level.CRITICAL
    assert [level.word for level in Level] == ["normal", "warn", "critical"]


def test_a_reading_that_says_nothing_is_no_reading() -> None:
    assert Reading() == Reading(available=None, level=None)


def test_requests_and_waiters_stand_in_the_same_order() -> None:
    high, low = service("high", priority=9), service("low", priority=1)
    declared = capacity(high, low)
    requests = [request(declared, "low", 1.0), request(declared, "high", 3.0), request(declared, "high", 2.0)]
    assert [(r.service.name, r.arrival) for r in sorted(requests, key=lambda r: r.order)] == [
        ("high", 2.0),
        ("high", 3.0),
        ("low", 1.0),
    ]
    waiters = [waiting("low", 1, 1.0), waiting("high", 9, 3.0, "b"), waiting("high", 9, 3.0, "a")]
    assert [w.id for w in sorted(waiters, key=lambda w: w.order)] == ["a", "b", "w-low"]
    assert waiting("high", 9, 2.5).order < Request(high, arrival=3.0).order < waiting("high", 9, 3.5).order


def test_pinned_services_of_a_capacity_are_found_once() -> None:
    pinned = service("vm", 2_000, pinned=True)
    declared = capacity(pinned, service("x"))
    assert declared.pinned == (pinned,)
    assert declared.pinned is declared.pinned


def test_a_service_of_another_resource_alone_is_a_service() -> None:
    only_vram = Service("gpu", {"vram0": 5 * MB})
    assert only_vram.budget == {"vram0": 5 * MB}
    assert ram(1, vram0=5) == {"ram": MB, "vram0": 5 * MB}
