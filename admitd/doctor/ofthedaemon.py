"""ofthedaemon: checks of the daemon: there, of this version, on its port, kept running; and of whom it may signal."""

from __future__ import annotations

import os
import shlex

from admitd import portowner
from admitd.core import respawn
from admitd.core.terms import Capacity
from admitd.doctor.finding import OWN, UNSEEN, Answering, Facts, Finding, fault, ok, warning

_MANAGERS = ("the systemd unit ", "the launchd job ", "the container ")


def daemon(facts: Facts) -> list[Finding]:
    """It answers, and is what this command is."""
    found = facts.answering
    if found is None:
        if facts.installed is not None:
            return ok(f"none answers on 127.0.0.1:{facts.port}, and one is installed (see supervisor)")
        if facts.capacity is not None and facts.capacity.sentinel.safelist:
            what = "no daemon runs: nobody wakes what is on the safelist"
            return [warning(what, facts.again("daemon", "install"))]
        wanted = facts.again("daemon", "install")
        return ok(f"no daemon runs: each command decides by itself; to have services looked after: {wanted}")
    if not found.ours:
        return [warning("no daemon runs on its port, where something else listens (see port)", _on_another(facts))]
    findings = []
    if found.version not in (None, facts.version):
        what = f"the daemon is version {found.version}, and this command {facts.version}"
        findings.append(fault(what, _anew(facts, found)))
    if found.problem is not None:
        findings.append(fault(f"the daemon is not well: {found.problem}", "admit events --since 1h"))
    if found.file is not None and facts.path is not None and not _same(found.file, facts.path):
        what = f"the daemon goes by {found.file}, and this command by {facts.path}"
        findings.append(warning(what, shlex.join(["admit", "doctor", "--config", found.file])))
    return findings or ok(f"a daemon of this version ({found.version}) answers on 127.0.0.1:{facts.port}")


def port(facts: Facts) -> list[Finding]:
    """Nobody else has taken it."""
    found = facts.answering
    if facts.installed is not None and facts.installed.holds(facts.port):
        return ok(f"127.0.0.1:{facts.port} is held for the installed daemon")
    if found is None:
        return ok(f"127.0.0.1:{facts.port} is free")
    if found.ours:
        return ok(f"127.0.0.1:{facts.port} is the daemon's")
    return [fault(portowner.taken(facts.port, found.pid, found.program), _on_another(facts))]


def keeper(facts: Facts) -> list[Finding]:
    """Something starts the daemon again."""
    found = facts.answering
    if found is not None and found.ours:
        if facts.keeper is not None and facts.keeper.name.startswith(_MANAGERS):
            return ok(f"{facts.keeper.name} keeps the daemon running")
        if facts.keeper == respawn.UNSEEN:
            what = "the daemon was started by hand, or by a job of the system's launchd, which this user cannot see"
            return [warning(what, "sudo launchctl list | grep admit")]
        what = "the daemon was started by hand: after a crash or a reboot nobody starts it again"
        return [warning(what, _after_it(found, facts.again("daemon", "install")))]
    state = facts.installed
    if state is None:
        return ok("no daemon is installed, and none runs")
    if not state.running:
        level = fault if state.failed else warning  # one that was stopped is as its user wants it
        return [level(f"the installed daemon does not run: {state.said}", "admit daemon start")]
    if state.port not in (None, facts.port):
        what = f"the installed daemon listens on port {state.port}, and this command asks on port {facts.port}"
        return [warning(what, f"export ADMIT_PORT={state.port}")]
    return [fault(f"the installed daemon is {state.said}, and does not answer", "admit daemon restart")]


def respawns(facts: Facts, declared: Capacity) -> list[Finding]:
    """Nothing starts a service again that was unloaded."""
    findings = []
    for name, supervisor in facts.supervisors.items():
        kept = supervisor.name.startswith(_MANAGERS) and supervisor.name not in OWN
        if kept and declared.services[name].unload_cmd is None:
            what = f"{name}: {supervisor.name} started it, and may start it again after an unload"
            findings.append(warning(what, _stopping(facts, name, supervisor.stop), name))
    return findings or ok("nothing is known to start a service again that was unloaded")


def _stopping(facts: Facts, name: str, stop: str | None) -> str | None:
    """The unload_cmd that stops it for good; none that would ask for a password, where nobody is to be asked."""
    if stop is None or stop.startswith("sudo "):
        return None
    return facts.again("service", "edit", name, f"unload_cmd={stop}")


def safelist(facts: Facts, declared: Capacity) -> list[Finding]:
    """What must keep running may be continued by this user."""
    if not declared.sentinel.safelist:
        return ok("the safelist is empty")
    if facts.look is None:
        return [warning(UNSEEN)]
    findings = []
    kept = set(declared.sentinel.safelist)
    foreign: dict[tuple[str, int], int] = {}
    for sighting in facts.look.sightings:
        entry = facts.safelisted.get(sighting.service, sighting.service)
        if entry in kept and facts.uid not in (0, sighting.process.uid):
            foreign.setdefault((entry, sighting.process.uid), sighting.process.id.pid)
    for (entry, uid), pid in foreign.items():
        what = f"safelist: {entry}: process {pid} belongs to uid {uid}, so that only that user or root can continue it"
        findings.append(warning(what, facts.by_hand))
    return findings or ok("what the safelist names may be signalled by this user")


def _anew(facts: Facts, found: Answering) -> str:
    """What starts the daemon anew. The installed one is its supervisor's to end: systemd goes on holding the port of
    one that was killed, and launchd leaves one alone that ended with 0. A unit of another name is not started anew: it
    may be a whole terminal's, in which somebody started the daemon by hand."""
    if facts.keeper is not None and facts.keeper.name in OWN:
        return "admit daemon restart"
    return _after_it(found, facts.again("daemon", "run"))


def _after_it(found: Answering, command: str) -> str:
    return f"kill {found.pid}; {command}" if found.pid else command


def _on_another(facts: Facts) -> str:
    return f"ADMIT_PORT={facts.port + (1 if facts.port < 65_535 else -1)} {facts.again('daemon', 'run')}"


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
