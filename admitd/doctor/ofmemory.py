"""ofmemory: checks of amounts: the machine's memory and the file's, budgets and what was held, what Metal may wire."""

from __future__ import annotations

from typing import Final

from admitd.core import headroom, sizing
from admitd.core.ledger import FAR_BELOW, SETTLED_S, WORTH_TELLING
from admitd.core.terms import RAM, Capacity
from admitd.core.units import MIB, free_to_mb, to_mb
from admitd.doctor.finding import Facts, Finding, fault, ok, warning

NEAR: Final = 0.02
"""A kernel keeps a little for itself, more or less with each version."""
WIRED_LEAST: Final = 8192 * MIB
WIRED_SHARE: Final = 0.15
"""Of the machine; what must stay unwired is the larger of both."""


def memory(facts: Facts, declared: Capacity) -> list[Finding]:
    """The file's physical memory is the machine's, and the system says how much is left."""
    findings = []
    if facts.reading.problem is not None:
        findings.append(warning(f"the system does not say how much memory is left: {facts.reading.problem}"))
    if facts.physical is None:
        return [*findings, warning("the system does not say its memory")]
    said, found = declared.host.physical.get(RAM, 0), facts.physical
    differs = f"hosts.{declared.host.name}.ram_physical_mb is {to_mb(said)}, and this machine has {found // MIB} MB"
    if said > found * (1 + NEAR):
        findings.append(fault(f"{differs}: more would be admitted than there is", facts.by_hand))
    elif said < found * (1 - NEAR):
        findings.append(warning(f"{differs}: the rest is never used", facts.by_hand))
    return findings or ok(f"this machine has {found // MIB} MB, as the file says")


def budgets(facts: Facts, declared: Capacity) -> list[Finding]:
    """What was held is within the budget, and not far below it."""
    findings = []
    room = headroom.pool(declared.host).get(RAM, 0)
    for name, held in facts.held.items():
        budget = declared.services[name].budget.get(RAM, 0)
        said = f"{name} held {to_mb(held.most)} MB, and its budget is {to_mb(budget)} MB"
        if held.most > budget:
            fits = held.most <= room
            most = min(to_mb(sizing.budget(held.most)), free_to_mb(room))  # the file may not say more than the pool
            words = ("service", "edit", name, f"ram_budget_mb={most}") if fits else ("unload", name)
            mend = facts.again(*words)
            findings.append(fault(f"{said}: it takes room that others were promised", mend, name))
        elif (
            held.most < budget * FAR_BELOW
            and budget - held.most > WORTH_TELLING
            and held.age_s is not None
            and held.age_s >= SETTLED_S
        ):
            since = f"{held.age_s / 60:.0f} min"
            mend = facts.again("measure", name, "--for", "10m", "--write")
            findings.append(warning(f"{said}: in {since} it never came near; less would do", mend, name))
    return findings or ok(f"{len(facts.held)} loaded services hold what their budgets say, or less")


def wired(facts: Facts) -> list[Finding]:
    """Metal may not wire what the rest of the machine needs."""
    if not facts.mac:
        return ok("nothing to look at: only macOS wires memory for Metal")
    if facts.wired_limit is None or facts.physical is None:
        return [warning("the system does not say its limit (sysctl iogpu.wired_limit_mb)")]
    if facts.wired_limit == 0:
        return ok("the system's own limit is in force (iogpu.wired_limit_mb is 0)")
    safe = facts.physical - max(WIRED_LEAST, round(facts.physical * WIRED_SHARE))
    if facts.wired_limit > safe:
        what = f"iogpu.wired_limit_mb is {facts.wired_limit // MIB}; above {safe // MIB} too little is left to the rest"
        return [fault(what, f"sudo sysctl iogpu.wired_limit_mb={max(0, safe // MIB)}")]
    return ok(f"iogpu.wired_limit_mb is {facts.wired_limit // MIB}, of {safe // MIB} that are safe")
