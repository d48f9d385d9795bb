"""supervisors: who keeps a process running: its systemd unit, its launchd job, its container, or its parent."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

from admitd import actuator
from admitd.core import respawn
from admitd.core.respawn import Supervisor

BOUND_S: Final = 2.0
_READ_MAX: Final = 65_536


def of(pid: int) -> Supervisor:
    """The supervisor of a process, as well as it can be told."""
    return _on_darwin(pid) if sys.platform == "darwin" else _on_linux(pid, Path("/proc"))


def is_first(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether systemd itself started it: what only runs inside of a unit, a terminal's, say, is not that unit. Its
    parent may be systemd all the same, which adopts what is left alone; so systemd says whom it started
    (SYSTEMD_EXEC_PID, since 248)."""
    told = re.search(r"(?:\A|\0)SYSTEMD_EXEC_PID=(\d+)", _text(proc / str(pid) / "environ"))
    if told is not None:
        return int(told[1]) == pid
    return _text(proc / _stat(proc, pid)[1] / "comm").strip() == "systemd"


def _on_linux(pid: int, proc: Path) -> Supervisor:
    found = respawn.of_cgroup(_text(proc / str(pid) / "cgroup"))
    # What admit's own unit started is in that unit's cgroup, and is not kept running by it.
    if found is not None and found != respawn.of_cgroup(_text(proc / str(os.getpid()) / "cgroup")):
        return found
    parent = int(_stat(proc, pid)[1])
    _, _, _, session, terminal = _stat(proc, parent)
    program = _text(proc / str(parent) / "comm").strip() or "a program"
    return respawn.of_parent(parent, program, typed_in=session == str(parent) and terminal != "0")


def _on_darwin(pid: int) -> Supervisor:
    from admitd.processes import darwin

    libc = darwin.load()
    info = darwin.short_bsd_info(pid, libc)
    if info is None:
        return respawn.of_parent(0, "")
    if info.parent == 1:
        label = label_in(_launchctl_list(), pid)
        is_root = os.getuid() == 0
        if label is not None:
            return respawn.of_launchd(label, os.getuid(), as_root=is_root)
        return respawn.of_parent(1, "") if is_root else respawn.UNSEEN
    parent = darwin.short_bsd_info(info.parent, libc)
    program = parent.comm.decode("utf-8", "replace") if parent else "a program"
    return respawn.of_parent(info.parent, program, typed_in=_leads_session(info.parent))


def _stat(proc: Path, pid: int) -> list[str]:
    """State, parent, process group, session and terminal (proc_pid_stat(5)); zeros where they can't be read."""
    fields = _text(proc / str(pid) / "stat").rpartition(")")[2].split()[:5]
    return fields if len(fields) == 5 else ["0"] * 5


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def label_in(listed: str, pid: int) -> str | None:
    """The label of the job with that pid in what `launchctl list` prints: PID, status, label, parted by tabs."""
    for line in listed.splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[0] == str(pid):
            return fields[2].strip() or None
    return None


def _launchctl_list() -> str:
    try:
        return actuator.answer(("/bin/launchctl", "list"), BOUND_S)[1]
    except actuator.CannotStart:
        return ""


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_READ_MAX).decode("utf-8", "replace")
    except OSError:
        return ""
