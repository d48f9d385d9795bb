"""doctor: every check of `admit doctor`, in the order in which they are shown; docs/doctor.md explains each."""

from __future__ import annotations

from typing import Final

from admitd.doctor import ofcaches, ofmemory, ofpatterns, ofthedaemon, ofthefile, ofthesystem
from admitd.doctor.finding import Check, Facts, FileCheck, Finding

CHECKS: Final = (
    Check("file", "capacity.yaml is there, and nothing in it is wrong", ofthefile.file),
    Check("rights", "nobody else may write to it, to the token, or to the folders of admit", ofthefile.rights),
    FileCheck("commands", "the programs and folders that its commands name are there", ofthefile.commands),
    FileCheck("notify", "whoever is to be told can be told", ofthefile.notifying),
    Check("processes", "the process table can be seen", ofpatterns.table),
    FileCheck("patterns", "each pattern matches what runs, or what its load_cmd starts", ofpatterns.patterns),
    FileCheck("overlaps", "no process is two services, or charged because it mentions one", ofpatterns.overlaps),
    FileCheck("memory", "the file's physical memory is the machine's", ofmemory.memory),
    FileCheck("budgets", "what loaded services held is within their budgets, and not far below", ofmemory.budgets),
    FileCheck("caches", "no server keeps prompts without a limit", ofcaches.caches),
    Check("wired", "Metal may not wire more than is safe (macOS)", ofmemory.wired),
    FileCheck("respawns", "nothing starts a service again that was unloaded", ofthedaemon.respawns),
    FileCheck("safelist", "what must keep running may be signalled by this user", ofthedaemon.safelist),
    Check(
        "daemon",
        "the daemon that answers is well, and of this version; there is one where the safelist needs it",
        ofthedaemon.daemon,
    ),
    Check("port", "nobody else has taken its port", ofthedaemon.port),
    Check("supervisor", "something starts the daemon again, where there is one", ofthedaemon.keeper),
    Check("clock", "the clock was set, and not set back", ofthesystem.clock),
    Check("disk", "the journal can be read and written, and there is room for it", ofthesystem.disk),
    Check("logout", "no logout removes the reservations of what runs on (Linux)", ofthesystem.logout),
)


def examine(facts: Facts) -> list[tuple[Check | FileCheck, Finding]]:
    """What every check says, in order; without a good file, every check that needs none."""
    return [(check, finding) for check in CHECKS for finding in _run(check, facts)]


def left_out(facts: Facts) -> list[str]:
    """The checks that could not be made, because there is no good file."""
    return [each.name for each in CHECKS if isinstance(each, FileCheck)] if facts.capacity is None else []


def _run(check: Check | FileCheck, facts: Facts) -> list[Finding]:
    if isinstance(check, Check):
        return check.run(facts)
    return [] if facts.capacity is None else check.run(facts, facts.capacity)
