"""Busy, idle or unknown: what two looks say of a service's work. Each rule beside its twin."""

from __future__ import annotations

from typing import Any

import pytest

from admitd.core import activity, relief
from admitd.core.activity import Activity, Course, Glance
from admitd.core.ledger import Account
from admitd.core.terms import ProcessId, State
from tests.core.worlds import loaded, ram, service

SERVER, CHILD, OTHER = ProcessId(10, 1), ProcessId(11, 2), ProcessId(12, 3)


def glance(at_s: float, cpu_s: float | None = 0.0, connections: int | None = 0, **fields: Any) -> Glance:
    cpu = fields.pop("cpu", None if cpu_s is None else {SERVER: cpu_s})
    ids = fields.pop("ids", frozenset(cpu or {SERVER}))
    return Glance(at_s, ids, cpu, connections, **fields)


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


GONE, UNSEEN = "gone", "unseen"
WORKED = [glance(0), glance(10, 5.0)]
NEW = {OTHER: 0.3}
"""What loaded before anyone looked: of its work nothing is seen."""


def course_of(looks: list[Glance | str]) -> tuple[Course, Activity]:
    course, said = Course(), activity.unseen(Course(), "")[1]
    for each in looks:
        if isinstance(each, Glance):
            course, said = activity.step(course, each)
        else:
            course, said = activity.gone(course) if each == GONE else activity.unseen(course, "by its check alone")
    return course, said


@pytest.mark.parametrize(
    ("sentence", "looks", "last_active_s"),
    [
        ("what was there before anyone looked was never seen working", [glance(0), glance(10)], None),
        ("also where no process of it was seen at first", [UNSEEN, glance(10), glance(20)], None),
        ("what has come since is active when it is first seen", [GONE, glance(10), glance(20)], 10),
        ("what is gone has nothing", [*WORKED, GONE], None),
        ("what comes next begins anew", [*WORKED, GONE, glance(90, cpu=NEW), glance(99, cpu=NEW)], 90),
        ("though its check said yes before it", [*WORKED, GONE, UNSEEN, glance(90, cpu=NEW), glance(99, cpu=NEW)], 90),
        ("though nobody saw the one before go", [*WORKED, glance(90, cpu=NEW), glance(99, cpu=NEW)], 90),
        ("though an old check said yes of both", [*WORKED, UNSEEN, glance(90, cpu=NEW), glance(99, cpu=NEW)], 90),
        (
            "though the processor time of the one before could not be read at last",
            [*WORKED, glance(20, None), glance(90, cpu=NEW), glance(99, cpu=NEW)],
            90,
        ),
        (
            "or there was none, because it just went",
            [*WORKED, glance(20, cpu={}, ids=frozenset({SERVER})), glance(90, cpu=NEW)],
            90,
        ),
        ("whom one look has only missed is still the same", [*WORKED, GONE, glance(30, 5.0), glance(40, 5.0)], 10),
        ("or whose processes no look saw", [*WORKED, UNSEEN, glance(30, 5.0), glance(40, 5.0)], 10),
        (
            "nor is a new worker beside an old one another",
            [*WORKED, glance(20, cpu={SERVER: 5.0, CHILD: 0.0}), glance(30, cpu={CHILD: 0.0})],
            10,
        ),
    ],
)
def test_when_it_was_active_last(sentence: str, looks: list[Glance | str], last_active_s: float | None) -> None:
    assert course_of(looks)[1].last_active_s == last_active_s, sentence


def test_what_comes_after_an_unload_is_another_server() -> None:
    assert course_of([*WORKED, GONE])[1].detail == "not loaded"
    assert course_of([*WORKED, GONE, glance(20, 5.0)])[1].busy is None


def test_what_was_just_loaded_is_neither_unloaded_for_idleness_nor_first_to_go() -> None:
    """It came after its forerunner had worked, idled and gone; of its load no processor time was seen."""
    came = [glance(7200, cpu=NEW), glance(7210, cpu=NEW)]
    looks = [*WORKED, glance(20, 5.0), GONE, *came]
    _, said = course_of(looks)
    assert said.busy is False
    declared = service("new", 1_000, idle_unload_s=300.0)
    account = Account(declared, State.LOADED, ram(1_000), ram(1_000), (loaded("new"),))
    new = relief.Standing(account, said.idle, said.last_active_s)
    memory, acts = relief.idle_too_long({}, 7210, [new])
    assert acts == ()
    assert len(relief.idle_too_long(memory, 7501, [new])[1]) == 1, "but it is, once it has idled for so long"
    old = relief.Standing(
        Account(service("old", 1_000), State.LOADED, ram(1_000), ram(1_000), (loaded("old"),)), True, 3600.0
    )
    assert relief.choose([new, old]) == old


def test_a_service_without_processes_is_unknown() -> None:
    assert activity.unseen(Course(), "no process")[1].busy is None
