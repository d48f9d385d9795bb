"""groups: the peak that the kernel keeps for a control group, where a service has one of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from admitd.core.terms import ProcessId

# Version 2 and 1: where the controller is mounted, what /proc/PID/cgroup calls it, and the file with the peak.
# memory.peak is there since Linux 5.19, and a root group has none.
_VERSIONS: Final = (
    ("", b"", "memory.peak"),
    ("memory", b"memory", "memory.max_usage_in_bytes"),
)


def own_peak(processes: Sequence[ProcessId], proc: str = "/proc", groups: str = "/sys/fs/cgroup") -> int | None:
    """Bytes, what the kernel cached of files for the group included; None where they share their group with others.

    A unit of systemd or a container is such a group. It remembers what a process held that has ended since, which no
    process's own peak does.
    """
    pids = {each.pid for each in processes}
    for folder, controller, name in _VERSIONS:
        paths = {_group_of(pid, controller, proc) for pid in pids}
        path = paths.pop() if len(paths) == 1 else None
        if path is None or path in (b"/", b""):
            continue
        at = f"{groups}/{folder}".rstrip("/") + os.fsdecode(path)
        try:
            with open(f"{at}/cgroup.procs", "rb") as members, open(f"{at}/{name}", "rb") as peak:
                if {int(line) for line in members} <= pids and not _has_children(at):
                    return int(peak.read())
        except (OSError, ValueError):
            continue
    return None


def _group_of(pid: int, controller: bytes, proc: str) -> bytes | None:
    """The path of a process's group; a line is `3:cpu,memory:/x`, and for version 2 `0::/x`."""
    try:
        with open(f"{proc}/{pid}/cgroup", "rb") as lines:
            for line in lines:
                _, controllers, path = line.rstrip(b"\n").split(b":", 2)
                if controller in controllers.split(b","):
                    return path
    except (OSError, ValueError):
        pass
    return None


def _has_children(at: str) -> bool:
    """Whether groups below it add to its peak."""
    with os.scandir(at) as entries:
        return any(entry.is_dir(follow_symlinks=False) for entry in entries)
