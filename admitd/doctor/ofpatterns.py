"""ofpatterns: checks of what the patterns match: something, not each other, and the program rather than a mention."""

from __future__ import annotations

from collections.abc import Mapping

from admitd.core.terms import RAM, Capacity, Service
from admitd.doctor.commandline import HANDS_OVER, simple_commands
from admitd.doctor.finding import UNSEEN, Facts, Finding, fault, ok, warning
from admitd.processes.matching import Claim, Matcher


def table(facts: Facts) -> list[Finding]:
    """The process table can be seen, all of it."""
    if facts.look is None:
        return [fault(f"the process table can't be seen: {facts.cannot_see}", "ls -ld /proc/1")]
    if facts.look.warnings:
        return [warning(each, "grep hidepid /proc/mounts") for each in facts.look.warnings]
    hidden = [each for each in facts.look.unread if each.could_be_ours]
    if hidden:
        pids = ", ".join(str(each.process.pid) for each in hidden[:5])
        return [warning(f"{len(hidden)} processes did not show their command lines: {pids}", facts.again("doctor"))]
    return ok(f"{facts.look.count} processes seen")


def patterns(facts: Facts, declared: Capacity) -> list[Finding]:
    """Each pattern matches what runs, or at least what its own load_cmd starts."""
    if facts.look is None:
        return [warning(UNSEEN)]
    findings = []
    running = {sighting.service for sighting in facts.look.sightings}
    matcher = _matcher_of(declared.services)
    for name, service in declared.services.items():
        if service.process_pattern is None or name in running:
            continue
        claims = _claims_of_load(service, matcher, facts.environ)
        if claims is not None and not any(claim.service == name and not claim.other_program for claim in claims):
            what = f"{name}: its process_pattern matches no process, nor what its load_cmd starts"
            findings.append(warning(what, _another_pattern(facts, name), name))
    return findings or ok("each pattern matches what runs, or what its load_cmd starts")


def overlaps(facts: Facts, declared: Capacity) -> list[Finding]:
    """No process is two services, and none is a service only because it mentions one."""
    if facts.look is None:
        return [warning(UNSEEN)]
    services = declared.services
    findings = []
    of_pid: dict[int, list[str]] = {}
    mentions: dict[str, list[str]] = {}
    real = set()
    for sighting in facts.look.sightings:
        if sighting.service not in services:
            continue
        if sighting.mention:
            mentions.setdefault(sighting.service, []).append(f"{sighting.process.id.pid} ({sighting.program})")
        else:
            real.add(sighting.service)
            of_pid.setdefault(sighting.process.id.pid, []).append(sighting.service)
    pairs = {tuple(sorted(set(names))): pid for pid, names in of_pid.items() if len(set(names)) > 1}
    for names, pid in pairs.items():
        what = f"process {pid} is {' and '.join(names)} at once, and charged to each of them"
        findings.append(fault(what, _another_pattern(facts, names[0]), names[0]))
    matcher = _matcher_of(services)
    for name, service in services.items():
        others = [claim for claim in _claims_of_load(service, matcher, facts.environ) or () if claim.service != name]
        for claim in others:
            if not claim.mention and not claim.other_program and tuple(sorted((name, claim.service))) not in pairs:
                what = f"{claim.service}: its process_pattern matches what {name}'s load_cmd starts"
                findings.append(warning(what, _another_pattern(facts, claim.service), claim.service))
    for name, who in mentions.items():
        mend = facts.again("service", "edit", name, f"program={services[name].program or 'NAME'}")
        if name not in real:
            what = f"{name}: only mentioned, by process {', '.join(who[:3])}: charged, and never signalled"
            findings.append(warning(what, mend, name))
        else:
            what = f"{name}: process {', '.join(who[:3])} only mentions it: charged, and never signalled"
            findings.append(warning(what, mend, name))
    return findings or ok("no process is two services, or charged for a mention")


def _another_pattern(facts: Facts, name: str) -> str:
    return f"{facts.again('service', 'edit', name)} process_pattern='...'"


def _matcher_of(services: Mapping[str, Service]) -> Matcher:
    """The patterns alone: a load_cmd must not be recognised as such."""
    return Matcher(
        Service(name, {RAM: 1}, process_pattern=each.process_pattern, program=each.program)
        for name, each in services.items()
        if each.process_pattern is not None
    )


def _claims_of_load(service: Service, matcher: Matcher, environ: Mapping[str, str]) -> tuple[Claim, ...] | None:
    """What the patterns say of what a load_cmd starts; None where that can't be told from its text."""
    if service.load_cmd is None:
        return None
    found = simple_commands(service.load_cmd, environ)
    if not found or found[-1].argv[0].rsplit("/", 1)[-1] in HANDS_OVER or found[-1].argv[0].endswith(".sh"):
        return None
    judged = matcher.judge("\0".join(found[-1].argv).encode("utf-8", "surrogateescape") + b"\0")
    return judged.claims if judged is not None else ()
