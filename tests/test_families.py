"""Who belongs to a service beside the processes that match: their children, found with real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from admitd.core.terms import Process, ProcessId, Sighting
from admitd.families import FOUND_AGAIN_S, Families, Kin, alone
from admitd.processes import proc
from admitd.processes.cputime import LinuxCpuTimes
from admitd.processes.table import Look

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")

CHILD = "import sys, time; print('up', flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {CHILD!r}]).returncode)"


@contextmanager
def family() -> Iterator[tuple[ProcessId, ProcessId]]:
    """A parent and its child."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        parent = identified(process.pid)
        (child,) = [each for each in LinuxCpuTimes().of([parent]) or () if each != parent]
        yield parent, child
    finally:
        process.communicate()


def identified(pid: int) -> ProcessId:
    found = proc.identify(pid)
    assert found is not None
    return found


def seen(*services: tuple[str, ProcessId], mention: bool = False) -> Look:
    return Look(9, tuple(Sighting(name, Process(each, os.getuid()), mention) for name, each in services))


def test_children_are_their_parents_service() -> None:
    with family() as (parent, child):
        assert set(Kin().of(seen(("x", parent)))["x"]) == {parent, child}


def test_a_child_that_is_a_service_of_its_own_counts_there() -> None:
    with family() as (parent, child):
        assert Kin().of(seen(("x", parent), ("y", child))) == {"x": (parent,), "y": (child,)}
        both = Kin().of(seen(("x", parent), ("x", child)))["x"]
        assert sorted(each.pid for each in both) == sorted((parent.pid, child.pid)), "each is there once"


def test_mentions_have_no_family() -> None:
    assert Kin().of(seen(("x", identified(os.getpid())), mention=True)) == alone(Look()) == {}


def test_one_that_is_gone_stays_as_the_look_saw_it() -> None:
    gone = ProcessId(os.getpid(), 1)
    assert Kin().of(seen(("x", gone))) == {"x": (gone,)}


@pytest.mark.parametrize(
    ("pids", "step_s", "times"),
    [
        ((7, 7, 7), 60.0, 1),
        ((7, 8, 9), 60.0, 3),
        ((7, 8, 9), FOUND_AGAIN_S / 4, 1),
        ((None, None, None), FOUND_AGAIN_S / 4, 1),
        ((None, None, None), 60.0, 3),
    ],
    ids=["nobody was started", "somebody was", "just now", "not told, just now", "not told"],
)
def test_they_are_looked_for_where_one_may_have_come(pids: tuple[int | None, ...], step_s: float, times: int) -> None:
    asked: list[Families] = []

    class Counted(LinuxCpuTimes):
        def of(self, *words: object) -> None:  # type: ignore[override]
            asked.append({})

    now, told = iter(n * step_s for n in range(9)), iter(pids)
    kin = Kin(Counted, lambda: next(told), lambda: next(now))
    look = seen(("x", identified(os.getpid())))
    for _ in pids:
        kin.of(look)
    assert len(asked) == times


def test_another_look_is_another_question() -> None:
    with family() as (parent, child):
        kin = Kin(last_pid=lambda: 7)
        assert len(kin.of(seen(("x", child)))["x"]) == 1
        assert len(kin.of(seen(("x", parent)))["x"]) == 2


@contextmanager
def brood() -> Iterator[tuple[ProcessId, list[ProcessId]]]:
    """A parent and its two children."""
    start = f"subprocess.Popen([sys.executable, '-c', {CHILD!r}])"
    code = f"import subprocess, sys; [each.wait() for each in [{start} for _ in '12']]"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert sorted(process.stdout.read(6)) == sorted(b"up\nup\n")  # in any order
        parent = identified(process.pid)
        yield parent, [each for each in LinuxCpuTimes().of([parent]) or () if each != parent]
    finally:
        process.communicate()


def test_who_is_of_one_tree_with_whom() -> None:
    """Above, below, or below one of those that are above; whoever is not among those asked for joins nobody."""
    with brood() as (parent, (one, two)), family() as (stranger, child):
        everyone = (parent, one, two, stranger, child)
        for each in (parent, one, two):
            assert Kin().others(each, everyone) == (stranger, child)
        assert Kin().others(child, everyone) == (parent, one, two)
        assert Kin().others(one, (one, two)) == (two,)
        assert Kin().others(identified(os.getpid()), everyone) == ()
