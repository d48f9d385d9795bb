"""What a look says of what the processes of a service hold, and ever held."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from admitd import footprints
from admitd.core.terms import RAM, Process, ProcessId, Service, Sighting
from admitd.core.units import MIB
from admitd.families import alone
from admitd.memory.linux import LinuxMemory
from admitd.processes import proc
from admitd.processes.table import Look
from tests.gates import FakeTable, Quiet, gate, me, one_service

GONE = ProcessId(2**22 - 1, 1)


class Peaks(Quiet):
    """A memory that knows the peak of each process but of the last one."""

    def peak(self, process: ProcessId) -> int | None:
        return {1: 100 * MIB, 2: 50 * MIB}.get(process.pid)


def seen(*pids: int, mention: bool = False) -> tuple[Sighting, ...]:
    return tuple(Sighting("x", Process(ProcessId(pid, 1), 0, age_s=7_200.0), mention) for pid in pids)


@pytest.mark.parametrize(
    ("sightings", "peak_mb"),
    [
        pytest.param(seen(1, 2), {"x": 150}, id="two processes may have had their peaks at once"),
        pytest.param(seen(1, 3), {}, id="one that is not told makes the sum no bound"),
        pytest.param((*seen(1), *seen(2, mention=True)), {"x": 100}, id="a mention is not the service"),
        pytest.param((), {}, id="nobody is there"),
    ],
)
def test_the_most_that_a_service_ever_held(sightings: tuple[Sighting, ...], peak_mb: dict[str, int]) -> None:
    found = footprints.peaks(Peaks(), alone(Look(3, sightings)))
    assert found == {name: {RAM: amount * MIB} for name, amount in peak_mb.items()}


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_the_kernel_knows_the_peak_of_a_real_process() -> None:
    found = footprints.peaks(LinuxMemory(), {"x": (me(),)})
    assert found["x"][RAM] > 10 * MIB
    assert footprints.peaks(LinuxMemory(), {"x": (GONE,)}) == {}


def test_whoever_looks_is_told_of_a_budget_that_lies_and_whoever_asks_pays_nothing(tmp_path: Path) -> None:
    service, declared = one_service(budget={RAM: 4_096 * MIB}, process_pattern="x")
    table = FakeTable([Sighting(service.name, Process(ProcessId(1, 1), 0, age_s=7_200.0))])
    asked = gate(tmp_path, declared, table)
    asked._memory = Peaks()
    (warning,) = asked.look().warnings
    assert "has held 100 MB at most since it started 2h ago, and its budget is 4,096 MB" in warning
    _, scene = asked.decide([])
    assert scene is not None
    assert scene.warnings == ()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_what_is_promised_to_an_app_counts_less_what_it_holds(tmp_path: Path) -> None:
    """This test is the app: of 10,000 MB it holds some by now, and whoever asks is told that the rest is promised."""
    _, declared = one_service(process_pattern="x")
    asked = gate(tmp_path, declared)
    asked._memory = LinuxMemory()
    with asked.records.lock() as lock:
        asked.records.reserve(lock, Service("app", {RAM: 10_000 * MIB}), me())
        asked.records.reserve(lock, Service("x", {RAM: 1 * MIB}), me())
    (app,) = asked.look().ledger.extras
    held = 10_000 * MIB - app.promised[RAM]
    assert 10 * MIB < held < 5_000 * MIB
    asked._memory = Quiet()
    (app,) = asked.look().ledger.extras
    assert app.promised == app.charge == {RAM: 10_000 * MIB}


WORKER = "import sys; held = bytearray(80 << 20); print('up', flush=True); sys.stdin.read()"
ENGINE = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {WORKER!r}]).returncode)"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_what_workers_hold_is_their_services(tmp_path: Path) -> None:
    """As vLLM's: the process that the pattern matches holds little, and its child the model."""
    service, declared = one_service(budget={RAM: 40 * MIB}, process_pattern="x")
    with subprocess.Popen([sys.executable, "-c", ENGINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"up\n"
        parent = proc.identify(engine.pid)
        assert parent is not None
        asked = gate(tmp_path, declared, FakeTable([Sighting(service.name, Process(parent, os.getuid()))]))
        asked._memory = LinuxMemory()
        scene = asked.look()
        engine.communicate()
    account = scene.ledger.account(service)
    assert account.measured is not None and account.measured[RAM] > 80 * MIB
    assert account.charge == account.measured
    assert f"{service.name} holds more than its budget" in "".join(scene.warnings)
