"""processes: the process table, one file per way of reading it. A process is (pid, start), never a pid."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from admitd.processes.table import ProcessTable


class NoSuchReader(ValueError):
    """ADMIT_PROCESS_READER names none of the ways of reading."""


def for_this_system(environ: Mapping[str, str], keep: int = 0) -> ProcessTable:
    """Linux reads /proc, other systems run ps; ADMIT_PROCESS_READER=ps|proc forces one. `keep`: see LinuxTable."""
    forced = environ.get("ADMIT_PROCESS_READER", "")
    if forced not in ("", "ps", "proc"):
        raise NoSuchReader(f"ADMIT_PROCESS_READER={forced!r}: write ps or proc, or leave it out")
    if forced == "ps" or (not forced and not sys.platform.startswith("linux")):
        from admitd.processes.ps import PsTable

        return PsTable()
    from admitd.processes.linux import LinuxTable

    return LinuxTable(keep)
