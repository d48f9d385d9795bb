"""rows: what `ps` printed, line by line. Text in, rows out; nothing is run here.

Only the front of a line can be relied on. The command is last and may hold anything, and ps may be cut off.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from typing import Final

from admitd.processes.naming import LOOKED_AT

_COLUMNS: Final = ("pid", "ppid", "uid", "stat", "lstart", "rss", "command")
COLUMNS: Final = tuple(word for column in _COLUMNS for word in ("-o", f"{column}="))
_MONTHS: Final = {month: number for number, month in enumerate(calendar.month_abbr) if month}
_FIELDS: Final = 10  # pid ppid uid stat dow month day time year rss, then the command
_PID_MAX: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ps. `started_at` is seconds since 1970, whole; `command` may be empty or `<defunct>`."""

    pid: int
    parent: int
    uid: int
    stat: str
    started_at: int
    rss_kib: int
    command: bytes

    @property
    def first_thread_dead(self) -> bool:
        """Linux: a zombie of several threads (`Zl`). The others live and hold the memory, and ps shows no arguments."""
        return self.stat.startswith("Z") and "l" in self.stat

    @property
    def zombie(self) -> bool:
        return self.stat.startswith("Z") and not self.first_thread_dead

    @property
    def traced(self) -> bool:
        """Stopped by a debugger: Linux prints `t`, macOS adds an X (`TX`)."""
        return self.stat.startswith("t") or "X" in self.stat

    @property
    def stopped(self) -> bool:
        return self.stat.startswith("T") and not self.traced

    @property
    def kernel_thread(self) -> bool:
        """Linux: a child of kthreadd, or itself, without memory; its name is in brackets."""
        return self.rss_kib == 0 and self.parent in (0, 2) and self.command.startswith(b"[")


def parse(output: bytes) -> list[Row]:
    """The rows of ps's output. A line that is not one is passed over: argv may hold anything, and ps may be cut off."""
    rows = []
    for line in output.split(b"\n"):
        fields = line.split(None, _FIELDS)
        if len(fields) < _FIELDS:
            continue
        try:
            pid, parent, uid, rss = int(fields[0]), int(fields[1]), int(fields[2]), int(fields[9])
            started_at = _seconds(fields[5], fields[6], fields[7], fields[8])
        except (ValueError, KeyError):
            continue
        if 0 < pid < _PID_MAX:
            command = fields[10][:LOOKED_AT] if len(fields) > _FIELDS else b""
            rows.append(Row(pid, parent, uid, fields[3].decode("ascii", "replace"), started_at, rss, command))
    return rows


def _seconds(month: bytes, day: bytes, clock: bytes, year: bytes) -> int:
    hour, minute, second = (int(part) for part in clock.split(b":"))
    return calendar.timegm((int(year), _MONTHS[month.decode("ascii")], int(day), hour, minute, second))
