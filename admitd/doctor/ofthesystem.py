"""ofthesystem: checks of the clock, of the disk that the journal is written to, and of what a logout removes."""

from __future__ import annotations

import shlex
from typing import Final

from admitd.core.units import MIB
from admitd.doctor.finding import Facts, Finding, fault, ok, warning

BUILT: Final = 1_763_683_200.0
"""2025-11-21, before any of this was written: a clock that says less has never been set."""
LEEWAY_S: Final = 60.0
DISK_FULL: Final = 16 * MIB
DISK_LOW: Final = 512 * MIB


def clock(facts: Facts) -> list[Finding]:
    """It has been set, and nothing was written in its future."""
    if facts.now < BUILT:
        return [warning("the clock says a time before this program was written", "date")]
    written = (
        ("the newest entry of the journal is", facts.newest_entry),
        ("capacity.yaml was changed", facts.file_changed),
    )
    for what, at in written:
        if at is not None and at > facts.now + LEEWAY_S:
            return [warning(f"{what} {at - facts.now:.0f} s in the future: the clock was set back", "date")]
    return ok("the clock goes forward")


def disk(facts: Facts) -> list[Finding]:
    """The journal can be read and written, and there is room for it."""
    if facts.journal_problem is not None:
        return [fault(f"the journal can't be read: {facts.journal_problem}", f"ls -l {shlex.quote(facts.journal)}")]
    if facts.journal_closed is not None:
        what = f"{facts.journal} can't be written, so that nobody remembers what was done; set XDG_STATE_HOME"
        return [warning(f"{what} to a folder that you may write to", f"ls -ld {shlex.quote(facts.journal_closed)}")]
    if facts.disk_free is None:
        return [warning(f"nobody says how much room is left for {facts.journal}")]
    free = f"{facts.disk_free // MIB} MB are free for {facts.journal}"
    if facts.disk_free < DISK_FULL:
        return [fault(f"{free}: what is done can't be written down", "df -h")]
    if facts.disk_free < DISK_LOW:
        return [warning(f"{free}: soon nothing can be written down", "df -h")]
    return ok(free)


def logout(facts: Facts) -> list[Finding]:
    """What is reserved stays so when its user logs out."""
    found = facts.logout
    if found is None:
        return ok("no logout removes reservations")
    what = f"when {found.user} logs out, systemd-logind removes the reservations of what runs on outside of the session"
    what += f" (a system unit, cron), and others are promised that room: RemoveIPC= is on ({found.by})"
    return [warning(what, shlex.join(["loginctl", "enable-linger", found.user]))]
