"""conftest: real processes, and both ways to see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from admitd.processes.linux import LinuxTable
from admitd.processes.ps import Ps, PsTable
from admitd.processes.table import ProcessTable
from tests.processes.crowd import Crowd, FakeProc


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    started = Crowd(tmp_path)
    yield started
    started.end_all()


def patient_ps() -> PsTable:
    """The real ps, with time enough on a machine that runs many tests at once."""
    return PsTable(Ps(bound_s=60.0).run)


@pytest.fixture(params=["proc", "kept", "ps"])
def table(request: pytest.FixtureRequest) -> Iterator[ProcessTable]:
    """Both readers: /proc with and without kept descriptors, and ps."""
    made = patient_ps() if request.param == "ps" else LinuxTable(keep=4096 if request.param == "kept" else 0)
    yield made
    made.close()


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    root = tmp_path / "proc"
    root.mkdir()
    return FakeProc(root)
