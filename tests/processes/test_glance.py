"""A glance: where nobody was started, only those that mattered are looked at; what may have changed is not missed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from admitd.processes import linux, proc
from admitd.processes.linux import WHOLE_EVERY_S, LinuxTable
from admitd.processes.table import Look
from tests.processes.crowd import (
    WAIT,
    Crowd,
    FakeProc,
    eventually,
    matcher,
    noting,
    nul,
    pids,
    said_of,
    sightings_of,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")

MATCH = matcher(mlx=r"mlx_lm\.server")
SERVER = nul("mlx_lm.server", "--model", "a")
OTHER = nul("sleep", "60")


class Glances:
    """A table over a folder that looks like /proc, and how many whole looks its glances took."""

    def __init__(self, fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake = fake
        self.table = LinuxTable(root=str(fake.root))
        self.whole: list[object] = []
        monkeypatch.setattr(self.table, "_look", noting(self.table._look, self.whole))
        monkeypatch.setattr(linux.time, "monotonic", self._clock)
        self._ahead_s = 0.0
        (fake.root / "self").symlink_to(str(os.getpid()))
        self.last_pid(12)
        for pid, line in ((10, SERVER), (11, OTHER), (12, OTHER)):
            fake.add(pid, line)

    def _clock(self, real: Callable[[], float] = time.monotonic) -> float:
        return real() + self._ahead_s

    def last_pid(self, pid: int | str) -> None:
        (self.fake.root / "loadavg").write_text(f"0.00 0.01 0.05 1/123 {pid}\n")

    def later(self, seconds: float) -> None:
        self._ahead_s += seconds

    def __call__(self) -> Look:
        return self.table.glance(MATCH)


@pytest.fixture
def glance(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> Glances:
    return Glances(fake, monkeypatch)


def test_where_nobody_was_started_the_table_is_read_once(glance: Glances) -> None:
    looks = [glance() for _ in range(5)]
    assert len(glance.whole) == 1
    assert {look.count for look in looks} == {3}
    assert [pids(look.sightings) for look in looks] == [[10]] * 5
    assert looks[0].lines == looks[4].lines


CHANGES: list[tuple[str, Callable[[Glances], None], list[int]]] = [
    ("one was started", lambda g: (g.fake.add(13, SERVER), g.last_pid(13))[1], [10, 13]),
    ("one was started and its pid is smaller", lambda g: (g.fake.add(5, SERVER), g.last_pid(5))[1], [5, 10]),
    ("one was started in the pid of one that went", lambda g: (g.fake.add(12, SERVER), g.last_pid(99))[1], [10, 12]),
    ("the known one has gone", lambda g: g.fake.remove(10), []),
    ("the known one is something else now", lambda g: g.fake.add(10, OTHER), []),
    ("the known one has other arguments", lambda g: g.fake.add(10, nul("mlx_lm.server", "-b")), [10]),
    ("the known one is a zombie", lambda g: g.fake.add(10, SERVER, state="Z"), []),
    ("a minute went by", lambda g: (g.fake.add(11, SERVER), g.later(WHOLE_EVERY_S))[1], [10, 11]),
    ("the last pid is not told", lambda g: (g.fake.add(11, SERVER), g.last_pid("x"))[1], [10, 11]),
]


@pytest.mark.parametrize(("change", "found"), [pytest.param(change, found, id=why) for why, change, found in CHANGES])
def test_the_whole_table_is_read_where(glance: Glances, change: Callable[[Glances], None], found: list[int]) -> None:
    glance()
    glance()
    change(glance)
    assert sorted(pids(glance().sightings)) == found
    assert len(glance.whole) >= 2


@pytest.mark.parametrize("told", ["0", "", "none"])
def test_where_the_last_pid_is_not_told_every_glance_is_a_look(glance: Glances, told: str) -> None:
    glance.last_pid(told)
    glance()
    glance.fake.add(11, SERVER)
    assert sorted(pids(glance().sightings)) == [10, 11]
    assert len(glance.whole) == 2


def test_the_last_pid_of_another_namespace_says_nothing(glance: Glances) -> None:
    glance()
    (glance.fake.root / "self").unlink()
    (glance.fake.root / "self").symlink_to("1")
    glance.fake.add(11, SERVER)
    assert sorted(pids(glance().sightings)) == [10, 11]


def test_what_becomes_a_service_without_a_fork_is_seen_within_a_minute(glance: Glances) -> None:
    """The price of a glance; a look sees it at once."""
    glance()
    glance.fake.add(11, SERVER)
    assert pids(glance().sightings) == [10]
    assert sorted(pids(glance.table.look(MATCH).sightings)) == [10, 11]
    assert sorted(pids(glance().sightings)) == [10, 11], "whoever looks tells the glances as well"


def test_other_patterns_are_another_look(glance: Glances) -> None:
    glance()
    assert pids(glance.table.glance(matcher(naps="^sleep")).sightings) == [11, 12]


def test_a_state_that_changed_is_seen(glance: Glances) -> None:
    assert [seen.process.stopped for seen in glance().sightings] == [False]
    glance.fake.add(10, SERVER, state="T")
    assert [seen.process.stopped for seen in glance().sightings] == [True]
    assert len(glance.whole) == 1


def test_descriptors_stay_open_over_a_glance(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    table = LinuxTable(keep=4096)
    crowd.python(WAIT, "mlx_lm.server")
    monkeypatch.setattr(proc, "last_pid", lambda root: 1)
    table.glance(MATCH)
    kept = table._lines.kept
    table.glance(MATCH)
    assert table._lines.kept == kept > 1
    table.close()


def test_the_kernel_tells_the_last_pid() -> None:
    before = proc.last_pid()
    child = subprocess.Popen(["true"])
    assert before != proc.last_pid() is not None
    child.wait()
    assert proc.last_pid("/nowhere") is None


def stopped(look: Look, pid: int) -> list[bool]:
    """Whether one process is stopped, as often as it was seen."""
    return [each.process.stopped for each in sightings_of(look, pid)]


def test_with_real_processes_glances_and_looks_agree(crowd: Crowd, tmp_path: Path) -> None:
    """Started, changed in place by exec, stopped, gone: the next glance says what a look says."""
    table, other = LinuxTable(keep=4096), LinuxTable(keep=4096)
    server = crowd.script("decoy_lm.server")
    look_for = matcher(mlx=r"decoy_lm\.server")
    for _ in range(3):
        process = crowd.start(sys.executable, "-S", "-E", server, "--model", "x")
        assert said_of(table.glance(look_for), process.pid) == {"mlx": "is"}
        os.kill(process.pid, 19)
        eventually("stopped", lambda pid=process.pid: stopped(other.look(look_for), pid) == [True])
        assert stopped(table.glance(look_for), process.pid) == [True]
        process.kill()
        process.wait()
        assert said_of(table.glance(look_for), process.pid) == {}
    table.close()
    other.close()
