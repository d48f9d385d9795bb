"""ofpatterns: checks of what the patterns match: something, not each other, and the program rather than a mention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from admitd import patterns as regular
from admitd.core.terms import RAM, Capacity, Service, Sighting
from admitd.doctor.commandline import HANDS_OVER, engine_of, simple_commands
from admitd.doctor.finding import UNSEEN, Facts, Finding, fault, ok, warning
from admitd.processes.matching import Claim, Matcher


def table(facts: Facts) -> list[Finding]:
    """The process table can be seen, all of it."""
    if facts.look is None:
        return [
            fault(f"the process table can't be seen: {facts.cannot_see}", "ps -axww" if facts.mac else "ls -ld /proc/1")
        ]
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
            findings.append(warning(what, _another_pattern(facts, declared.services, name), name))
    return findings or ok("each pattern matches what runs, or what its load_cmd starts")


def overlaps(facts: Facts, declared: Capacity) -> list[Finding]:
    """No process is two services, and none is a service only because it mentions one."""
    if facts.look is None:
        return [warning(UNSEEN)]
    services = declared.services
    findings = []
    of_pid: dict[int, list[str]] = {}
    mentions: dict[str, list[Sighting]] = {}
    real: dict[str, set[str]] = {}
    for sighting in facts.look.sightings:
        if sighting.service not in services:
            continue
        if sighting.mention:
            mentions.setdefault(sighting.service, []).append(sighting)
        else:
            real.setdefault(sighting.service, set()).add(sighting.program)
            of_pid.setdefault(sighting.process.id.pid, []).append(sighting.service)
    pairs = {tuple(sorted(set(names))): pid for pid, names in of_pid.items() if len(set(names)) > 1}
    for names, pid in pairs.items():
        what = f"process {pid} is {' and '.join(names)} at once, and charged to each of them"
        findings.append(fault(what, _another_pattern(facts, services, *names), names[0]))
    matcher = _matcher_of(services)
    for name, service in services.items():
        others = [claim for claim in _claims_of_load(service, matcher, facts.environ) or () if claim.service != name]
        for claim in others:
            if not claim.mention and not claim.other_program and tuple(sorted((name, claim.service))) not in pairs:
                what = f"{claim.service}: its process_pattern matches what {name}'s load_cmd starts"
                findings.append(warning(what, _another_pattern(facts, services, claim.service), claim.service))
    for name, seen in mentions.items():
        who = ", ".join(f"{each.process.id.pid} ({each.program})" for each in seen[:3])
        mend = _its_program(facts, services[name], real.get(name, set()), seen)
        only = f"process {who} only mentions it" if name in real else f"only mentioned, by process {who}"
        findings.append(warning(f"{name}: {only}: charged, and never signalled", mend, name))
    return findings or ok("no process is two services, or charged for a mention")


def _its_program(facts: Facts, service: Service, running: set[str], mentions: Sequence[Sighting]) -> str:
    """The program that its own processes are, or that its load_cmd runs, if that leaves out what mentions it; else what
    shows the command lines. A name that is wrong would leave the running server uncharged."""
    names = running
    if not names:
        claims = _claims_of_load(service, _matcher_of({service.name: service}), facts.environ) or ()
        names = {each.program for each in claims if not each.mention and not each.other_program}
    lines = facts.look.lines if facts.look is not None else {}
    if service.program is None and len(names) == 1:
        (name,) = names
        narrowed = _matcher_of({service.name: replace(service, program=name)})
        told = [lines.get(each.process.id.pid) for each in mentions]
        if all(line is not None and not _are(narrowed, line) for line in told):
            return facts.again("service", "edit", service.name, f"program={name}")
    return facts.again("explain", service.name)


def _another_pattern(facts: Facts, services: Mapping[str, Service], *names: str) -> str:
    """A pattern that is right for one of these, where its load_cmd starts an engine that is known; else what shows
    which processes the first one's matches."""
    for name in names:
        service = services[name]
        draft = None if service.load_cmd is None else engine_of(service.load_cmd, facts.environ)
        for way in draft.ways if draft is not None else ():
            instead = replace(service, process_pattern=way.pattern, program=way.program)
            if instead != service and _is_right(facts, {**services, name: instead}, name):
                program = [f"program={way.program or ''}"] if way.program != service.program else []
                return facts.again("service", "edit", name, f"process_pattern={way.pattern}", *program)
    return facts.again("explain", names[0])


def _is_right(facts: Facts, services: Mapping[str, Service], name: str) -> bool:
    """Whether `name` would be what its load_cmd starts and nothing that another's does, and every process that is a
    service now would be exactly one."""
    try:
        matcher = _matcher_of(services)
    except regular.BadPattern:
        return False
    for other, service in services.items():
        claims = _claims_of_load(service, matcher, facts.environ) or ()
        started = {each.service for each in claims if not each.other_program}
        if (other == name) != (name in started) or (other == name and len(started) > 1):
            return False
    look = facts.look
    real = (
        {each.process.id.pid for each in look.sightings if not each.mention and each.service in services}
        if look
        else ()
    )
    return look is not None and all(len(_are(matcher, look.lines.get(pid, b""))) == 1 for pid in real)


def _are(matcher: Matcher, line: bytes) -> set[str]:
    """The services that are charged for a process with this command line."""
    judged = matcher.judge(line)
    return {each.service for each in judged.claims if not each.other_program} if judged is not None else set()


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
