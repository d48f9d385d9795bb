"""A worker's states: every pair of a state and a happening is either in the table, or refused."""

from __future__ import annotations

from itertools import product

import pytest

from admit_sdk.lifecycle import Happening, IllegalStep, State, step

S, H = State, Happening

STORIES = [
    (
        "one that is loaded, asked twice and unloaded",
        S.DEAD,
        "started loaded takes answered takes answered evicted gone",
    ),
    ("one that is unloaded before anything was asked", S.DEAD, "started loaded evicted gone"),
    ("one whose thread never starts", S.FAILED, "broke"),
    ("one that can't be loaded", S.FAILED, "started broke"),
    ("one that breaks as it answers", S.FAILED, "started loaded takes broke"),
    ("one that breaks as it unloads", S.FAILED, "started loaded evicted broke"),
    ("one that breaks as it waits", S.FAILED, "started loaded takes answered broke"),
]
LEGAL = {
    (S.SPAWNING, H.STARTED, S.LOADING),
    (S.SPAWNING, H.BROKE, S.FAILED),
    (S.LOADING, H.LOADED, S.READY),
    (S.LOADING, H.BROKE, S.FAILED),
    (S.READY, H.TAKES, S.BUSY),
    (S.READY, H.EVICTED, S.EVICTING),
    (S.READY, H.BROKE, S.FAILED),
    (S.BUSY, H.ANSWERED, S.IDLE),
    (S.BUSY, H.BROKE, S.FAILED),
    (S.IDLE, H.TAKES, S.BUSY),
    (S.IDLE, H.EVICTED, S.EVICTING),
    (S.IDLE, H.BROKE, S.FAILED),
    (S.EVICTING, H.GONE, S.DEAD),
    (S.EVICTING, H.BROKE, S.FAILED),
}


@pytest.mark.parametrize(("what", "ends_as", "story"), STORIES, ids=[each[0] for each in STORIES])
def test_stories(what: str, ends_as: State, story: str) -> None:
    state = State.SPAWNING
    for word in story.split():
        state = step(state, Happening(word))
    assert state is ends_as


@pytest.mark.parametrize(("state", "happening"), list(product(State, Happening)))
def test_what_is_not_in_the_table_can_not_happen(state: State, happening: Happening) -> None:
    legal = [each[2] for each in LEGAL if each[:2] == (state, happening)]
    if legal:
        assert step(state, happening) is legal[0]
    else:
        with pytest.raises(IllegalStep, match=f"a worker that is {state} can't be: {happening}"):
            step(state, happening)


def test_one_that_answers_or_loads_is_never_evicted() -> None:
    assert {state for state in State if state.may_be_evicted} == {S.READY, S.IDLE}


def test_memory_is_held_until_the_end() -> None:
    assert {state for state in State if not state.holds_memory} == {S.DEAD, S.FAILED}
