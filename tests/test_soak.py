"""The memory-pressure soak in short: without `admit` the kernel kills in a memory cgroup, and with it, it need not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.measuring import Skipped
from bench.soak import page, room
from bench.soak.__main__ import ADMIT, GUARDS, KERNEL, SHORT, SKIPPED
from bench.soak.group import _V1, _V2, Held, _made, group, opened
from tests.gates import until

ROOT = Path(__file__).parent.parent
KEPT: dict[str, Any] = {
    "started": 9,
    "finished": 7,
    "stopped": 2,
    "stopped_s": 3.4,
    "killed": 0,
    "kernel_kills": 0,
    "most_mb": 800,
    "refused": {"no-headroom": 5},
    "without_remedy": [],
    "examples": {"no-headroom": "admit: x is refused\n  try:        admit run x --wait 5m -- /a/path/python job.py"},
    "remedies": {"unload": 2},
    "already": 1,
    "unloaded": 2,
    "failed": [],
    "lost_s": 0.0,
    "ended_by_earlyoom": None,
}


@pytest.fixture
def possible() -> None:
    """Skips where the soak can't be run, with its own reason."""
    try:
        room.check()
        with group(64 << 20):
            pass
    except Skipped as why:
        pytest.skip(str(why))


@pytest.mark.slow
@pytest.mark.usefixtures("possible")
def test_with_admit_nothing_is_killed_and_without_it_the_kernel_kills(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw.json", tmp_path / "page.md"
    options = ["--short", "--minutes", "0.1", "--only", KERNEL, "--only", ADMIT, "--json", str(raw), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    courses = json.loads(raw.read_text())["courses"]
    assert courses[KERNEL]["kernel_kills"] > 0
    assert courses[KERNEL]["killed"] > 0
    assert list(page.broken(courses[ADMIT])) == []
    assert courses[ADMIT]["started"] > 0
    assert "| killed by the kernel |" in out.read_text()
    assert str(tmp_path) not in out.read_text()
    left = [each for root in ("memory", "") for each in Path("/sys/fs/cgroup", root).glob("admit-soak-*")]
    assert left == []


@pytest.mark.usefixtures("possible")
def test_told_to_end_it_leaves_nothing_behind(tmp_path: Path) -> None:
    """No job, no group, no folder: in the middle of its work it is ended as a service manager would."""
    command = [sys.executable, "-m", "bench.soak", "--short", "--minutes", "5", "--only", KERNEL]
    soak = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL)
    group_folders = [Path("/sys/fs/cgroup", root, f"admit-soak-{soak.pid}") for root in ("memory", "")]

    def jobs() -> list[str]:
        return [each for path in group_folders if path.exists() for each in (path / "cgroup.procs").read_text().split()]

    try:
        until(jobs, 60)
    finally:
        soak.terminate()
        assert soak.wait(30) == 128 + signal.SIGTERM
    assert not any(path.exists() for path in group_folders)
    assert list(tmp_path.iterdir()) == []


def test_outside_of_a_room_nothing_is_run() -> None:
    """earlyoom kills whatever it sees."""
    with pytest.raises(Skipped, match="not process ids of their own"):
        room.check_inside(room.pids())


BROKEN = [
    ("the kernel killed", {"kernel_kills": 1}),
    ("one has no last word", {"killed": 1, "finished": 6}),
    ("one did not finish", {"finished": 6}),
    ("one was stopped and no remedy asked for it", {"remedies": {}}),
    ("nothing was refused", {"refused": {}}),
    ("nothing finished", {"finished": 0, "started": 2}),
    ("a refusal had no remedy", {"without_remedy": ["admit: x is refused"]}),
    ("a client failed", {"failed": ["x: exit 1"]}),
    ("it took no part", {"skipped": "no reason"}),
]


@pytest.mark.parametrize("changed", [pytest.param(changed, id=why) for why, changed in BROKEN])
def test_a_word_that_was_not_kept_is_told(changed: dict[str, Any]) -> None:
    assert list(page.broken(KEPT)) == []
    assert list(page.broken({**KEPT, **changed}))


def test_the_page_has_each_course_and_no_path_of_the_machine() -> None:
    beside = {**KEPT, "ended_by_earlyoom": {"SIGTERM": 3, "SIGKILL": 1}, "kernel_kills": 4}
    courses = {"kernel": KEPT, "earlyoom": beside, "admit": KEPT}
    size = {"limit_mb": 1024, "jobs_mb": [1000, 1048], "seconds": 60.0, "grow_s": 1.0, "work_s": 3.0, "cgroups": "v1"}
    text = page.write({**size, "courses": courses})
    assert "| signals sent by earlyoom | – | 4 | – |" in text
    assert "| refused | – | – | 5 |" in text
    assert "/a/path" not in text
    skipped = page.write({**size, "courses": {**courses, "earlyoom": {"skipped": "earlyoom is not installed"}}})
    assert "earlyoom took no part: earlyoom is not installed." in skipped
    assert "| | the kernel alone | `admit` |" in skipped


def test_the_committed_page_is_of_a_whole_run() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    assert all(f" {page.NAMES[guard]} |" in text for guard in GUARDS)
    assert "want 2100 MB together" in text


FOLDERS = [
    ("v1", _V1, {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"}),
    ("v2", _V2, {"memory.events": "low 0\noom 5\noom_kill 3\noom_group_kill 0\n"}),
]


@pytest.mark.parametrize(("version", "files", "content"), FOLDERS)
def test_a_group_is_read_in_both_versions(version: str, files: Any, content: dict[str, str], tmp_path: Path) -> None:
    """Recorded formats: v2 could not be had where this was written."""
    made = _made(tmp_path, files, 1 << 30)
    stat = {files.anonymous: 5 << 20, files.inactive: 1 << 20}
    written = {**content, files.used: str(7 << 20), files.most: str(9 << 20)}
    written["memory.stat"] = "".join(f"{name} {amount}\n" for name, amount in stat.items())
    for name, text in written.items():
        (made.path / name).write_text(text)
    again = opened(made.path, 1 << 30)
    assert (again.version, again.kills(), again.most()) == (version, 3, 9 << 20)
    assert again.held() == Held(7 << 20, 5 << 20, 1 << 20)
    assert again.members == made.path / "cgroup.procs"


def test_where_no_group_can_be_made_it_is_skipped_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match=r"no memory cgroup can be made below .*: No such file or directory"):
        _made(tmp_path / "missing", _V2, 1 << 30)
    assert SKIPPED == 77
    assert sum(SHORT.jobs_mb) > 2 * SHORT.limit_mb
