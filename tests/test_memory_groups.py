"""The peak of a control group that a service has to itself: by recorded trees, and by a real group."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitd.core.terms import ProcessId
from admitd.core.units import MIB
from admitd.memory import groups
from tests.gates import until

UNIT = "/user.slice/app.slice/chat.service"
V1 = f"5:cpuacct,cpu:/elsewhere\n4:memory:{UNIT}\n0::/elsewhere\n"
V2 = f"0::{UNIT}\n"


def tree(root: Path, lines: str, folder: str, peak: str, members: str = "10\n11\n") -> tuple[str, str]:
    """A /proc and a /sys/fs/cgroup in which processes 10 and 11 have these lines."""
    for pid in ("10", "11"):
        (root / "proc" / pid).mkdir(parents=True)
        (root / "proc" / pid / "cgroup").write_text(lines)
    at = root / "groups" / folder / UNIT.strip("/")
    at.mkdir(parents=True)
    (at / "cgroup.procs").write_text(members)
    (at / peak).write_text(f"{700 * MIB}\n")
    return str(root / "proc"), str(root / "groups")


def peak_of(pids: list[int], where: tuple[str, str]) -> int | None:
    return groups.own_peak([ProcessId(pid, 1) for pid in pids], *where)


@pytest.mark.parametrize(
    ("lines", "folder", "name"),
    [
        pytest.param(V2, "", "memory.peak", id="version 2"),
        pytest.param(V1, "memory", "memory.max_usage_in_bytes", id="version 1"),
        pytest.param(V1.replace("4:memory:", "4:memory,hugetlb:"), "memory", "memory.max_usage_in_bytes", id="joined"),
    ],
)
def test_a_group_of_its_own(tmp_path: Path, lines: str, folder: str, name: str) -> None:
    where = tree(tmp_path, lines, folder, name)
    assert peak_of([10, 11], where) == 700 * MIB
    assert peak_of([10], where) is None, "process 11 is in it too"
    assert peak_of([], where) is None


@pytest.mark.parametrize(
    ("lines", "peak", "members"),
    [
        pytest.param("0::/\n", "memory.peak", "10\n11\n", id="the root group is everybody's"),
        pytest.param(V2, "memory.current", "10\n11\n", id="a kernel that keeps no peak"),
        pytest.param(V2, "memory.peak", "10\nnonsense\n", id="a list that is none"),
        pytest.param("nonsense\n", "memory.peak", "10\n11\n", id="no lines of groups"),
    ],
)
def test_where_there_is_nothing_to_be_had(tmp_path: Path, lines: str, peak: str, members: str) -> None:
    assert peak_of([10, 11], tree(tmp_path, lines, "", peak, members)) is None


def test_processes_of_two_groups_have_none_of_their_own(tmp_path: Path) -> None:
    where = tree(tmp_path, V2, "", "memory.peak")
    (tmp_path / "proc" / "11" / "cgroup").write_text("0::/other\n")
    assert peak_of([10, 11], where) is None


def test_a_group_that_has_groups_below_it_counts_for_others_too(tmp_path: Path) -> None:
    where = tree(tmp_path, V2, "", "memory.peak")
    (tmp_path / "groups" / UNIT.strip("/") / "worker").mkdir()
    assert peak_of([10, 11], where) is None


@pytest.fixture
def group() -> Iterator[Path]:
    """A real group of the memory controller, of whichever version is mounted here."""
    for root in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        path = Path(root) / f"admit-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        if any((path / name).exists() for name in ("memory.peak", "memory.max_usage_in_bytes")):
            break
        path.rmdir()
    else:
        pytest.skip("no memory control group can be made here")
    yield path
    until(lambda: not (path / "cgroup.procs").read_text())
    path.rmdir()


def test_the_kernel_keeps_the_peak_of_what_has_ended(group: Path) -> None:
    """A child that held 64 MB is gone; its server's own peak never shows it."""
    child = "held = bytearray(64 << 20); held[::4096] = b'x' * len(held[::4096])"
    program = (
        f"import subprocess, sys; open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
        f"subprocess.run([sys.executable, '-S', '-c', {child!r}]); print('over', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None and server.stdout.readline() == b"over\n"
            peak = groups.own_peak([ProcessId(server.pid, 1)])
            assert peak is not None and peak >= 64 * MIB
        finally:
            server.kill()
