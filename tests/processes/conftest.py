"""conftest: real processes, and both ways to see them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitd.processes.linux import LinuxTable
from admitd.processes.ps import PsTable
from admitd.processes.table import ProcessTable
from tests.processes.crowd import Crowd, FakeProc

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    started = Crowd(tmp_path)
    yield started
    started.end_all()


@pytest.fixture(params=["proc", "kept", "ps"])
def table(request: pytest.FixtureRequest) -> Iterator[ProcessTable]:
    """Both readers: /proc with and without kept descriptors, and ps."""
    tables = {"proc": LinuxTable, "kept": lambda: LinuxTable(keep=4096), "ps": PsTable}
    made = tables[request.param]()
    yield made
    made.close()


@pytest.fixture
def linux_table() -> Iterator[LinuxTable]:
    made = LinuxTable(keep=4096)
    yield made
    made.close()


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    root = tmp_path / "proc"
    root.mkdir()
    return FakeProc(root)
