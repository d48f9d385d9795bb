"""Busy, idle or unknown: what two looks say of a service's work. Each rule beside its twin."""

from __future__ import annotations

from typing import Any

import pytest

from admitd.core import activity
from admitd.core.activity import Activity, Course, Glance
from admitd.core.terms import ProcessId

SERVER, CHILD, OTHER = ProcessId(10, 1), ProcessId(11, 2), ProcessId(12, 3)


def glance(at_s: float, cpu_s: float | None = 0.0, connections: int | None = 0, **fields: Any) -> Glance:
    cpu = fields.pop("cpu", None if cpu_s is None else {SERVER: cpu_s})
    return Glance(at_s, cpu, connections, **fields)


def after(*glances: Glance) -> Activity:
    course, said = Course(), activity.unseen(Course(), "")[1]
    for each in glances:
        course, said = activity.step(course, each)
    return said


@pytest.mark.parametrize(
    ("sentence", "glances", "busy"),
    [
        ("one look alone says nothing", [glance(0, 5.0)], None),
        ("an idle mlx_lm.server that ticks to itself (0.2 %) is idle", [glance(0), glance(10, 0.02)], False),
        ("half a core is work", [glance(0), glance(10, 5.0)], True),
        ("a little over one percent is work", [glance(0), glance(10, 0.11)], True),
        ("three ticks in a second are no work", [glance(0), glance(1, 0.03)], False),
        ("four are", [glance(0), glance(1, 0.04)], True),
        ("processor time that can't be read is unknown", [glance(0), glance(10, None)], None),
        ("so is the look after it, which has nothing to compare with", [glance(0, None), glance(10)], None),
        ("other processes than before are another server", [glance(0), glance(9, cpu={OTHER: 0.0})], None),
        ("a new child that worked is work", [glance(0), glance(10, cpu={SERVER: 0.0, CHILD: 1.0})], True),
        ("a child that is gone is none", [glance(0, cpu={SERVER: 0.0, CHILD: 9.0}), glance(10)], False),
        ("its own word beats a quiet processor", [glance(0), glance(10, working=True, work=1)], True),
        ("also at first sight", [glance(0, working=True, work=1)], True),
        ("its counts grew: it worked", [glance(0, working=False, work=5), glance(10, working=False, work=6)], True),
        ("they did not", [glance(0, working=False, work=5), glance(10, working=False, work=5)], False),
        (
            "its own word that nothing is under way beats connections",
            [glance(0, working=False, work=0), glance(10, 0, 3, working=False, work=0)],
            False,
        ),
        ("but not a busy processor", [glance(0, working=False, work=0), glance(9, 5, working=False, work=0)], True),
        ("metrics that fell silent leave it unknown", [glance(0, working=False), glance(10, silent=True)], None),
        ("a client that waits leaves it unknown", [glance(0), glance(10, 0.0, 1)], None),
        ("for minutes", [glance(0), glance(10, 0.0, 1), glance(590, 0.0, 1)], None),
        ("a connection kept open for longer is no request", [glance(0), glance(10, 0, 1), glance(600, 0, 1)], False),
        ("where clients can't be seen, a moment of quiet is unknown", [glance(0), glance(50, 0.0, None)], None),
        ("a minute of it is not", [glance(0), glance(50, 0.0, None), glance(60, 0.0, None)], False),
        (
            "work in between begins the minute anew",
            [glance(0), glance(50, 9.0, None), glance(60, 9.0, None), glance(100, 9.0, None)],
            None,
        ),
        ("our own probe's work is none", [glance(0), glance(10, 0.5, ours_s=0.5)], False),
        ("what was done besides is", [glance(0), glance(10, 0.9, ours_s=0.5)], True),
        ("nor are the tokens it counted", [glance(0, work=5), glance(10, work=6, ours=1)], False),
        ("looks that follow at once compare with the one before", [glance(0), glance(10), glance(10.4, 9.0)], False),
        ("and lose nothing", [glance(0), glance(10), glance(10.4, 9.0), glance(11.2, 9.0)], True),
        (
            "nor our probe's share",
            [glance(0), glance(10), glance(10.4, 9.0, ours_s=9.0), glance(11.2, 9.0)],
            False,
        ),
    ],
)
def test_what_looks_say(sentence: str, glances: list[Glance], busy: bool | None) -> None:
    said = after(*glances)
    assert said.busy is busy, f"{sentence}: {said.detail}"
    assert said.idle is (busy is False)
    assert said.detail


def test_unknown_is_never_idle_and_never_moves_the_time_of_work() -> None:
    """Whoever picks victims by `last_active_s` sees the last work that was really seen."""
    said = after(glance(0), glance(10, 5.0), glance(20, None), glance(30, 5.0, 2))
    assert (said.busy, said.last_active_s) == (None, 10)


def test_the_last_work_is_remembered_through_an_unload() -> None:
    course, _ = activity.step(Course(), glance(0))
    course, _ = activity.step(course, glance(10, 5.0))
    course, said = activity.gone(course)
    assert (said.busy, said.last_active_s, said.detail) == (False, 10, "not loaded")
    course, said = activity.step(course, glance(20, 5.0))
    assert said.busy is None, "what comes back is another server"


def test_a_service_without_processes_is_unknown() -> None:
    assert activity.unseen(Course(), "no process")[1].busy is None
